#include "app/prompts.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace apud {
namespace {

TEST(SaysNotInDocuments, RefusalsAndAnswers) {
  EXPECT_TRUE(says_not_in_documents("Not in the documents."));
  EXPECT_TRUE(says_not_in_documents("\n \"Not in the documents\""));
  EXPECT_TRUE(says_not_in_documents("**Not in the documents.**"));
  EXPECT_TRUE(says_not_in_documents("NOT IN THE DOCUMENTS"));
  EXPECT_TRUE(says_not_in_documents("The passages do not contain the answer."));
  EXPECT_TRUE(says_not_in_documents("文档中没有。"));
  EXPECT_TRUE(says_not_in_documents("文档中没有提到这一点。"));
  EXPECT_TRUE(says_not_in_documents("不在文档中"));
  EXPECT_FALSE(says_not_in_documents(""));
  EXPECT_FALSE(says_not_in_documents("Three weeks [1]."));
  EXPECT_FALSE(
      says_not_in_documents("The rule says: what is not in the documents is not a rule [1]."));
  EXPECT_FALSE(says_not_in_documents("三个星期 [1]。"));
}

TEST(EvidenceFrame, EmptyEvidenceGivesNothing) {
  EXPECT_EQ(evidence_frame("", "Why?"), "");
  std::string frame = evidence_frame("[1] text\n\n", "Why?");
  EXPECT_NE(frame.find("[1] text\n\nAnswer"), std::string::npos) << frame;
  EXPECT_TRUE(frame.ends_with("Question: "));
  EXPECT_NE(frame.find("full sentence"), std::string::npos) << frame;
  EXPECT_EQ(evidence_frame("[1] text", "为什么？").find("full sentence"), std::string::npos);
}

}  // namespace
}  // namespace apud
