#include "rag/ledger.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "rag/eval.h"

namespace apud {
namespace {

Passage passage(int id, double score = 0.5) {
  Passage p;
  p.id = id;
  p.document = 7;
  p.path = "/d/\"x\".md";
  p.begin = id * 100;
  p.end = id * 100 + 50;
  p.text = "text, then text " + std::to_string(id) + " " + std::string(50, '.');
  p.text.resize(50);
  p.source_text = p.text;
  p.parts = {{p.begin, p.end}};
  p.score = score;
  return p;
}

/// Turns of two passages of 100 tokens each.
Ledger ten_turns() {
  Ledger ledger;
  for (int turn = 1; turn <= 10; ++turn) {
    std::vector<Passage> fresh = {passage(ledger.next_id()), passage(ledger.next_id() + 1)};
    std::vector<int> tokens = {100, 100};
    ledger.add_turn(turn, fresh, tokens, {});
  }
  return ledger;
}

TEST(Ledger, IdsStayAndSentIsWhatIsInThePrompt) {
  Ledger ledger = ten_turns();
  EXPECT_EQ(ledger.next_id(), 21);
  EXPECT_EQ(ledger.prompt_tokens(), 2000);
  EXPECT_EQ(ledger.sent().size(), 20u);
  Refinement plan;
  plan.changes = {{1, {}, 0}, {2, {{200, 204}, {206, 211}}, 30}};
  ledger.apply(plan);
  EXPECT_EQ(ledger.prompt_tokens(), 1830);
  std::vector<SentRange> sent = ledger.sent();
  ASSERT_EQ(sent.size(), 20u);  // one passage left, another is in two parts now
  EXPECT_EQ(sent[0].passage, 2);
  EXPECT_EQ(sent[0].end, 204u);
  EXPECT_EQ(sent[1].begin, 206u);
  EXPECT_EQ(ledger.entries()[1].passage.text, "text … then ");
  EXPECT_EQ(ledger.entries()[1].passage.source_text.size(), 50u) << "quotes are still checked";
  EXPECT_EQ(ledger.next_id(), 21);
  EXPECT_EQ(ledger.passages().size(), 20u);  // old answers stay citable
}

TEST(Ledger, WhatOlderTurnsBroughtStandsAtTheFirst) {
  Ledger ledger = ten_turns();
  auto ids = [&](int turn, int first) {
    std::vector<int> out;
    for (const Passage& p : ledger.standing_at(turn, first)) out.push_back(p.id);
    return out;
  };
  EXPECT_EQ(ids(3, 1), (std::vector<int>{5, 6}));
  EXPECT_EQ(ids(3, 3), (std::vector<int>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(ids(2, 3), std::vector<int>{});
  EXPECT_EQ(ids(4, 3), (std::vector<int>{7, 8}));
}

TEST(Ledger, UndoAndJsonRoundTrip) {
  Ledger ledger = ten_turns();
  ledger.note_citation(3, 7);
  ledger.note_citation(3, 2);
  ledger.note_citation(3, 7);
  ledger.note_citation(999, 7);  // invented: ignored
  EXPECT_EQ(ledger.entries()[2].cited, (std::vector<int>{2, 7}));
  std::string saved = ledger.to_json();
  EXPECT_EQ(Ledger::from_json(saved).to_json(), saved);
  ledger.truncate(6);
  EXPECT_EQ(ledger.next_id(), 11);
  EXPECT_EQ(ledger.entries()[2].cited, std::vector<int>{2});
  EXPECT_NE(ledger.to_json(), saved);
}

TEST(Ledger, DamagedJsonIsRefused) {
  std::string good = ten_turns().to_json();
  auto damaged = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "[";
  for (const std::string& bad :
       {std::string(""), std::string("[]"), std::string("{}"), good.substr(0, good.size() - 3),
        deep, damaged("\"version\":2", "\"version\":1"), damaged("\"id\":1", "\"id\":5"),
        damaged("\"tokens\":100", "\"tokens\":-1"), damaged("\"hits\":1", "\"hits\":\"x\""),
        damaged("\"begin\":100", "\"begin\":100000"),
        damaged("\"parts\":[[100,150]]", "\"parts\":[[100,151]]"),
        damaged("\"parts\":[[100,150]]", "\"parts\":[[90,150]]"),
        damaged("\"parts\":[[100,150]]", "\"parts\":[[120,140],[130,150]]"),
        damaged("\"cited\":[]", "\"cited\":[3,2]")}) {
    try {
      Ledger::from_json(bad);
      ADD_FAILURE() << bad.substr(0, 80);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kBadData);
    }
  }
}

TEST(Eval, MeasuresMatchWorkedExamples) {
  // Gold at 1; at 3; not found; two golds, found at 2 and 12.
  std::vector<Judged> judged(4);
  judged[0].gold_ranks = {1};
  judged[1].gold_ranks = {3};
  judged[3].gold_ranks = {2, 12};
  judged[3].gold_total = 2;
  auto mean = [&](const std::string& name, int top = 10) {
    for (const Measure& measure : eval_measures(top)) {
      if (measure.name == name) return mean_of(measure, judged);
    }
    ADD_FAILURE() << "no measure " << name;
    return Interval{};
  };
  EXPECT_DOUBLE_EQ(mean("hit@1").mean, 0.25);
  EXPECT_DOUBLE_EQ(mean("hit@5").mean, 0.75);
  EXPECT_DOUBLE_EQ(mean("hit@10").mean, 0.75);
  EXPECT_DOUBLE_EQ(mean("recall@10").mean, (1 + 1 + 0 + 0.5) / 4);
  EXPECT_DOUBLE_EQ(mean("recall@2", 2).mean, (1 + 0 + 0 + 0.5) / 4);
  EXPECT_DOUBLE_EQ(mean("recall@20", 20).mean, 0.75);
  EXPECT_DOUBLE_EQ(mean("mrr@10").mean, (1 + 1.0 / 3 + 0 + 0.5) / 4);
  double two = (1 / std::log2(3.0)) / (1 + 1 / std::log2(3.0));
  EXPECT_NEAR(mean("ndcg@10", 5).mean, (1 + 0.5 + 0 + two) / 4, 1e-12);
  EXPECT_LT(mean("hit@10").low, 0.75);
  EXPECT_GT(mean("hit@10").high, 0.75);
}

TEST(Eval, PairsTellWhatTwoIntervalsCannot) {
  Measure rank{"mrr@10", {}};
  for (const Measure& m : eval_measures()) {
    if (m.name == rank.name) rank = m;
  }
  // Forty questions, half of them found first and half at 10: the means are anywhere in [.4, .7].
  std::vector<Judged> theirs(40), mine;
  for (size_t i = 0; i < theirs.size(); ++i) theirs[i].gold_ranks = {i % 2 ? 10 : 1};
  mine = theirs;
  PairedDifference same = paired_difference(rank, mine, theirs);
  EXPECT_EQ(same.differing, 0);
  EXPECT_EQ(same.difference.mean, 0);
  EXPECT_FALSE(same.lower || same.higher);
  // Twelve of them one place worse.
  for (size_t i = 0; i < 24; i += 2) mine[i].gold_ranks = {2};
  EXPECT_GT(mean_of(rank, mine).high, mean_of(rank, theirs).low);
  PairedDifference worse = paired_difference(rank, mine, theirs);
  EXPECT_EQ(worse.differing, 12);
  EXPECT_DOUBLE_EQ(worse.difference.mean, -0.5 * 12 / 40);
  EXPECT_TRUE(worse.lower);
  EXPECT_FALSE(worse.higher);
  EXPECT_TRUE(paired_difference(rank, theirs, mine).higher);
  // As many better as worse: no difference.
  for (size_t i = 1; i < 24; i += 2) mine[i].gold_ranks = {2};
  EXPECT_FALSE(paired_difference(rank, mine, theirs).lower);
  // Five questions are too few for any paired test, six are enough.
  for (size_t few : {5, 6}) {
    std::vector<Judged> there(few), here(few);
    for (Judged& j : there) j.gold_ranks = {1};
    EXPECT_EQ(paired_difference(rank, here, there).lower, few == 6);
  }
}

TEST(Eval, CitedOnlyWhereAsked) {
  auto names = [](bool cited) {
    std::vector<std::string> all;
    for (const Measure& m : eval_measures(10, cited)) all.push_back(m.name);
    return all;
  };
  std::vector<std::string> with = names(true), without = names(false);
  EXPECT_EQ(std::count(without.begin(), without.end(), "cited"), 0);
  ASSERT_EQ(with.size(), without.size() + 1);
  std::vector<Judged> judged(2);
  judged[0].cited = true;
  for (const Measure& m : eval_measures(10, true)) {
    if (m.name == "cited") {
      EXPECT_EQ(mean_of(m, judged).mean, 0.5);
    }
  }
}

TEST(Eval, QuestionFiles) {
  auto q = parse_eval_questions(
      "{\"question\":\"a?\",\"gold\":[\"x.md#the text\"]}\n\n"
      "{\"id\":\"k\",\"question\":\"b?\",\"gold\":[\"y.md\",\"#only\"]}");
  ASSERT_EQ(q.size(), 2u);
  EXPECT_EQ(q[0].id, "1");
  EXPECT_EQ(q[0].gold[0].text, "the text");
  EXPECT_TRUE(gold_matches(q[0].gold[0], "/a/x.md", "holds the\n text here"));
  EXPECT_FALSE(gold_matches(q[0].gold[0], "/a/x.md", "holds other text"));
  EXPECT_FALSE(gold_matches(q[0].gold[0], "/a/ax.md", "the text"));
  EXPECT_TRUE(gold_matches(q[1].gold[1], "/any", "only"));
  for (const char* bad :
       {"x", "{}", "{\"question\":\"\",\"gold\":[\"a\"]}", "{\"question\":\"a\",\"gold\":[]}",
        "{\"question\":\"a\",\"gold\":[1]}", "{\"question\":\"a\",\"gold\":[\"a\"],\"z\":1}"}) {
    EXPECT_THROW(parse_eval_questions(bad), Error) << bad;
  }
}

}  // namespace
}  // namespace apud
