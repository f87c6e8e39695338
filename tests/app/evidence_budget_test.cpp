// The evidence budget: coarse, decided once, moved only by several answers in a row.
#include "app/evidence_budget.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

TEST(EvidenceBudget, StepsHoldTenSecondsOfReading) {
  EXPECT_EQ(evidence_step(0), 256);
  EXPECT_EQ(evidence_step(90), 768);
  EXPECT_EQ(evidence_step(99.9), 768);
  EXPECT_EQ(evidence_step(100), 1000);
  EXPECT_EQ(evidence_step(36000), kMostEvidence);
}

TEST(EvidenceBudget, OneSlowAnswerChangesNothing) {
  ReadingSpeed speed{2000, 400, 0};
  EXPECT_FALSE(update(speed, 60));
  EXPECT_FALSE(update(speed, 60));
  EXPECT_FALSE(update(speed, 390));  // the row is broken
  EXPECT_FALSE(update(speed, 60));
  EXPECT_FALSE(update(speed, 60));
  EXPECT_EQ(speed.evidence, 2000);
  EXPECT_TRUE(update(speed, 60));
  EXPECT_EQ(speed.evidence, 512);
  EXPECT_EQ(speed.rate, 60);
}

TEST(EvidenceBudget, NoiseAroundAStepNeverFlips) {
  ReadingSpeed speed{1000, 101, 0};
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(update(speed, i % 2 ? 99 : 140)) << i;
  EXPECT_EQ(speed.evidence, 1000);
}

TEST(EvidenceBudget, SlowerAndFasterDoNotAddUp) {
  ReadingSpeed speed{1000, 100, 0};
  EXPECT_FALSE(update(speed, 300));
  EXPECT_FALSE(update(speed, 300));
  EXPECT_FALSE(update(speed, 40));
  EXPECT_FALSE(update(speed, 300));
  EXPECT_FALSE(update(speed, 300));
  EXPECT_TRUE(update(speed, 300));
  EXPECT_EQ(speed.evidence, 2000);
}

TEST(EvidenceBudget, IsKeptByKeyAndADamagedFileIsMeasuredAgain) {
  test::TempHome home;
  EXPECT_FALSE(load_reading_speed("a"));
  save_reading_speed("a", {768, 90, -2});
  save_reading_speed("b", {2000, 900, 0});
  auto a = load_reading_speed("a");
  ASSERT_TRUE(a);
  EXPECT_EQ(a->evidence, 768);
  EXPECT_EQ(a->rate, 90);
  EXPECT_EQ(a->contradicted, -2);
  for (const char* bad : {"", "[]", "{\"a\": 90.5}",
                          "{\"a\": {\"evidence\": 777, \"rate\": 9, "
                          "\"contradicted\": 0}}"}) {
    write_file_atomic(cache_dir() / "speeds.json", bad);
    EXPECT_FALSE(load_reading_speed("a")) << bad;
  }
}

}  // namespace
}  // namespace apud
