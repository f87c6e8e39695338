// Real models on the default CPU path against the reference executor, on bilingual text.
//
// Perplexity of a few hundred tokens moves by some 0.1 % with any rounding at all, so its limit
// has the paired standard error on top; the mean divergence of the distributions is smooth and
// catches what the perplexity of so short a text cannot.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "kernels/backend.h"
#include "models/model.h"
#include "tests/support/golden.h"
#include "tests/support/models.h"
#include "tests/support/one_sequence.h"

namespace apud {
namespace {

constexpr size_t kTokens = 256;
constexpr double kPerplexityDrift = 0.002;

// Log-probabilities of the whole vocabulary after each token.
std::vector<float> log_probabilities(Executor& e, std::span<const int32_t> ids) {
  size_t n = ids.size();
  auto vocab =
      static_cast<size_t>(e.program().values[static_cast<size_t>(e.program().result)].cols);
  std::vector<float> out;
  test::run_one_sequence(e, ids, e.default_kv_type(), n,
                         [&](size_t, const std::vector<float>& logits, double) { out = logits; });
  for (size_t i = 0; i < n; ++i) {
    float* row = out.data() + i * vocab;
    double top = *std::max_element(row, row + vocab), sum = 0;
    for (size_t j = 0; j < vocab; ++j) sum += std::exp(row[j] - top);
    for (size_t j = 0; j < vocab; ++j) row[j] -= static_cast<float>(top + std::log(sum));
  }
  return out;
}

// `limit`: of the divergence in nats; a sixth above what the activations now give.
void check_drift(const std::string& name, double limit) {
  auto model = load_model(test::models_dir() / (name + ".gguf"));
  std::vector<int32_t> ids = test::GoldenLogits(name).ids;
  ids.resize(std::min(ids.size(), kTokens));
  auto want = log_probabilities(*make_reference_executor(model->program(), model->weights()), ids);
  auto fast = make_cpu_executor(model->program(), model->weights(), {});
  auto got = log_probabilities(*fast, ids);
  size_t vocab = want.size() / ids.size(), n = ids.size() - 1;
  double drift = 0, squares = 0, divergence = 0;
  for (size_t i = 0; i < n; ++i) {
    const float *p = want.data() + i * vocab, *q = got.data() + i * vocab;
    auto next = static_cast<size_t>(ids[i + 1]);
    double d = p[next] - q[next];
    drift += d;
    squares += d * d;
    for (size_t j = 0; j < vocab; ++j) divergence += std::exp(double{p[j]}) * (p[j] - q[j]);
  }
  auto count = static_cast<double>(n);
  drift /= count;
  divergence /= count;
  double error = std::sqrt(squares) / count;
  printf("%s on %s: log perplexity %+.5f (standard error %.5f), divergence %.6f\n", name.c_str(),
         fast->name().c_str(), drift, error, divergence);
  EXPECT_LT(std::abs(drift), kPerplexityDrift + 2 * error) << name;
  EXPECT_LT(divergence, limit) << name;
  EXPECT_GT(divergence, 0) << "the fast path must not be the reference";
}

TEST(Drift, SmolLM2) {
  APUD_REQUIRE_MODEL("smollm2-135m.gguf");
  check_drift("smollm2-135m", 0.0028);
}
TEST(Drift, Qwen25Coder05) {
  APUD_REQUIRE_MODEL("qwen2.5-coder-0.5b.gguf");
  check_drift("qwen2.5-coder-0.5b", 0.00072);
}

}  // namespace
}  // namespace apud
