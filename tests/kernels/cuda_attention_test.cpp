// Attention of the GPU over many tiles and many runs of pages.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

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
using test::small;

/// Tiles of queries and keys that are whole, partial, on the diagonal, behind a window and on a
/// cached prefix, in the widths that Hopper's own loop takes and in one that it leaves to the
/// other.
TEST_F(Cuda, PrefillOverManyTiles) {
  for (int dim : {32, 64, 128, 96})
    for (WeightType type : {WeightType::kF16, WeightType::kBF16}) {
      DecoderShape s;
      s.heads = {4, 2, dim};
      s.window = small() ? 50 : 200;
      s.types = {type};
      auto m = test::synthetic_decoder(s);
      auto e = gpu(*m, false, 1024);
      auto reference = make_reference_executor(m->program, m->weights);
      Runner want(*reference, 2, 1024, KvType::kF32);
      Runner got(*e, 2, 1024, e->default_kv_type());
      int seed = 50;
      for (auto [a, b] : {std::pair{640, 130}, {300, 9}, {1, 400}, {140, 9}, {1, 70}}) {
        if (small() != (a == 140 || b == 70)) continue;
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
    s.layers = small() ? 1 : 2;
    s.window = small() ? 0 : 200;
    s.types = {WeightType::kF16};
    auto m = test::synthetic_decoder(s);
    auto e = gpu(*m, false, 2304);
    std::vector<int> lengths = {1100, 1000};
    if (small()) lengths.assign(9, 33);
    const int sequences = static_cast<int>(lengths.size());
    Runner whole(*e, sequences, 1152, e->default_kv_type()),
        chunks(*e, sequences, 1152, e->default_kv_type());
    Runner::Parts parts;
    std::vector<float> want;
    for (int i = 0; i < sequences; ++i) {
      const std::vector<int32_t> tokens = ids(lengths[i], dim + i);
      parts.push_back({i, tokens});
      std::vector<float> last;
      for (size_t at = 0; at < tokens.size(); at += 128) {
        const auto from = tokens.begin() + static_cast<long>(at);
        const size_t n = std::min<size_t>(128, tokens.size() - at);
        last = chunks.step({{i, {from, from + static_cast<long>(n)}}});
      }
      want.insert(want.end(), last.begin(), last.end());
    }
    EXPECT_LT(test::relative_error(whole.step(parts), want), 4e-3) << dim << " wide";
  }
}

/// Fills a sequence's pages with random keys and values, +-[0.5, 1), up to token `cached`; behind
/// it with zeros or NaNs. The sequence goes on from there.
void import_random_pages(Runner& r, int sequence, int dim, KvType type, int cached, bool nan) {
  r.position[sequence] = cached;
  std::mt19937 g(5 + sequence);
  // K of every head, then V of every head: (64, dim) values; of int8 64 scales as floats then.
  const size_t head = type == KvType::kI8 ? kKvPageTokens * (dim + 4) : kKvPageTokens * dim * 2;
  const int blocks = (cached + kKvPageTokens - 1) / kKvPageTokens,
            groups = static_cast<int>(r.e.program().kv_groups.size());
  for (int place = 0; place < blocks * groups; ++place) {
    const int block = place / groups, group = place % groups;
    std::vector<std::byte> page(r.kv->page_bytes(group));
    for (size_t at = 0; at < page.size(); at += type == KvType::kI8 ? 1 : 2) {
      const int value = static_cast<int>(at % head) / (type == KvType::kI8 ? 1 : 2);
      if (value >= kKvPageTokens * dim) continue;
      const bool behind = block * kKvPageTokens + value / dim >= cached;
      const auto bits = static_cast<uint16_t>(g());
      uint16_t of = nan ? 0xffff : 0;
      if (type == KvType::kI8) {
        page[at] = static_cast<std::byte>(behind ? of : bits);
        continue;
      }
      if (!behind) of = type == KvType::kF16 ? (bits & 0x83ff) | 0x3800 : (bits & 0x807f) | 0x3f00;
      std::memcpy(&page[at], &of, 2);
    }
    if (type == KvType::kI8)
      for (size_t at = 0; at < page.size(); at += head)
        for (int token = 0; token < kKvPageTokens; ++token) {
          float scale = 1 / 128.f;
          if (block * kKvPageTokens + token >= cached) scale = nan ? NAN : 0;
          std::memcpy(&page[at + static_cast<size_t>(kKvPageTokens * dim + 4 * token)], &scale, 4);
        }
    r.kv->import_page(group, r.pages[sequence][block], page);
  }
}

class CudaRow : public Cuda, public testing::WithParamInterface<int> {};

/// A row over pages that were read in, by decode's kernels alone, several tokens and single ones:
/// two runs give equal bits, whatever lies behind the row's end.
TEST_P(CudaRow, ByDecodeAlone) {
  DecoderShape s;
  s.layers = 1;
  s.heads = {16, 8, GetParam()};
  s.types = {WeightType::kQ4_K, WeightType::kQ6_K};
  auto m = test::synthetic_decoder(s);
  std::vector<float> first;
  for (bool nan : {false, true}) {
    auto e = gpu(*m);
    std::vector<float> out;
    // Runs that are a cluster, and more.
    for (int cached : {203, 1103})
      for (KvType type : {KvType::kF16, KvType::kBF16, KvType::kI8}) {
        Runner r(*e, 1, cached + 20, type);
        import_random_pages(r, 0, s.heads.dim, type, cached, nan);
        for (int n : {8, 1, 1, 1}) {  // run, captured, replayed
          auto more = r.step({{0, ids(n, n)}});
          out.insert(out.end(), more.begin(), more.end());
        }
      }
    EXPECT_TRUE(std::all_of(out.begin(), out.end(), [](float v) { return std::isfinite(v); }));
    if (nan)
      EXPECT_TRUE(first == out);
    else
      first = out;
  }
}
INSTANTIATE_TEST_SUITE_P(Width, CudaRow, testing::Values(32, 64, 96, 128, 256));

class CudaDecode : public Cuda, public testing::WithParamInterface<int> {};

// Rows of a step that have more runs than the card holds blocks give a block two, three or all of
// them; a head's bits are those of the row alone, whose runs are a cluster.
TEST_F(Cuda, RowsOfAStepAttendAsTheyDoAlone) {
  std::vector<int> lengths = {640, 1, 1023, 130, 900, 257, 517, 300};
  if (small()) lengths = {300, 1, 257, 130, 290, 100, 217, 160};
  const int most = static_cast<int>(lengths.size());
  for (auto [heads, kv, dim, window] : {std::array{32, 32, 64, 0},
                                        {32, 32, 96, 0},
                                        {32, 8, 128, 0},
                                        {64, 8, 64, 0},
                                        {32, 32, 128, 200},
                                        {16, 16, 256, 0}}) {
    if (small() && dim != 256 && (heads != 32 || dim != 64)) continue;
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
        import_random_pages(r, i, dim, type, lengths[i], false);
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

/// The last of many tokens, decoded, against the same in prefill: contexts that are cut into few
/// and many runs, merged by clusters and by a kernel, alone and beside a short one.
TEST_P(CudaDecode, OverManyRuns) {
  if (small()) GTEST_SKIP() << "CudaRow has as many runs";
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
