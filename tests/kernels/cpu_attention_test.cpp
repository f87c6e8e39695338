// Attention of every path against plain sums in double: rows whose maximum rises from block to
// block, by little and by much, whose first keys lie outside their window, and values of every
// sign; on all kinds of caches.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"

namespace apud {
namespace {

constexpr int kDim = 64, kRows = 37, kKeys = 5 * kKvPageTokens + 20;

using Matrix = std::vector<std::vector<float>>;

Matrix random_rows(std::mt19937& g, int rows) {
  std::normal_distribution<float> normal;
  Matrix m(static_cast<size_t>(rows), std::vector<float>(kDim));
  for (auto& row : m) {
    for (float& x : row) x = normal(g);
  }
  return m;
}

std::vector<float> expected(const std::vector<float>& q, const Matrix& keys, const Matrix& values,
                            int low, int high, float cap) {
  std::vector<double> scores;
  double top = -INFINITY;
  for (int j = low; j < high; ++j) {
    double s = 0;
    for (size_t d = 0; d < kDim; ++d)
      s += static_cast<double>(q[d]) * keys[static_cast<size_t>(j)][d];
    if (cap > 0) s = cap * std::tanh(s / cap);
    scores.push_back(s);
    top = std::max(top, s);
  }
  double sum = 0;
  std::vector<double> out(kDim);
  for (int j = low; j < high; ++j) {
    const double p = std::exp(scores[static_cast<size_t>(j - low)] - top);
    sum += p;
    for (size_t d = 0; d < kDim; ++d) out[d] += p * values[static_cast<size_t>(j)][d];
  }
  std::vector<float> result;
  for (double x : out) result.push_back(static_cast<float>(x / sum));
  return result;
}

class CpuAttention : public ::testing::TestWithParam<CpuIsa> {};

TEST_P(CpuAttention, RowsWhoseMaximumRisesFromBlockToBlock) {
  const cpu::Kernels& kernels = cpu::kernels_of(GetParam());
  std::mt19937 g(5);
  Matrix q = random_rows(g, kRows), keys = random_rows(g, kKeys), values = random_rows(g, kKeys);
  // Later keys lie nearer to the first query and its like, so that scores there rise by 3 or by 30
  // a block; those of other rows stay.
  for (int r = 0; r < kRows; ++r) {
    const float share = r % 3 == 0 ? 0.0F : r % 3 == 1 ? 0.2F : 2.0F;
    for (size_t d = 0; d < kDim; ++d) {
      float& x = q[static_cast<size_t>(r)][d];
      x = 0.2F * x + share * (d % 2 == 0 ? 1.0F : -1.0F) * 0.25F;
    }
  }
  for (int j = 0; j < kKeys; ++j) {
    for (size_t d = 0; d < kDim; ++d) {
      keys[static_cast<size_t>(j)][d] +=
          static_cast<float>(j / kKvPageTokens) * (d % 2 == 0 ? 1.0F : -1.0F);
    }
  }
  for (KvType type : {KvType::kF16, KvType::kBF16, KvType::kI8, KvType::kF32}) {
    cpu::AttentionArgs args;
    args.layout = cpu::kv_head_layout(type, kDim);
    const int blocks = (kKeys + kKvPageTokens - 1) / kKvPageTokens;
    // What no key was written to may be anything.
    std::vector<std::byte> kv(args.layout.bytes * static_cast<size_t>(blocks) + 64,
                              std::byte{0xff});
    auto* base =
        reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(kv.data()) + 63) / 64 * 64);
    std::vector<const std::byte*> block;
    for (int b = 0; b < blocks; ++b)
      block.push_back(base + args.layout.bytes * static_cast<size_t>(b));
    for (int j = 0; j < kKeys; ++j) {
      kernels.store_kv(args.layout,
                       base + args.layout.bytes * static_cast<size_t>(j / kKvPageTokens),
                       j % kKvPageTokens, keys[static_cast<size_t>(j)].data(),
                       values[static_cast<size_t>(j)].data());
    }
    Matrix out(kRows, std::vector<float>(kDim));
    std::vector<const float*> q_rows;
    std::vector<float*> out_rows;
    std::vector<int> low, high;
    for (int r = 0; r < kRows; ++r) {
      q_rows.push_back(q[static_cast<size_t>(r)].data());
      out_rows.push_back(out[static_cast<size_t>(r)].data());
      low.push_back(r % 5 == 4 ? 70 + r : 0);
      high.push_back(r % 2 == 0 ? kKeys : kKeys - 40 + r);
      if (high.back() > kKeys) high.back() = kKeys;
    }
    std::vector<float> scratch(cpu::attention_scratch_floats(kRows, kDim));
    args.blocks = block.data();
    args.end_block = blocks;
    args.rows = kRows;
    args.q = q_rows.data();
    args.out = out_rows.data();
    args.low = low.data();
    args.high = high.data();
    args.scratch = scratch.data();
    for (float cap : {0.0F, 20.0F}) {
      args.softcap = cap;
      kernels.attend(args);
      // Scores are as large as 60, so that int8 keys are off by some tenths of one, and on tiles
      // two numbers of bfloat16 by 3e-4.
      const float tolerance = type == KvType::kI8     ? 0.25F
                              : type == KvType::kBF16 ? 0.06F
                              : type == KvType::kF16  ? 0.02F
                                                      : 5e-4F;
      for (int r = 0; r < kRows; ++r) {
        const auto at = static_cast<size_t>(r);
        std::vector<float> want = expected(q[at], keys, values, low[at], high[at], cap);
        double error = 0, norm = 0;
        for (size_t d = 0; d < kDim; ++d) {
          error += (out[at][d] - want[d]) * (out[at][d] - want[d]);
          norm += want[d] * want[d];
        }
        EXPECT_LT(std::sqrt(error / norm), tolerance)
            << "row " << r << ", cache " << static_cast<int>(type) << ", soft cap " << cap;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, CpuAttention, ::testing::ValuesIn(available_cpu_isas()),
                         [](const auto& info) { return std::string(cpu_isa_name(info.param)); });

}  // namespace
}  // namespace apud
