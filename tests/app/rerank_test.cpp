// What reranking costs, and what is kept about whether it helps.
#include "app/rerank.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

TEST(RerankBudget, CandidatesFollowFromTheReadingSpeed) {
  EXPECT_EQ(judged_candidates(165, 5000), 6);
  EXPECT_EQ(judged_candidates(165, 2500), 3);
  EXPECT_EQ(judged_candidates(30'000, 5000), RerankOptions{}.candidates);
  EXPECT_EQ(judged_candidates(20, 5000), 0);
  EXPECT_EQ(judged_candidates(0, 5000), 0);
}

TEST(RerankRecords, KeptByCollectionAndModel) {
  test::TempHome home;
  EXPECT_TRUE(load_rerank_tests("c1").empty());
  RerankRecord record{"qwen", "print1", 24, 15, 0.5, {0.1, 0.02, 0.2}, true, 1000, "e5"};
  save_rerank_test("c1", record);
  save_rerank_test("c2", record);
  RerankRecord other = record;
  other.fingerprint = "print2";
  save_rerank_test("c1", other);
  record.helps = false;
  record.gain = {0.01, -0.1, 0.1};
  save_rerank_test("c1", record);  // replaces the model's own
  std::vector<RerankRecord> kept = load_rerank_tests("c1");
  ASSERT_EQ(kept.size(), 2u);
  EXPECT_EQ(kept[0].fingerprint, "print2");
  EXPECT_TRUE(kept[0].helps);
  EXPECT_EQ(kept[1].fingerprint, "print1");
  EXPECT_FALSE(kept[1].helps);
  EXPECT_EQ(kept[1].gain.low, -0.1);
  EXPECT_EQ(kept[1].candidates, 15);
  EXPECT_TRUE(load_rerank_tests("c2")[0].helps);
  // Damaged: as never tested.
  write_file_atomic(cache_dir() / "rerank.json", R"({"c1": [{"model": "qwen"}, 7], "c2": 3})");
  EXPECT_TRUE(load_rerank_tests("c1").empty());
  EXPECT_TRUE(load_rerank_tests("c2").empty());
  write_file_atomic(cache_dir() / "rerank.json", "{");
  EXPECT_TRUE(load_rerank_tests("c1").empty());
}

TEST(RerankRecords, HoldWhileTheCollectionIsTheSame) {
  RerankRecord record{"qwen", "print1", 24, 15, 0.5, {0.1, 0.02, 0.2}, true, 1000, "e5"};
  CollectionInfo info;
  info.embedder.fingerprint = "e5";
  for (auto [chunks, holds] : {std::pair(1000, true),
                               {1200, true},
                               {800, true},
                               {1201, false},
                               {799, false},
                               {0, false}}) {
    info.chunks = chunks;
    EXPECT_EQ(still_holds(record, info), holds) << chunks;
  }
  info.chunks = 1000;
  info.embedder.fingerprint = "gemma";
  EXPECT_FALSE(still_holds(record, info));
}

}  // namespace
}  // namespace apud
