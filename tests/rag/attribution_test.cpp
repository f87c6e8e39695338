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

TEST(Attribution, AQuestionGetsNoMark) {
  EXPECT_EQ(attribute("How long may a borrowed telescope be kept? Three weeks.", passages()),
            "How long may a borrowed telescope be kept? Three weeks. [1]");
  EXPECT_EQ(attribute("自习室有多少座位，需要提前预约吗？", passages()),
            "自习室有多少座位，需要提前预约吗？");
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

// A short answer stands in many passages: the one that is nearer to the question is meant, unless
// the model chose one that is about as near.
TEST(Attribution, TheMoreRelevantOfTheBearing) {
  std::vector<Passage> two = passages();
  two[1].source_text += " It takes three weeks.";
  two[0].score = 0.3, two[1].score = 0.8;
  EXPECT_EQ(attribute("Three weeks. [1]", two), "Three weeks. [2]");
  EXPECT_EQ(attribute("Three weeks.", two), "Three weeks. [2]");
  two[0].score = 0.75;
  EXPECT_EQ(attribute("Three weeks. [1]", two), "Three weeks. [1]");
  // The model turned "three" into a 3, which stands elsewhere.
  std::vector<Passage> figures = passages();
  figures[1].source_text += " Room 3 is closed.";
  figures[0].score = 0.9, figures[1].score = 0.3;
  EXPECT_EQ(attribute("3 weeks [2]", figures), "3 weeks [1]");
  // Relevance does not stand in for words.
  two[0].score = 0;
  EXPECT_EQ(attribute("A late return costs 4.5 euros [1].", two),
            "A late return costs 4.5 euros [1].");
}

TEST(Attribution, AnAnswerFromPassagesNamesOne) {
  std::vector<Passage> all = passages();
  all[1].score = 0.9;
  const std::string loose = "Someone named Marta repairs what borrowers scratch.";
  EXPECT_EQ(attribute(loose, all), loose);
  EXPECT_EQ(attribute("Lindqvist, of whom nobody speaks much", all, Citing::kMust),
            "Lindqvist, of whom nobody speaks much [2]");
  EXPECT_EQ(attribute("Yes.", all, Citing::kMust), "Yes. [2]");
  EXPECT_EQ(attribute("4.5", all, Citing::kMust), "4.5 [1]");
  EXPECT_EQ(attribute("验光师在工坊里清洗镜子", all, Citing::kMust), "验光师在工坊里清洗镜子 [2]");
  EXPECT_EQ(attribute("A telescope may be kept three weeks.\nYes.", all, Citing::kMust),
            "A telescope may be kept three weeks. [1]\nYes.");
}

TEST(Attribution, NoMarkWhereNothingIsShared) {
  std::vector<Passage> all = passages();
  all[1].score = 0.9;
  const std::string foreign = "Bananas grow where the sun shines on tropical islands.";
  EXPECT_EQ(attribute(foreign, all, Citing::kMust), foreign);
  const std::string hardly = "Bananas grow on sunny tropical islands, says an optician.";
  EXPECT_EQ(attribute(hardly, all, Citing::kMust), hardly);
  EXPECT_EQ(attribute("", all, Citing::kMust), "");
  AttributionStream refusal(all, Citing::kMust);
  std::string text = refusal.push("Not in the documents");
  EXPECT_EQ(text + refusal.finish(true), "Not in the documents");
}

// A turn that brought no passages: the model marks by habit.
TEST(Attribution, AReplyIsMarkedOnlyWhereAPassageBearsIt) {
  std::vector<Passage> two = passages();
  two.pop_back();
  EXPECT_EQ(attribute("You're welcome! Ask me any other question. [1]", two, Citing::kReply),
            "You're welcome! Ask me any other question. ");
  EXPECT_EQ(attribute("Three weeks at most may it be kept. [1]", two, Citing::kReply),
            "Three weeks at most may it be kept. [1]");
  const std::string translated = "望远镜可以借三个星期。[1]";
  EXPECT_EQ(attribute(translated, two, Citing::kReply), translated) << "words cannot tell";
  EXPECT_EQ(attribute("Yes. [2]", two, Citing::kReply), "Yes. [2]") << "too few to tell";
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
