// What the tests of the CUDA executor share: the fixture that skips without a device, executors,
// and sequences that run through one.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/synthetic.h"

namespace apud::test {

/// Every kernel at the smallest shapes that reach it: compute-sanitizer's tools, which make a
/// kernel a hundred times slower, are to end (scripts/gpu-sanitize).
inline bool small() { return std::getenv("APUD_TEST_SMALL") != nullptr; }

class Cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string reason = cuda_unavailable_reason();
    if (!reason.empty()) GTEST_SKIP() << "no CUDA device: " << reason;
  }
};

inline std::unique_ptr<Executor> gpu(const Synthetic& m, bool deterministic = false,
                                     int max_tokens = 512) {
  CudaOptions options;
  options.deterministic = deterministic;
  options.max_step_tokens = max_tokens;
  auto e = make_cuda_executor(m.program, m.weights, options);
  EXPECT_EQ(e->name().substr(0, 7), "cuda-sm");
  return e;
}

/// Runs sequences through an executor: each entry of `steps` gives the tokens that every sequence
/// adds.
struct Runner {
  Executor& e;
  std::unique_ptr<KvStore> kv;
  std::vector<std::vector<int32_t>> pages;  // by sequence; scattered
  std::vector<int> position;
  Runner(Executor& executor, int sequences, int max_tokens, KvType type) : e(executor) {
    const Program& p = e.program();
    int blocks = (max_tokens + 63) / 64;
    std::vector<int> count(p.kv_groups.size(), sequences * blocks);
    kv = e.make_kv(count, type);
    for (int s = 0; s < sequences; ++s) {
      std::vector<int32_t> list;
      for (int b = 0; b < blocks; ++b)
        list.push_back((b * sequences + s) * 7 % (sequences * blocks));
      pages.push_back(list);
      position.push_back(0);
    }
    // A permutation however the numbers fall.
    std::vector<int32_t> all(sequences * blocks);
    std::iota(all.begin(), all.end(), 0);
    std::mt19937 g(9);
    std::shuffle(all.begin(), all.end(), g);
    for (int s = 0; s < sequences; ++s)
      for (int b = 0; b < blocks; ++b) pages[s][b] = all[s * blocks + b];
  }
  using Parts = std::vector<std::pair<int, std::vector<int32_t>>>;
  /// Logits of the last token of each listed sequence.
  std::vector<float> step(const Parts& parts) {
    std::vector<float> out(parts.size() * e.program().values[e.program().result].cols);
    with_batch(parts, [&](const Batch& batch) { e.run(batch, kv.get(), out); });
    return out;
  }
  /// The likeliest token after each listed sequence.
  std::vector<int32_t> draw(const Parts& parts) {
    std::vector<SamplingRow> rows(parts.size());
    std::vector<SampledToken> drawn(parts.size());
    with_batch(parts, [&](const Batch& b) { e.run_sampled(b, kv.get(), rows, drawn); });
    std::vector<int32_t> ids;
    for (const SampledToken& t : drawn) ids.push_back(t.id);
    return ids;
  }
  template <typename Run>
  void with_batch(const Parts& parts, Run&& run) {
    std::vector<int32_t> tokens, rows;
    std::vector<SequenceSlice> slices;
    for (auto& [s, ids] : parts) {
      SequenceSlice slice{
          static_cast<int>(tokens.size()), static_cast<int>(ids.size()), position[s], {}};
      for (size_t g = 0; g < e.program().kv_groups.size(); ++g) slice.pages[g] = pages[s];
      slices.push_back(slice);
      tokens.insert(tokens.end(), ids.begin(), ids.end());
      rows.push_back(static_cast<int>(tokens.size()) - 1);
      position[s] += static_cast<int>(ids.size());
    }
    run(Batch{tokens, slices, rows});
  }
};

inline std::vector<int32_t> ids(int n, int seed) {
  std::mt19937 g(seed);
  std::vector<int32_t> v(n);
  for (int32_t& t : v) t = static_cast<int32_t>(g() % 300);
  return v;
}

}  // namespace apud::test
