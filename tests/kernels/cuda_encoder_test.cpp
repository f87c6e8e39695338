// Encoders on the GPU against the reference, and many rows against few.
#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "tests/kernels/cuda_support.h"
#include "tests/kernels/synthetic.h"

namespace apud {
namespace {

using test::Cuda;
using test::EncoderShape;
using test::gpu;
using test::ids;
using test::small;

TEST_F(Cuda, Encoders) {
  for (WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16})
    for (auto [heads, dim] : {std::pair{3, 32}, {2, 64}, {1, 128}})
      for (PoolKind pool : {PoolKind::kMean, PoolKind::kFirst, PoolKind::kLast}) {
        // One type and one way to pool a width.
        if (small() && (32 << static_cast<int>(pool) != dim || 32 << static_cast<int>(type) != dim))
          continue;
        EncoderShape s;
        s.heads = {heads, heads, dim};
        s.type = type;
        s.pool = pool;
        s.window = dim == 64 ? 24 : 0;
        auto m = test::synthetic_encoder(s);
        std::vector<int32_t> tokens;
        std::vector<SequenceSlice> slices;
        for (int n : {1, 7, 64, 130, 33}) {
          slices.push_back({static_cast<int>(tokens.size()), n, 0, {}});
          auto more = ids(n, n);
          tokens.insert(tokens.end(), more.begin(), more.end());
        }
        std::vector<float> want(5 * s.width), got(want.size());
        make_reference_executor(m->program, m->weights)->run({tokens, slices, {}}, nullptr, want);
        auto e = gpu(*m);
        e->run({tokens, slices, {}}, nullptr, got);
        EXPECT_LT(test::relative_error(got, want), type == WeightType::kBF16 ? 2e-2 : 3e-3)
            << weight_type_name(type) << " " << heads << "x" << dim;
        // A short text's step is run, then captured, then replayed.
        std::vector<float> plain[2], one(s.width);
        for (int round = 0; round < 4; ++round) {
          auto text = ids(33, round % 2);
          SequenceSlice slice{0, 33, 0, {}};
          e->run({text, std::span(&slice, 1), {}}, nullptr, one);
          if (round == 0) plain[0] = one;
          if (round == 1) {
            plain[1].resize(s.width);
            gpu(*m)->run({text, std::span(&slice, 1), {}}, nullptr, plain[1]);
          }
          EXPECT_TRUE(one == plain[round % 2]) << "round " << round;
        }
      }
}

TEST_F(Cuda, ShortTextsOfAnEncoder) {
  // Alone in a step and of up to 64 tokens: products of few rows, in one, two and four tiles.
  for (WeightType type : {WeightType::kF16, WeightType::kBF16})
    for (int width : {96, 136, 384, 768}) {  // odd: heads of 34 do not fit, so 136 has 8.5 chunks
      if (small() && (type == WeightType::kF16) != (width == 136)) continue;
      EncoderShape s;
      s.width = width;
      s.heads = width == 136 ? HeadShape{17, 17, 8} : HeadShape{width / 32, width / 32, 32};
      s.ffn = width == 136 ? 264 : 4 * width;
      s.type = type;
      auto m = test::synthetic_encoder(s);
      auto e = gpu(*m);
      auto reference = make_reference_executor(m->program, m->weights);
      for (int n : {1, 9, 16, 17, 32, 33, 64}) {
        if (small() && n % 16 == 0) continue;
        auto text = ids(n, n);
        SequenceSlice slice{0, n, 0, {}};
        std::vector<float> want(width), got(width);
        reference->run({text, std::span(&slice, 1), {}}, nullptr, want);
        for (int round = 0; round < 3; ++round) {  // run, captured, replayed
          e->run({text, std::span(&slice, 1), {}}, nullptr, got);
          EXPECT_LT(test::relative_error(got, want), type == WeightType::kBF16 ? 2e-2 : 3e-3)
              << weight_type_name(type) << " width " << width << ", " << n << " tokens";
        }
      }
    }
}

TEST_F(Cuda, ManyRowsOfAnEncoder) {
  // More than 2,048 rows of width 384 go through products of our own where the card has them;
  // fewer, which Encoders compares with the reference, do not.
  for (WeightType type : {WeightType::kF16, WeightType::kBF16}) {
    EncoderShape s;
    s.width = 384;
    s.layers = small() ? 1 : 2;
    s.heads = {12, 12, 32};
    s.ffn = 576;
    s.type = type;
    auto m = test::synthetic_encoder(s);
    auto e = gpu(*m, false, 8192);
    std::vector<int32_t> tokens;
    std::vector<SequenceSlice> slices;
    std::vector<float> want;
    // 5,322: the last tile is not full, and attention's blocks stay for three items; 2,112: for
    // two.
    std::vector<int> lengths = {500, 41,  512, 7,   500, 300, 511, 290,
                                512, 500, 9,   290, 500, 511, 300, 39};
    if (small()) lengths = {290, 290, 290, 290, 290, 290, 290, 41, 41};
    for (int n : lengths) {
      auto more = ids(n, n);
      SequenceSlice alone{0, n, 0, {}};
      std::vector<float> one(s.width);
      e->run({more, std::span(&alone, 1), {}}, nullptr, one);
      want.insert(want.end(), one.begin(), one.end());
      slices.push_back({static_cast<int>(tokens.size()), n, 0, {}});
      tokens.insert(tokens.end(), more.begin(), more.end());
    }
    std::vector<float> got(want.size()), again(want.size());
    e->run({tokens, slices, {}}, nullptr, got);
    e->run({tokens, slices, {}}, nullptr, again);
    EXPECT_TRUE(got == again);
    EXPECT_LT(test::relative_error(got, want), type == WeightType::kBF16 ? 1e-2 : 1.5e-3)
        << weight_type_name(type);
  }
}

TEST_F(Cuda, RowsOfAnEncoderWithoutItsPooling) {
  EncoderShape s;
  s.heads = {3, 3, 32};
  s.type = WeightType::kF16;
  auto m = test::synthetic_encoder(s);
  const Program rows = *unpooled(m->program);
  std::vector<int32_t> tokens, wanted;
  std::vector<SequenceSlice> slices;
  for (int n : {1, 7, 64, 130, 33}) {
    slices.push_back({static_cast<int>(tokens.size()), n, 0, {}});
    auto more = ids(n, n);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  for (size_t t = 0; t < tokens.size(); ++t) wanted.push_back(static_cast<int32_t>(t));
  std::vector<float> want(tokens.size() * s.width), got(want.size());
  make_reference_executor(rows, m->weights)->run({tokens, slices, wanted}, nullptr, want);
  make_cuda_executor(rows, m->weights, {})->run({tokens, slices, wanted}, nullptr, got);
  EXPECT_LT(test::relative_error(got, want), 3e-3);
}

}  // namespace
}  // namespace apud
