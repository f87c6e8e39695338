// Attention of the GPU over many tiles and many runs of pages.
#include <gtest/gtest.h>

#include <cmath>

#include <array>
#include "kernels/backend.h"
#include "tests/kernels/cuda_support.h"
#include "tests/kernels/synthetic.h"

namespace apud {
namespace {

using test::Cuda;
using test::DecoderShape;
using test::gpu;
using test::ids;
using test::Runner;

/// Tiles of queries and keys that are whole, partial, on the diagonal, behind a window and on a
/// cached prefix, in the widths that Hopper's own loop takes and in one that it leaves to the
/// other.
TEST_F(Cuda, PrefillOverManyTiles) {
  for (int dim : {32, 64, 128, 96})
    for (WeightType type : {WeightType::kF16, WeightType::kBF16}) {
      DecoderShape s;
      s.heads = {4, 2, dim};
      s.window = 200;
      s.types = {type};
      auto m = test::synthetic_decoder(s);
      auto e = gpu(*m, false, 1024);
      auto reference = make_reference_executor(m->program, m->weights);
      Runner want(*reference, 2, 1024, KvType::kF32);
      Runner got(*e, 2, 1024, e->default_kv_type());
      int seed = 50;
      for (auto [a, b] : {std::pair{640, 130}, {300, 9}, {1, 400}}) {
        std::vector<std::pair<int, std::vector<int32_t>>> parts;
        parts.push_back({0, ids(a, ++seed)});
        parts.push_back({1, ids(b, ++seed)});
        EXPECT_LT(test::relative_error(got.step(parts), want.step(parts)),
                  type == WeightType::kBF16 ? 2e-2 : 4e-3)
            << dim << " wide, " << a << " and " << b << " tokens, " << weight_type_name(type);
      }
    }
}

/// More tiles and heads than blocks are resident, so that each takes several in turn, against
/// chunks that have a block for each.
TEST_F(Cuda, BlocksOfPrefillStayForSeveralTiles) {
  for (int dim : {32, 64, 128}) {
    DecoderShape s;
    s.heads = {32, 8, dim};
    s.window = 200;
    s.types = {WeightType::kF16};
    auto m = test::synthetic_decoder(s);
    auto e = gpu(*m, false, 2304);
    Runner whole(*e, 2, 1152, e->default_kv_type()), chunks(*e, 2, 1152, e->default_kv_type());
    const std::vector<std::vector<int32_t>> tokens = {ids(1100, dim), ids(1000, dim + 1)};
    std::vector<float> want;
    for (int i = 0; i < 2; ++i) {
      std::vector<float> last;
      for (size_t at = 0; at < tokens[i].size(); at += 128) {
        const auto from = tokens[i].begin() + static_cast<long>(at);
        const size_t n = std::min<size_t>(128, tokens[i].size() - at);
        last = chunks.step({{i, {from, from + static_cast<long>(n)}}});
      }
      want.insert(want.end(), last.begin(), last.end());
    }
    EXPECT_LT(test::relative_error(whole.step({{0, tokens[0]}, {1, tokens[1]}}), want), 4e-3)
        << dim << " wide";
  }
}

/// A long row over pages that were read in, by decode's kernels alone, several tokens and single
/// ones: two runs give equal bits, whatever lies behind the row's end.
TEST_F(Cuda, LongRowsByDecodeAlone) {
  DecoderShape s;
  s.layers = 1;
  s.heads = {16, 8, 128};
  s.types = {WeightType::kQ4_K, WeightType::kQ6_K};
  auto m = test::synthetic_decoder(s);
  const int cached = 1103, tokens = 1152;
  std::vector<float> first;
  for (uint16_t behind : {0x0000, 0xffff}) {  // a NaN
    auto e = gpu(*m);
    Runner r(*e, 1, tokens, KvType::kF16);
    std::mt19937 g(5);
    for (int page = 0; page < tokens / kKvPageTokens; ++page) {
      // K of every head, then V of every head: (64, dim).
      std::vector<uint16_t> values(r.kv->page_bytes(0) / 2);
      for (size_t i = 0; i < values.size(); ++i) {
        const int token = page * kKvPageTokens + static_cast<int>(i / 128 % kKvPageTokens);
        const auto bits = static_cast<uint16_t>(g());
        values[i] = token < cached ? (bits & 0x83ff) | 0x3800 : behind;  // +-[0.5, 1)
      }
      r.kv->import_page(0, r.pages[0][page], std::as_bytes(std::span(values)));
    }
    r.position[0] = cached;
    auto out = r.step({{0, ids(8, 3)}});
    for (int t = 0; t < 5; ++t) {
      auto more = r.step({{0, {t}}});
      out.insert(out.end(), more.begin(), more.end());
    }
    EXPECT_TRUE(std::all_of(out.begin(), out.end(), [](float v) { return std::isfinite(v); }));
    if (first.empty())
      first = out;
    else
      EXPECT_TRUE(first == out);
  }
}

class CudaDecode : public Cuda, public testing::WithParamInterface<int> {};

/// The last of many tokens, decoded, against the same in prefill: contexts that are cut into few
/// and many runs, merged by clusters and by a kernel, alone and beside a short one.
// Rows of a step that have more runs than the card holds blocks give a block two, three or all of
// them; a head's bits are those of the row alone, whose runs are a cluster.
TEST_F(Cuda, RowsOfAStepAttendAsTheyDoAlone) {
  const std::vector<int> lengths = {640, 1, 1023, 130, 900, 257, 517, 300};
  const int most = static_cast<int>(lengths.size());
  for (auto [heads, kv, dim, window] : {std::array{32, 32, 64, 0},
                                        {32, 32, 96, 0},
                                        {32, 8, 128, 0},
                                        {64, 8, 64, 0},
                                        {32, 32, 128, 200},
                                        {16, 16, 256, 0}}) {
    DecoderShape s;
    s.layers = window > 0 ? 2 : 1;
    s.heads = {heads, kv, dim};
    s.window = window;
    s.types = {WeightType::kF16};
    auto m = test::synthetic_decoder(s);
    auto e = gpu(*m, false, 1024);
    for (KvType type : {KvType::kF16, KvType::kI8}) {
      Runner r(*e, most, 1088, type);
      std::vector<std::vector<float>> alone(most);
      for (int i = 0; i < most; ++i) {
        r.step({{i, ids(lengths[i], i)}});
        alone[i] = r.step({{i, {7 * i + 1}}});
      }
      for (int count : {2, 3, 5, most}) {
        Runner::Parts parts;
        for (int i = 0; i < count; ++i) {
          r.position[i] = lengths[i];
          parts.push_back({i, {7 * i + 1}});
        }
        const std::vector<float> got = r.step(parts);
        for (int i = 0; i < count; ++i)
          EXPECT_TRUE(std::equal(alone[i].begin(), alone[i].end(), got.begin() + i * s.vocab))
              << heads << "/" << kv << " x " << dim << ", row " << i << " of " << count;
      }
    }
  }
}

TEST_P(CudaDecode, OverManyRuns) {
  const int n = GetParam();
  for (auto [heads, kv, dim] :
       {std::array{8, 8, 32}, {16, 8, 128}, {40, 5, 64}, {9, 9, 96}, {8, 8, 256}, {4, 2, 128}}) {
    DecoderShape s;
    s.layers = 1;
    s.heads = {heads, kv, dim};
    s.types = {WeightType::kF16};
    auto m = test::synthetic_decoder(s);
    auto e = gpu(*m, false, 8192);
    for (KvType type : {KvType::kF16, KvType::kI8}) {
      Runner r(*e, 3, 7744, type);
      auto tokens = ids(n, n);
      auto all = r.step({{0, tokens}});
      r.step({{1, std::vector<int32_t>(tokens.begin(), tokens.end() - 1)}});
      // 1,000 tokens are cut into few runs or many as the longest row of the step commands.
      for (int neighbour : {70, 1000}) {
        r.position[1] = n - 1;
        r.position[2] = 0;
        r.step({{2, ids(neighbour, 4)}});
        auto both = r.step({{1, {tokens.back()}}, {2, {5}}});
        const std::vector<float> first(both.begin(), both.begin() + static_cast<long>(all.size())),
            second(both.begin() + static_cast<long>(all.size()), both.end());
        EXPECT_LT(test::relative_error(first, all), type == KvType::kI8 ? 4e-2 : 4e-3)
            << heads << "/" << kv << " x " << dim;
        r.position[1] = n - 1;
        EXPECT_TRUE(r.step({{1, {tokens.back()}}}) == first) << "alone";
        r.position[2] = neighbour;
        EXPECT_TRUE(r.step({{2, {5}}}) == second) << "its neighbour alone";
      }
    }
  }
}
// One test a length: the sanitizers' tools finish the short ones in minutes.
INSTANTIATE_TEST_SUITE_P(Tokens, CudaDecode, testing::Values(500, 1100, 2111, 4700, 7681));

}  // namespace
}  // namespace apud
