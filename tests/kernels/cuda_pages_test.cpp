// The CUDA executor's KV pages on their ways to and from the device, and decoding a step ahead of
// its caller.
#include <gtest/gtest.h>

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

TEST_F(Cuda, DecodingAheadGivesWhatItsCallerAsksFor) {
  DecoderShape s;
  s.types = {WeightType::kQ4_K, WeightType::kF16};
  auto m = test::synthetic_decoder(s);
  auto e = gpu(*m), plain = gpu(*m);
  Runner ahead(*e, 2, 320, KvType::kF16), want(*plain, 2, 320, KvType::kF16);
  auto best = [&](const std::vector<float>& logits, size_t row) {
    auto from = logits.begin() + static_cast<ptrdiff_t>(row) * s.vocab;
    return static_cast<int32_t>(std::max_element(from, from + s.vocab) - from);
  };
  std::vector<int32_t> next = {3, 5};
  auto both = [&](const Runner::Parts& parts) {
    auto got = ahead.draw(parts);
    auto logits = want.step(parts);
    for (size_t i = 0; i < parts.size(); ++i) {
      EXPECT_EQ(got[i], best(logits, i)) << "at " << want.position[parts[i].first];
      next[static_cast<size_t>(parts[i].first)] = got[i];
    }
  };
  both({{0, ids(20, 1)}, {1, ids(50, 2)}});
  for (int t = 0; t < 150; t += small() ? 10 : 1) {
    if (t == 40 || t == 41 || t == 90) next[0] = (next[0] + 7) % s.vocab;  // not what was drawn
    if (t == 60) both({{0, ids(9, 3)}});                                   // a chunk in between
    if (t >= 70 && t < 80)
      both({{1, {next[1]}}});
    else if (t >= 100 && t < 110)
      both({{1, {next[1]}}, {0, {next[0]}}});
    else
      both({{0, {next[0]}}, {1, {next[1]}}});
  }
}

TEST_F(Cuda, PagesCopyExportAndImport) {
  for (KvType type : {KvType::kF16, KvType::kI8}) {
    DecoderShape s;
    s.types = {WeightType::kF16};
    auto m = test::synthetic_decoder(s);
    auto e = gpu(*m);
    Runner r(*e, 2, 128, type);
    r.step({{0, ids(100, 3)}});
    // Sequence 1 becomes a fork of sequence 0: its whole page by way of the host, its partial one
    // copied.
    std::vector<std::byte> page(r.kv->page_bytes(0));
    r.kv->export_page(0, r.pages[0][0], page);
    r.kv->import_page(0, r.pages[1][0], page);
    r.kv->copy_page(0, r.pages[0][1], r.pages[1][1], 36);
    r.position[1] = 100;
    auto a = r.step({{0, {9}}}), b = r.step({{1, {9}}});
    EXPECT_TRUE(a == b) << kv_type_name(type);
  }
}

/// Lists of pages go out while a step follows at once, and come in while steps of both kinds use
/// them.
TEST_F(Cuda, ListsOfPagesMoveBesideSteps) {
  DecoderShape s;
  s.layers = small() ? 5 : 11;  // no multiple of the parts that layers move in
  s.window = 90;                // two KV groups
  s.types = {WeightType::kF16};
  auto m = test::synthetic_decoder(s);
  auto e = gpu(*m);
  const int groups = static_cast<int>(m->program.kv_groups.size());
  Runner r(*e, 2, 256, KvType::kF16);
  r.step({{0, ids(150, 3)}});
  size_t bytes = 0;
  for (int g = 0; g < groups; ++g) bytes += 3 * r.kv->page_bytes(g);
  auto host = r.kv->host_memory(bytes);
  ASSERT_EQ(host->bytes().size(), bytes);
  auto moves = [&](int sequence) {
    std::vector<PageTransfer> list;
    auto rest = host->bytes();
    for (int block = 0; block < 3; ++block)
      for (int g = 0; g < groups; ++g) {
        list.push_back({g, r.pages[sequence][block], rest.first(r.kv->page_bytes(g))});
        rest = rest.subspan(r.kv->page_bytes(g));
      }
    return list;
  };
  r.kv->export_pages(moves(0));
  auto first = r.step({{0, {9}}});  // writes into the last page on its way out
  r.kv->finish_transfers();
  for (bool one : {true, false}) {
    std::vector<int32_t> next = one ? std::vector<int32_t>{9} : ids(20, 5);
    r.position[0] = r.position[1] = 150;
    auto want = r.step({{0, next}});
    r.step({{1, ids(5, 8)}});  // reads and writes what is replaced now
    r.kv->import_pages(moves(1));
    r.position[1] = 150;
    EXPECT_TRUE(r.step({{1, next}}) == want) << next.size() << " tokens";
    EXPECT_GT(r.kv->finish_transfers(), 0);
    EXPECT_EQ(r.kv->finish_transfers(), 0);
  }
}

TEST_F(Cuda, PagesAreReadInByThreads) {
  DecoderShape s;
  s.layers = small() ? 5 : 11;
  s.window = 90;  // two KV groups
  s.types = {WeightType::kF16};
  auto m = test::synthetic_decoder(s);
  auto e = gpu(*m);
  const int groups = static_cast<int>(m->program.kv_groups.size());
  Runner r(*e, 2, 1024, KvType::kF16);
  r.step({{0, ids(500, 3)}});
  r.step({{0, ids(450, 4)}});
  auto bytes_of = [&](int sequence, int block) {
    std::vector<std::byte> all;
    for (int g = 0; g < groups; ++g) {
      std::vector<std::byte> page(r.kv->page_bytes(g));
      r.kv->export_page(g, r.pages[sequence][block], page);
      all.insert(all.end(), page.begin(), page.end());
    }
    return all;
  };
  const int count = 15;
  std::vector<std::vector<std::byte>> source;
  for (int b = 0; b < count; ++b) source.push_back(bytes_of(0, b));
  for (int bad : {count, 9, 0}) {  // the first page that is of no use
    auto pages = std::span(r.pages[1]).first(count);
    int good = r.kv->read_pages(pages, groups, [&](int i, PageSink& sink) {
      std::span<const std::byte> left = source[i];
      for (size_t most = 1; !left.empty(); most = most * 3 + 1) {
        auto piece = sink.next(std::min(most, left.size()));
        if (piece.empty()) return false;
        std::copy_n(left.begin(), piece.size(), piece.begin());
        left = left.subspan(piece.size());
      }
      return sink.next(1).empty() && i != bad;
    });
    EXPECT_EQ(good, bad);
    for (int b = 0; b < good; ++b) EXPECT_TRUE(bytes_of(1, b) == source[b]) << b;
  }
}

}  // namespace
}  // namespace apud
