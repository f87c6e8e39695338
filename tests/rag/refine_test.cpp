#include "rag/refine.h"

#include <gtest/gtest.h>

#include <random>

namespace apud {
namespace {

/// Words and marks: about what a tokenizer gives.
class WordCounter : public TokenCounter {
 public:
  int count(std::string_view text) const override {
    int words = 0;
    bool inside = false;
    for (char c : text) {
      bool space = c == ' ' || c == '\n';
      words += !space && !inside;
      inside = !space;
    }
    return words;
  }
};

struct Talk {
  Ledger ledger;
  std::vector<EvidenceRound> rounds;
  WordCounter counter;

  /// A round whose evidence is one passage per text.
  void round(const std::string& question, const std::vector<std::string>& texts,
             const std::string& answer, int cites = -1) {
    int turn = static_cast<int>(rounds.size()) + 1;
    std::vector<Passage> passages;
    std::vector<int> tokens;
    for (const std::string& text : texts) {
      Passage p;
      p.id = ledger.next_id() + static_cast<int>(passages.size());
      p.document = p.id;
      p.path = "/d/book.md";
      p.heading_path = "Heading";
      p.begin = 1000;
      p.end = 1000 + text.size();
      p.text = p.source_text = text;
      p.parts = {{p.begin, p.end}};
      tokens.push_back(counter.count(render_evidence(std::span(&p, 1))));
      passages.push_back(std::move(p));
    }
    int first = ledger.next_id();
    ledger.add_turn(turn, passages, tokens, {});
    if (cites >= 0) ledger.note_citation(first + cites, turn);
    rounds.push_back({turn, question, answer});
  }
  Refinement plan(int target) const {
    RefineOptions options;
    options.target = target;
    return plan_refinement(ledger, rounds, counter, options);
  }
  const Refinement::Change* change(const Refinement& plan, int id) const {
    for (const Refinement::Change& c : plan.changes) {
      if (c.id == id) return &c;
    }
    return nullptr;
  }
  std::string kept(const Refinement& plan, int id) const {
    const Passage& p = ledger.entries()[static_cast<size_t>(id) - 1].passage;
    const Refinement::Change* c = change(plan, id);
    return c ? text_of_parts(p, c->keep) : p.text;
  }
};

Talk library() {
  Talk talk;
  talk.round("How long may a borrowed telescope be kept?",
             {"The shop sells tea on Mondays. A borrowed telescope may be kept for three weeks. "
              "Bring a box for it.",
              "Coffee is served in the garden. Nobody rides a horse there."},
             "A telescope may be kept for three weeks [1].", 0);
  talk.round("Who repairs the telescope?",
             {"Mister Grau repairs every telescope in his workshop. He likes cake."},
             "Mister Grau repairs it [1].", 0);
  talk.round("What does the garden cost?", {"Entrance to the park is free."}, "");
  return talk;
}

TEST(Refine, WhatBearsQuestionAndAnswerStaysTheRestLeaves) {
  Talk talk = library();
  Refinement plan = talk.plan(1000);
  EXPECT_EQ(talk.kept(plan, 1), "A borrowed telescope may be kept for three weeks.");
  ASSERT_TRUE(talk.change(plan, 2));
  EXPECT_EQ(talk.kept(plan, 2), "Coffee is served in the garden.") << "bears the last question";
  EXPECT_EQ(talk.kept(plan, 3), "Mister Grau repairs every telescope in his workshop.");
  ASSERT_TRUE(talk.change(plan, 4));
  EXPECT_TRUE(talk.change(plan, 4)->keep.empty()) << "bears nothing that was asked";
  EXPECT_LT(plan.tokens_after, plan.tokens_before);
  Ledger after = talk.ledger;
  after.apply(plan);
  EXPECT_EQ(after.prompt_tokens(), plan.tokens_after);
  // What is left is all needed: the next plan changes nothing.
  talk.ledger = after;
  EXPECT_TRUE(talk.plan(1000).changes.empty());
}

TEST(Refine, EveryRoundKeepsItsBestBeforeAnyKeepsItsSecond) {
  Talk talk;
  for (int i = 0; i < 8; ++i) {
    std::string word = "subject" + std::to_string(i);
    std::string text;
    for (int s = 0; s < 6; ++s)
      text += "The " + word + " has its part number" + std::to_string(s) + " at place" +
              std::to_string(10 * i + s) + ". ";
    talk.round("Where is " + word + " place" + std::to_string(10 * i + 3) + "?", {text},
               "It is at place" + std::to_string(10 * i + 3) + " [1].", 0);
  }
  Refinement plan = talk.plan(130);
  EXPECT_LE(plan.tokens_after, 130);
  for (int i = 0; i < 8; ++i) {
    EXPECT_NE(talk.kept(plan, i + 1).find("place" + std::to_string(10 * i + 3) + "."),
              std::string::npos)
        << "round " << i + 1 << " kept: " << talk.kept(plan, i + 1);
  }
}

TEST(Refine, CitedPassagesComeBeforeOthersThatSayTheSame) {
  Talk talk;
  talk.round("When does the mill open?",
             {"The mill opens at nine in winter.", "The mill opens at nine in summer."},
             "The mill opens at nine [2].", 1);
  Refinement plan = talk.plan(12);
  EXPECT_FALSE(talk.change(plan, 2));
  ASSERT_TRUE(talk.change(plan, 1));
  EXPECT_TRUE(talk.change(plan, 1)->keep.empty());
}

TEST(Refine, NeighboursAreJoinedAndGapsShown) {
  Talk talk;
  talk.round("alpha beta gamma delta",
             {"Here is alpha beta. Then gamma delta follows.\n\nNothing of use stands here. And "
              "alpha gamma again."},
             "alpha beta gamma delta");
  Refinement plan = talk.plan(1000);
  EXPECT_EQ(talk.kept(plan, 1),
            "Here is alpha beta. Then gamma delta follows. … And alpha gamma again.");
}

TEST(Refine, RandomTalksStayWithinTheTarget) {
  std::mt19937 random(5);
  const char* words[] = {"灯塔", "river", "copper", "winter", "engine", "garden", "window"};
  for (int i = 0; i < 200; ++i) {
    Talk talk;
    for (int r = 0; r < 12; ++r) {
      std::vector<std::string> texts;
      for (unsigned p = 0; p < random() % 4; ++p) {
        std::string text;
        for (unsigned w = 0; w < random() % 60; ++w)
          text += std::string(words[random() % 7]) + (random() % 9 ? " " : ". ");
        if (!text.empty()) texts.push_back(text);
      }
      std::string question = words[random() % 7], answer = random() % 3 ? words[random() % 7] : "";
      int cites = texts.empty() ? -1 : static_cast<int>(random() % texts.size());
      talk.round(question, texts, answer, cites);
    }
    int target = static_cast<int>(random() % 300);
    Refinement plan = talk.plan(target);
    // What needs no change was counted as it was rendered; the marks of gaps come on top.
    EXPECT_LE(plan.tokens_after, target + 3 * static_cast<int>(talk.ledger.entries().size()));
    talk.ledger.apply(plan);
    EXPECT_EQ(talk.ledger.prompt_tokens(), plan.tokens_after);
    EXPECT_EQ(Ledger::from_json(talk.ledger.to_json()).to_json(), talk.ledger.to_json());
  }
}

}  // namespace
}  // namespace apud
