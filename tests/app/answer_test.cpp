#include "app/answer.h"

#include <gtest/gtest.h>

#include "app/live_answer.h"

namespace apud {
namespace {

Finished searched() {
  Passage a, b;
  a.id = 1, a.document = 3, a.score = 0.8;
  a.source_text = a.text = "The borrowed telescope may be kept for three weeks by a member.";
  b.id = 2, b.document = 4, b.score = 0.5;
  b.source_text = b.text = "The cleaning of a mirror is the work of the optician.";
  Finished finished;
  finished.evidence.found = true;
  finished.evidence.retrieval.emplace();
  finished.evidence.packed.passages = {a, b};
  return finished;
}

Finished checked(Finished finished, const std::string& text) {
  Completion completion;
  completion.text = text;
  check_finished(finished, completion, citable(finished));
  return finished;
}

std::string streamed(const Finished& finished, std::string_view text) {
  std::vector<Passage> passages = citable(finished);
  AnswerStream stream(passages, citing(finished));
  std::string out;
  for (char c : text) out += stream.push(std::string_view(&c, 1));
  return out + stream.finish();
}

TEST(Answer, WhatSharesNoWordWithThePassagesIsNoEvidence) {
  Finished foreign = checked(searched(), "Knead the dough for ten minutes and let it rest.");
  EXPECT_TRUE(foreign.refused);
  EXPECT_TRUE(foreign.checked.citations.empty());
  ASSERT_EQ(foreign.warnings.size(), 1u);

  Finished good = checked(searched(), "It may be kept three weeks.");
  EXPECT_FALSE(good.refused);
  ASSERT_EQ(good.checked.citations.size(), 1u);
  EXPECT_EQ(good.checked.citations[0].passage, 1);
  EXPECT_TRUE(checked(searched(), "Yes.").checked.citations.size() == 1);
  EXPECT_FALSE(checked(searched(), "").refused);
}

TEST(Answer, OnlyWhatWasSearchedForMustCite) {
  const std::string foreign = "Knead the dough for ten minutes and let it rest.";
  Finished thanks = searched();
  thanks.evidence.found = false;
  EXPECT_FALSE(checked(thanks, foreign).refused);
  EXPECT_TRUE(checked(thanks, "Knead the dough for ten minutes. [1]").checked.citations.empty());
  Finished given = searched();  // -f
  given.evidence.packed.passages[1].document = 0;
  EXPECT_FALSE(checked(given, foreign).refused);
  EXPECT_EQ(checked(given, "Knead the dough for ten minutes. [1]").checked.citations.size(), 1u);
}

TEST(Answer, TheStreamShowsWhatIsChecked) {
  for (const std::string text :
       {"It may be kept three weeks.", "Yes.", "Not in the documents.", "Knead the dough [2].",
        "Three weeks [2]. The optician, after that, does the rest."}) {
    EXPECT_EQ(streamed(searched(), text), checked(searched(), text).checked.text) << text;
  }
}

TEST(Answer, TheLegendTellsWhatDoesNotHold) {
  CheckedAnswer checked;
  for (bool verified : {true, false}) {
    Citation citation;
    citation.number = verified ? 1 : 2;
    citation.path = "/a.md";
    citation.line = 3;
    citation.verified = verified;
    checked.citations.push_back(citation);
  }
  EXPECT_EQ(legend_text(checked), "[1] /a.md:3\n[2] /a.md:3  (not verified)\n");
}

TEST(Answer, ReasoningGoesToTheJsonAlone) {
  Completion completion;
  completion.text = "It may be kept three weeks.";
  completion.reasoning = "a hidden thought";
  Finished finished = searched();
  check_finished(finished, completion, citable(finished));
  EXPECT_EQ(finished.checked.text.find("hidden"), std::string::npos);
  EXPECT_NE(answer_json(finished, true).find("a hidden thought"), std::string::npos);

  for (bool shown : {false, true}) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    Terminal terminal(TerminalState{true, true, true, false, 80, true});
    LiveAnswer live(terminal, {}, Citing::kMay, true, shown);
    Request request;
    live.attach(request);
    request.on_text({completion.reasoning, 0, true});
    request.on_text({completion.text, 0, false});
    live.finish();
    terminal.flush();
    EXPECT_EQ(testing::internal::GetCapturedStdout(), completion.text + "\n");
    EXPECT_EQ(testing::internal::GetCapturedStderr(), shown ? "a hidden thought\n" : "");
  }
}

}  // namespace
}  // namespace apud
