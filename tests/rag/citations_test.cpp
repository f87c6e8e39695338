#include "rag/citations.h"

#include <gtest/gtest.h>

#include <random>

namespace apud {
namespace {

Passage passage(int id, const std::string& path, const std::string& text, int line = 1) {
  Passage p;
  p.id = id;
  p.document = id * 10;
  p.path = path;
  p.text = p.source_text = text;
  p.begin = 1000;
  p.end = 1000 + text.size();
  p.from.line = line;
  p.to.line = line + 2;
  return p;
}

const std::vector<Passage>& passages() {
  static const std::vector<Passage> all = {
      passage(3, "/docs/bees.md",
              "Bees see ultraviolet light. They cannot see red.\nA hive holds 40,000 workers.", 7),
      passage(5, "/docs/ants.md", "Ants follow pheromone trails between nest and food."),
      passage(8, "/docs/京.md", "香山的红叶在十月下旬最好看，\n游客很多。"),
  };
  return all;
}

TEST(Citations, NumbersFollowFirstUseAndInventionsGo) {
  CheckedAnswer a = check_answer(
      "Ants follow pheromone trails [5]. Bees see ultraviolet light [3, 99]. "
      "They cannot see red [3][5] and also [42].",
      passages());
  EXPECT_EQ(a.text,
            "Ants follow pheromone trails [1]. Bees see ultraviolet light [2]. "
            "They cannot see red [2][1] and also.");
  ASSERT_EQ(a.citations.size(), 2u);
  EXPECT_EQ(a.citations[0].passage, 5);
  EXPECT_EQ(a.citations[1].passage, 3);
  EXPECT_EQ(a.citations[1].number, 2);
  EXPECT_EQ(a.invented, 2);
  EXPECT_EQ(legend_line(a.citations[1]), "[2] /docs/bees.md:7-9");
}

TEST(Citations, TheLegendNamesThePagesOrTheLines) {
  Citation c;
  c.number = 1;
  c.path = "a.pdf";
  c.page = c.page_end = 3;
  EXPECT_EQ(legend_line(c), "[1] a.pdf p. 3");
  c.page_end = 4;
  EXPECT_EQ(legend_line(c), "[1] a.pdf pp. 3-4");
  c.page = c.page_end = 0;
  c.line = c.line_end = 7;
  EXPECT_EQ(legend_line(c), "[1] a.pdf:7");
  c.line_end = 9;
  EXPECT_EQ(legend_line(c), "[1] a.pdf:7-9");
  c.line = 0;
  EXPECT_EQ(legend_line(c), "[1] a.pdf");
}

TEST(Citations, QuotesAreLookedUpInTheStoredText) {
  CheckedAnswer good =
      check_answer("The page says \"a hive holds  40,000 workers\" [3].", passages());
  EXPECT_EQ(good.quotes, 1);
  EXPECT_EQ(good.quotes_failed, 0);
  ASSERT_EQ(good.citations.size(), 1u);
  EXPECT_TRUE(good.citations[0].verified);
  EXPECT_EQ(good.citations[0].quote, "A hive holds 40,000 workers");
  EXPECT_EQ(passages()[0].source_text.substr(good.citations[0].start - 1000,
                                             good.citations[0].end - good.citations[0].start),
            "A hive holds 40,000 workers");

  CheckedAnswer bad =
      check_answer("The page says \"a hive holds 90,000 workers\" [3].", passages());
  EXPECT_EQ(bad.quotes_failed, 1);
  EXPECT_FALSE(bad.citations[0].verified);
  ASSERT_EQ(bad.unsupported.size(), 1u);
  EXPECT_EQ(bad.unsupported[0].reason, "quote not found");

  // A quote from another passage than the cited one does not count.
  EXPECT_EQ(
      check_answer("It says \"follow pheromone trails between\" [3].", passages()).quotes_failed,
      1);

  CheckedAnswer han = check_answer("文中说“十月下旬最好看，游客很多”[8]。", passages());
  EXPECT_EQ(han.quotes, 1);
  EXPECT_EQ(han.quotes_failed, 0);
  EXPECT_TRUE(han.citations[0].verified);
  EXPECT_EQ(check_answer("文中说“十二月上旬最好看”[8]。", passages()).quotes_failed, 1);
}

TEST(Citations, SentencesWithoutSupportAreMarked) {
  CheckedAnswer a = check_answer(
      "Bees see ultraviolet light [3]. Whales sing across entire ocean basins [3]. "
      "Nobody cited this claim about volcanoes.",
      passages());
  ASSERT_EQ(a.unsupported.size(), 2u);
  EXPECT_EQ(a.text.substr(a.unsupported[0].begin, 6), "Whales");
  EXPECT_EQ(a.unsupported[0].reason, "words not in [1]");
  EXPECT_EQ(a.unsupported[1].reason, "no citation");
  EXPECT_FALSE(a.citations[0].verified);
  EXPECT_TRUE(check_answer("Bees see ultraviolet light [3].", passages()).citations[0].verified);
}

// Part by part the 0 and 8 of a pressure would bear an 8, and the 00 of any price another price.
TEST(Citations, NumbersHoldWhole) {
  const std::vector<Passage> all = {
      passage(1, "/docs/boiler.md",
              "Below 0.8 bar it stops. The pump of version 1.2.3 costs 189.00."),
      passage(2, "/docs/bees.md", "A hive holds 40,000 workers; the price rose by 12.50."),
      passage(3, "/docs/会议.md",
              "预算为八万五千元，共一百零六人，十一点半开门，占百分之三十。万一下雨，二〇二六年再说"
              "。")};
  auto holds = [&](const std::string& answer) {
    return check_answer(answer, all).citations.at(0).verified;
  };
  EXPECT_TRUE(holds("0.8 bar [1]."));
  EXPECT_FALSE(holds("8 [1]"));
  EXPECT_FALSE(holds("85000.00 [1]"));
  EXPECT_TRUE(holds("189 [1]"));
  EXPECT_TRUE(holds("1.2.3 [1]"));
  EXPECT_FALSE(holds("2.3 [1]"));
  EXPECT_TRUE(holds("40000 [2]"));
  EXPECT_TRUE(holds("40,000.00 [2]"));
  EXPECT_FALSE(holds("40000.0 [2]")) << "a version, perhaps";
  EXPECT_FALSE(holds("40 [2]"));
  EXPECT_TRUE(holds("12.50 [2]"));
  for (const char* right : {"85000.00 [3]", "106 [3]", "11 [3]", "30 [3]"})
    EXPECT_TRUE(holds(right)) << right;
  for (const char* wrong : {"8 [3]", "5000 [3]", "100 [3]", "10000 [3]", "6 [3]"})
    EXPECT_FALSE(holds(wrong)) << wrong;
}

TEST(Citations, TheFilesNameHoldsItsNumbers) {
  const std::vector<Passage> all = {
      passage(1, "/minutes/1999/2025-05-13.md", "Elena was excused. The roof was postponed.")};
  EXPECT_TRUE(check_answer("Elena was excused on 2025-05-13 [1].", all).citations[0].verified);
  EXPECT_FALSE(check_answer("Elena was excused on 2025-06-13 [1].", all).citations[0].verified);
  EXPECT_FALSE(check_answer("Elena was excused in 1999 [1].", all).citations[0].verified);
}

TEST(Citations, AnotherNumberDoesNotHold) {
  const std::vector<Passage> all = {
      passage(
          1, "/docs/clay.md",
          "Clay comes in bags of 12.5 kg at 18.40 EUR each; the order is twenty-five bags or two "
          "hundred and fifty a year, and it takes sixteen hours."),
      passage(2, "/docs/kiln.md", "The kiln needs 45 minutes and holds 32 vases."),
      passage(3, "/docs/club.md", "One of the members has a key; four have none.")};
  auto holds = [&](const std::string& answer) {
    CheckedAnswer a = check_answer(answer, all);
    return std::all_of(a.citations.begin(), a.citations.end(),
                       [](const Citation& c) { return c.verified; });
  };
  EXPECT_TRUE(holds("A bag of clay is 18.40 EUR [1]."));
  EXPECT_FALSE(holds("A bag of clay is 10.40 EUR [1]."));
  EXPECT_FALSE(holds("10.40 EUR [1]"));
  EXPECT_TRUE(holds("The order of clay is 25 bags [1]."));
  EXPECT_TRUE(holds("The order of clay is 250 bags a year [1]."));
  EXPECT_TRUE(holds("Clay takes 16 hours [1]."));
  EXPECT_FALSE(holds("The order of clay is 20 bags [1]."));
  EXPECT_FALSE(holds("1 [3]")) << "one is a word";
  EXPECT_TRUE(holds("4 [3]"));
  EXPECT_TRUE(holds("2. The kiln needs 45 minutes [2].")) << "a list's number";
  EXPECT_TRUE(holds("The kiln holds 32 vases and the clay bags 12.5 kg [1][2]."))
      << "each of the two brings its number";
  EXPECT_FALSE(holds("The kiln holds 33 vases and the clay bags 12.5 kg [1][2]."));
}

TEST(Citations, ThingsThatAreNoMarksStay) {
  const std::string text = "Use a[i], [see below], [x1] and arr[]; [ 3 ] is one, [3.5] is not.";
  CheckedAnswer a = check_answer(text, passages());
  EXPECT_EQ(a.text, "Use a[i], [see below], [x1] and arr[]; [1] is one, [3.5] is not.");
}

TEST(CitationStream, AnyCutGivesTheSameText) {
  const std::string answer =
      "Ants follow trails [5]. Bees see light [3, 99]; 香山[8]。 Not one [42]. Open [12 and a[i] "
      "[3-5] end [7";
  std::string whole = check_answer(answer, passages()).text;
  CitationStream once(passages());
  std::string first = once.push(answer);
  first += once.finish();
  EXPECT_EQ(first, whole);
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    CitationStream stream(passages());
    std::string out;
    for (size_t pos = 0; pos < answer.size();) {
      size_t n = std::min<size_t>(1 + random() % 5, answer.size() - pos);
      out += stream.push(answer.substr(pos, n));
      ASSERT_EQ(out.find("99"), std::string::npos);
      pos += n;
    }
    out += stream.finish();
    ASSERT_EQ(out, whole);
  }
}

TEST(CitationStream, HoldsBackLittle) {
  CitationStream stream(passages());
  EXPECT_EQ(stream.push("word"), "word");
  EXPECT_EQ(stream.push(" next ["), " next");
  EXPECT_EQ(stream.push("not a mark"), " [not a mark");
}

// "… same day. [1] A late return … [2]": the sentence splitter puts [1] into the second range.
TEST(Citations, AMarkBehindAFullStopIsNotTheNextSentencesToo) {
  std::vector<Passage> all = {
      passage(1, "/docs/loan.md", "A borrowed telescope may be kept for three weeks."),
      passage(2, "/docs/fee.md", "A late return costs 4 euros for each day that has begun.")};
  CheckedAnswer checked = check_answer(
      "A borrowed telescope may be kept for three weeks. [1] A late return costs 4 euros for each "
      "day that has begun. [2]",
      all);
  ASSERT_EQ(checked.citations.size(), 2u);
  EXPECT_TRUE(checked.citations[0].verified);
  EXPECT_TRUE(checked.citations[1].verified);
  EXPECT_TRUE(checked.unsupported.empty());
  // Where marks stand in front, the one between two sentences is all that the second has.
  checked = check_answer(
      "[1] A borrowed telescope may be kept for three weeks. [2] A late return costs 4 euros for "
      "each day that has begun.",
      all);
  EXPECT_TRUE(checked.unsupported.empty());
}

TEST(Citations, AQuestionSaidAgainFailsNoCitation) {
  const std::vector<Passage> all = {
      passage(1, "/docs/bridge.md", "石门古桥的修缮花了八十七万元，其中县里出六十万元。")};
  for (const char* answer :
       {"石门古桥的修缮花了八十七万元。[1]工期多长？[1]",
        "How long did the works take? [1] 石门古桥的修缮花了八十七万元。[1]"}) {
    const CheckedAnswer checked = check_answer(answer, all);
    ASSERT_EQ(checked.citations.size(), 1u);
    EXPECT_TRUE(checked.citations[0].verified) << answer;
    EXPECT_TRUE(checked.unsupported.empty()) << answer;
  }
  // It bears nothing either.
  EXPECT_FALSE(check_answer("石门古桥的修缮花了多少钱？[1]", all).citations[0].verified);
}

TEST(Citations, AcrossLanguagesNamesAndNumbersHold) {
  const std::vector<Passage> all = {
      passage(1, "/docs/formats.md",
              "Sessions are kept as sessions/ID.json in the data directory, which is the place of "
              "all that the program keeps, for 30 days after their last use."),
      passage(2, "/docs/手册.md",
              "启动服务请运行 stockctl serve，它监听 8080 端口，数据保存九十天。"),
  };
  auto verified = [&](std::string_view answer) {
    CheckedAnswer a = check_answer(answer, all);
    EXPECT_EQ(a.citations.size(), 1U) << answer;
    return !a.citations.empty() && a.citations[0].verified;
  };
  EXPECT_TRUE(verified("会话文件保存在 sessions/ID.json。[1]"));
  EXPECT_TRUE(verified("会话在最后一次使用之后保留 30 天。[1]"));
  EXPECT_FALSE(verified("会话在最后一次使用之后保留 60 天。[1]")) << "another number";
  EXPECT_FALSE(verified("会话文件保存在 chats/ID.xml。[1]")) << "another name";
  EXPECT_FALSE(verified("会话文件会在一段时间之后自动删除。[1]")) << "nothing that can be compared";
  EXPECT_TRUE(verified("The service listens on port 8080 when you start it [2]."));
  EXPECT_FALSE(verified("The service listens on port 9090 when you start it [2]."));
  EXPECT_FALSE(verified("The service can be started by hand if it is not running [2]."));
}

TEST(Citations, WhatIsSaidOfAnotherNameDoesNotHold) {
  std::vector<Passage> all = {passage(
      1, "/docs/boiler.md", "E14 Condensate drain blocked. Clean the siphon. E02 Too hot.")};
  EXPECT_TRUE(check_answer("E14 means that the condensate drain is blocked. [1]", all)
                  .citations.at(0)
                  .verified);
  CheckedAnswer other = check_answer("E33 means that the condensate drain is blocked. [1]", all);
  EXPECT_FALSE(other.citations.at(0).verified);
  ASSERT_EQ(other.unsupported.size(), 1u);
  EXPECT_EQ(other.unsupported[0].reason, "words not in [1]");
  EXPECT_FALSE(
      check_answer("E33 means \"Condensate drain blocked\". [1]", all).citations.at(0).verified)
      << "the quote is there, but of another";
  EXPECT_TRUE(check_answer("In boiler.md the condensate drain is blocked. [1]", all)
                  .citations.at(0)
                  .verified)
      << "the file's name is the passage's";
}

}  // namespace
}  // namespace apud
