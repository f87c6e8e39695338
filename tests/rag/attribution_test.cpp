#include "rag/attribution.h"

#include <gtest/gtest.h>

namespace apud {
namespace {

std::vector<Passage> passages() {
  Passage a, b, c;
  a.id = 1,
  a.source_text =
      "A borrowed telescope may be kept for three weeks. A late return costs 4.5 euros a day.",
  a.chunk_rank = 1;
  b.id = 2,
  b.source_text =
      "Cleaning a mirror is the work of the optician, Marta Lindqvist, in the workshop.",
  b.chunk_rank = 2;
  c.id = 7, c.source_text = "自习室有六十四个座位，需要提前一天预约。", c.chunk_rank = 3;
  return {a, b, c};
}

TEST(Attribution, AddsTheMarkThatTheModelForgot) {
  EXPECT_EQ(attribute("A telescope may be kept three weeks. The optician Marta Lindqvist cleans.",
                      passages()),
            "A telescope may be kept three weeks. [1] The optician Marta Lindqvist cleans. [2]");
  EXPECT_EQ(attribute("自习室有六十四个座位。", passages()), "自习室有六十四个座位。[7]");
  EXPECT_EQ(attribute("- telescope kept three weeks\n- optician Marta Lindqvist\n", passages()),
            "- telescope kept three weeks [1]\n- optician Marta Lindqvist [2]\n");
}

TEST(Attribution, PutsAWrongMarkRight) {
  EXPECT_EQ(attribute("Marta Lindqvist the optician. [1]", passages()),
            "Marta Lindqvist the optician. [2]");
  EXPECT_EQ(attribute("Marta Lindqvist the optician [1].", passages()),
            "Marta Lindqvist the optician [2].");
  EXPECT_EQ(attribute("Marta Lindqvist the optician [1, 2].", passages()),
            "Marta Lindqvist the optician [2].");
}

TEST(Attribution, AMarkBehindTheEndBelongsToTheSentenceBefore) {
  EXPECT_EQ(attribute("Marta Lindqvist the optician. [1] A telescope may be kept three weeks. Yes.",
                      passages()),
            "Marta Lindqvist the optician. [2] A telescope may be kept three weeks. [1] Yes.");
}

TEST(Attribution, LeavesWhatNoPassageBears) {
  EXPECT_EQ(attribute("Bananas grow in tropical countries everywhere.", passages()),
            "Bananas grow in tropical countries everywhere.");
  EXPECT_EQ(attribute("Bananas grow in the tropics [1].", passages()),
            "Bananas grow in the tropics [1].");
  EXPECT_EQ(attribute("Yes.", passages()), "Yes.");
  EXPECT_EQ(attribute("See [note] and arr[i].", passages()), "See [note] and arr[i].");
}

TEST(Attribution, NumbersAndNamesDoNotEndSentences) {
  EXPECT_EQ(attribute("A late return costs 4.5 euros a day.", passages()),
            "A late return costs 4.5 euros a day. [1]");
}

// However the text arrives, the result is the same.
TEST(Attribution, EqualAtEverySplit) {
  const std::string answer =
      "A telescope may be kept three weeks [2]. 自习室有六十四个座位。 Late return 4.5 euros "
      "[1][2]\n\nOptician Marta Lindqvist [x";
  std::string whole = attribute(answer, passages());
  for (size_t cut = 0; cut <= answer.size(); ++cut) {
    if (cut < answer.size() && (static_cast<unsigned char>(answer[cut]) & 0xC0) == 0x80) continue;
    AttributionStream stream(passages());
    std::string out = stream.push(answer.substr(0, cut));
    out += stream.push(answer.substr(cut));
    out += stream.finish();
    EXPECT_EQ(out, whole) << cut;
  }
}

}  // namespace
}  // namespace apud
