// Steps of several rows of the CUDA executor, whose quantised products have kernels of their own
// for one to five and for up to eight rows: a row's bits are those that it has alone.
#include "tests/kernels/cuda_support.h"

namespace apud {
namespace {

using test::Cuda;
using test::DecoderShape;
using test::gpu;
using test::Runner;
using test::small;

/// Two tokens of eight sequences (or one), one after the other and in steps of 2 to 8 rows.
void expect_bits_of_rows_alone(const DecoderShape& shape, const std::string& what) {
  auto m = test::synthetic_decoder(shape);
  auto e = gpu(*m);
  const int most = 8, tokens = small() ? 1 : 2;
  std::vector<std::vector<float>> alone(most);
  for (int i = 0; i < most; ++i) {
    Runner r(*e, 1, 64, KvType::kF16);
    for (int t = 0; t < tokens; ++t) alone[i] = r.step({{0, {31 * i + 7 * t + 1}}});
  }
  for (int count : {2, 3, 4, 5, 6, 8}) {
    if (small() && count == 6) continue;
    Runner r(*e, most, 64, KvType::kF16);
    std::vector<float> got;
    for (int t = 0; t < tokens; ++t) {
      Runner::Parts parts;
      for (int i = 0; i < count; ++i) parts.push_back({i, {31 * i + 7 * t + 1}});
      got = r.step(parts);
    }
    for (int i = 0; i < count; ++i)
      EXPECT_TRUE(std::equal(alone[i].begin(), alone[i].end(), got.begin() + i * shape.vocab))
          << what << ", row " << i << " of " << count;
  }
}

TEST_F(Cuda, RowsOfAStepHaveTheBitsThatTheyHaveAlone) {
  using enum WeightType;
  for (WeightType type : {kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K}) {
    DecoderShape s;
    s.layers = 1;
    s.types = {type};
    expect_bits_of_rows_alone(s, std::string(weight_type_name(type)));
    if (small()) continue;
    s.width = 2400;  // 75 groups: parts of one and of two steps, the last one not full
    if (s.width % block_values(type) != 0) s.width = 2304;
    s.heads = {5, 5, 96};
    expect_bits_of_rows_alone(s, std::string(weight_type_name(type)) + ", wide");
  }
  // Float weights: rows in one, two and four parts, the last step not full.
  for (WeightType type : {kF16, kBF16, kF32})
    for (auto [width, ffn] : {std::pair{256, 512}, {1000, 2500}, {4096, 512}, {512, 11008}}) {
      if (small() && width > 256) continue;
      DecoderShape s;
      s.layers = 1;
      s.width = width;
      s.ffn = ffn;
      s.heads = {5, 1, 64};
      s.types = {type};
      expect_bits_of_rows_alone(s, std::string(weight_type_name(type)) + ", " +
                                       std::to_string(width) + " x " + std::to_string(ffn));
    }
  // Two types in one launch, pairs; rows in four parts, pairs in two, more tiles than blocks; many
  // heads: two tiles of either type at a time.
  for (auto [a, b] : {std::pair{kQ4_K, kQ6_K}, {kQ5_K, kQ6_K}, {kQ3_K, kQ5_K}, {kQ5_0, kQ8_0}})
    for (auto [width, ffn, heads, kv] : {std::array{512, 4096, 8, 4},
                                         {4096, 512, 8, 4},
                                         {2560, 9216, 8, 4},
                                         {1024, 512, 64, 32}}) {
      if (small() && width != 1024) continue;
      DecoderShape s;
      s.layers = 1;
      s.width = width;
      s.ffn = ffn;
      s.heads = {heads, kv, 64};
      s.types = {a, a, b, a, a, a, b};
      expect_bits_of_rows_alone(s, std::string(weight_type_name(a)) + " and " +
                                       std::string(weight_type_name(b)) + ", " +
                                       std::to_string(width) + " x " + std::to_string(ffn) + ", " +
                                       std::to_string(heads) + " heads");
    }
}

/// A step of a thousand rows and more has gate, up and SiLU in one kernel on Hopper: against each
/// sequence by itself, which has not. The last tiles of rows and of values are not full, a
/// cluster's second block has no rows, clusters take several tiles.
TEST_F(Cuda, GateAndUpInOneKernel) {
  for (WeightType type : {WeightType::kF16, WeightType::kBF16})
    for (auto [width, ffn, length] :
         {std::array{256, 512, 150}, {1000, 5120, 130}, {640, 384, 257}, {256, 2176, 130}}) {
      if (small() && ffn != 2176) continue;
      DecoderShape s;
      s.layers = 1;
      s.width = width;
      s.ffn = ffn;
      s.heads = {4, 2, 64};
      s.types = {type};
      auto m = test::synthetic_decoder(s);
      auto e = gpu(*m, false, 2560);
      constexpr int kSequences = 8;
      Runner together(*e, kSequences, 512, e->default_kv_type()),
          alone(*e, kSequences, 512, e->default_kv_type());
      Runner::Parts parts;
      std::vector<float> want;
      for (int i = 0; i < kSequences; ++i) {
        parts.push_back({i, test::ids(length + i, width + i)});
        const std::vector<float> one = alone.step({parts.back()});
        want.insert(want.end(), one.begin(), one.end());
      }
      EXPECT_LT(test::relative_error(together.step(parts), want),
                type == WeightType::kBF16 ? 2e-2 : 4e-3)
          << weight_type_name(type) << ", " << width << " x " << ffn;
    }
}

}  // namespace
}  // namespace apud
