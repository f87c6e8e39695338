// Reranking with judges that know the answer, know nothing, or run out of time.
#include "rag/rerank.h"

#include <gtest/gtest.h>

#include "base/utf8.h"
#include "rag/ingest.h"
#include "tests/support/fake_embedder.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

using test::FakeEmbedder;
using test::TempHome;

/// `odds` of a passage; no more than `most` of a question. Tokens are words.
class FakeJudge : public PassageJudge {
 public:
  std::vector<float> judge(std::string_view question,
                           std::span<const std::string> passages) override {
    std::vector<float> all;
    for (const std::string& passage : passages) {
      if (static_cast<int>(all.size()) == most) break;
      seen.push_back(passage);
      all.push_back(odds(std::string(question), passage));
    }
    return all;
  }
  int count_tokens(std::string_view text) const override {
    return 1 + static_cast<int>(std::count(text.begin(), text.end(), ' '));
  }
  std::function<float(const std::string&, const std::string&)> odds;
  int most = 1000;
  std::vector<std::string> seen;
};

std::vector<Hit> hits_of(const std::vector<std::pair<std::string, double>>& texts) {
  std::vector<Hit> hits;
  for (const auto& [text, score] : texts) {
    Hit hit;
    hit.chunk = static_cast<int64_t>(hits.size()) + 1;
    hit.text = text;
    hit.score = score;
    hit.rank = static_cast<int>(hits.size()) + 1;
    hits.push_back(hit);
  }
  return hits;
}

std::string order(const std::vector<Hit>& hits) {
  std::string out;
  for (size_t i = 0; i < hits.size(); ++i) {
    EXPECT_EQ(hits[i].rank, static_cast<int>(i) + 1);
    out += std::to_string(hits[i].chunk);
  }
  return out;
}

TEST(Rerank, BlendsWithTheFusedScoreAndLeavesTheRest) {
  FakeJudge judge;
  judge.odds = [](const std::string&, const std::string& text) {
    return text == "good" ? 3.f : text == "bad" ? -3.f : 0.f;
  };
  RerankOptions options;
  options.candidates = 4;
  options.weight = 0.1;
  // .3 of a score is what "good" gains: enough for the third, not for the fourth; the fifth is not
  // looked at.
  auto hits = hits_of({{"plain", .9}, {"bad", .8}, {"good", .7}, {"good", .1}, {"good", .05}});
  EXPECT_EQ(rerank(hits, "q", judge, options), 4);
  EXPECT_EQ(order(hits), "31245");
  EXPECT_EQ(hits[0].odds, 3.f);
  EXPECT_FALSE(hits[4].odds);
  EXPECT_EQ(judge.seen.size(), 4u);
  // Equal ones keep their order.
  hits = hits_of({{"a", .5}, {"b", .5}, {"c", .5}});
  rerank(hits, "q", judge, options);
  EXPECT_EQ(order(hits), "123");
}

TEST(Rerank, WhatTimeDidNotReachKeepsItsPlace) {
  FakeJudge judge;
  judge.most = 2;
  judge.odds = [](const std::string&, const std::string& text) { return text == "b" ? 9.f : 0.f; };
  auto hits = hits_of({{"a", .9}, {"b", .8}, {"b", .7}, {"b", .6}});
  EXPECT_EQ(rerank(hits, "q", judge, {}), 2);
  EXPECT_EQ(order(hits), "2134");
  EXPECT_FALSE(hits[2].odds);
  judge.most = 0;
  hits = hits_of({{"a", .9}, {"b", .8}});
  EXPECT_EQ(rerank(hits, "q", judge, {}), 0);
  EXPECT_EQ(order(hits), "12");
  std::vector<Hit> none;
  EXPECT_EQ(rerank(none, "q", judge, {}), 0);
}

TEST(Rerank, TheExcerptIsWhereTheQuestionsWordsAre) {
  FakeJudge judge;
  std::string text =
      "The harbour was built long ago. Nobody remembers by whom. The lighthouse keeper counts the "
      "ships. He writes each name down. Then he goes home for supper with his dog.";
  EXPECT_EQ(judged_excerpt("", text, "Who counts ships at the lighthouse?", 8, judge),
            "The lighthouse keeper counts the ships.");
  std::string with = judged_excerpt("The port", text, "Who counts ships?", 16, judge);
  EXPECT_EQ(with.substr(0, 9), "The port\n");
  EXPECT_NE(with.find("counts the ships"), std::string::npos);
  EXPECT_LE(judge.count_tokens(with), 16);
  // No word of the question: the beginning. All of it where there is room.
  EXPECT_EQ(judged_excerpt("", text, "zebra", 7, judge), "The harbour was built long ago.");
  EXPECT_EQ(judged_excerpt("", text, "zebra", 500, judge), text);
  // A sentence longer than the room is cut, between characters.
  class Bytes : public FakeJudge {
    int count_tokens(std::string_view t) const override { return static_cast<int>(t.size()); }
  } bytes;
  std::string han;
  for (int i = 0; i < 200; ++i) han += "船";
  std::string cut = judged_excerpt("", han, "船", 100, bytes);
  EXPECT_LE(cut.size(), 100u);
  EXPECT_GT(cut.size(), 30u);
  EXPECT_TRUE(utf8_valid(cut));
  EXPECT_EQ(judged_excerpt("Only", "", "q", 10, judge), "Only");
}

class SelfTest : public testing::Test {
 protected:
  CollectionInfo ingest_sections(int n) {
    // The text under a heading shares one word with it, and its neighbours' do as well.
    for (int i = 0; i < n; ++i) {
      std::string name = "topic" + std::to_string(100 + i);
      home.write("docs/" + name + ".md", "# About " + name + " and metal\n\nSecret " + name +
                                             " stands beside metal " + std::to_string(i % 5) +
                                             " here.\n");
    }
    Path root = home / "docs";
    ingest(store, embedder, std::span(&root, 1), {});
    return store.collection("default");
  }
  TempHome home;
  Store store;
  FakeEmbedder embedder;
  FakeJudge judge;
};

TEST_F(SelfTest, TellsAJudgeThatKnowsFromOneThatErrs) {
  CollectionInfo info = ingest_sections(60);
  auto holds = [](const std::string& question, const std::string& passage) {
    // "About topic107 and metal" is answered by "Secret topic107 …".
    return passage.find(question.substr(6, 8)) != std::string::npos;
  };
  RerankOptions options;
  options.weight = 1;
  judge.odds = [&](const std::string& q, const std::string& p) { return holds(q, p) ? -4.f : 4.f; };
  int told = 0;
  RerankTest wrong = test_reranker(store, embedder, info, judge, options,
                                   [&](int done, int total) { told = done * 100 + total; });
  EXPECT_EQ(wrong.questions, kSelfTestQuestions);
  EXPECT_EQ(told, kSelfTestQuestions * 101);
  EXPECT_GT(wrong.before.mean, 0.4);
  EXPECT_TRUE(wrong.gain.lower);
  EXPECT_FALSE(wrong.gain.higher);
  // The passages that are judged do not show the heading that is asked.
  for (const std::string& passage : judge.seen)
    EXPECT_EQ(passage.find("About"), std::string::npos) << passage;

  judge.odds = [](const std::string&, const std::string&) { return 0.f; };
  EXPECT_EQ(test_reranker(store, embedder, info, judge, options).gain.differing, 0);

  // An embedder that mistakes neighbours leaves something to gain.
  FakeEmbedder blind;
  blind.size = 2;
  Path root = home / "docs";
  Store second(home / "second.db");
  ingest(second, blind, std::span(&root, 1), {});
  {
    WriteLock lock(second);
    Calibration dense;
    dense.dense_weight = 1;
    second.set_calibration(lock, second.collection("default").id, dense);
  }
  judge.odds = [&](const std::string& q, const std::string& p) { return holds(q, p) ? 4.f : -4.f; };
  options.candidates = 60;
  RerankTest right = test_reranker(second, blind, second.collection("default"), judge, options);
  EXPECT_LT(right.before.mean, 0.9);
  EXPECT_TRUE(right.gain.higher) << right.gain.difference.mean << " " << right.gain.differing;
}

TEST_F(SelfTest, SaysNothingOnFewHeadings) {
  CollectionInfo info = ingest_sections(5);
  judge.odds = [](const std::string&, const std::string&) { return 0.f; };
  EXPECT_EQ(test_reranker(store, embedder, info, judge, {}).questions, 0);
}

}  // namespace
}  // namespace apud
