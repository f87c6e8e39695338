// Constrained citation ids: what may follow an open mark.
#include "app/citation_mask.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace apud {
namespace {

const std::vector<std::string> kVocabulary = {
    "",   "[",  "]",   "1",   "2", "3", "12",   "9", " [",    "[1",     "[9", "a", ", ",
    "].", "[x", "[1]", "[4]", "-", "`", "a[7]", " ", "[1, 4", "[2][3]", "0",  "11"};

/// The tokens that may follow, by their text.
std::vector<std::string> after(CitationMask& mask, std::string_view answer) {
  auto bits = mask.allowed(answer);
  std::vector<std::string> out;
  for (size_t t = 0; t < kVocabulary.size(); ++t) {
    if (bits.empty() || (bits[t / 64] >> (t % 64) & 1)) out.push_back(kVocabulary[t]);
  }
  return out;
}

bool may(CitationMask& mask, std::string_view answer, const std::string& token) {
  auto tokens = after(mask, answer);
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

TEST(CitationMask, OnlyKnownIdsCanBeWritten) {
  CitationMask mask(kVocabulary, {2, 1, 12});
  for (const char* token : {"[", " [", "[1", "[1]", "[x", "a", "1", "9", "", "]"})
    EXPECT_TRUE(may(mask, "Paris is large ", token)) << token;
  for (const char* token : {"[9", "[4]", "a[7]", "[1, 4", "[2][3]"})
    EXPECT_FALSE(may(mask, "Paris is large ", token)) << token;
  for (const char* token : {"1", "2", "12", "a", "]", " "})
    EXPECT_TRUE(may(mask, "large [", token)) << token;
  for (const char* token : {"3", "9", "0", "11"})
    EXPECT_FALSE(may(mask, "large [", token)) << token;
}

TEST(CitationMask, NoMarkBeforeTheFirstWord) {
  CitationMask mask(kVocabulary, {2, 1, 12});
  for (const char* answer : {"", " ", "**"}) {
    for (const char* token : {"[", " [", "[1", "[1]"})
      EXPECT_FALSE(may(mask, answer, token)) << answer << token;
    for (const char* token : {"[x", "a", "1", "", "]"})
      EXPECT_TRUE(may(mask, answer, token)) << answer << token;
  }
  for (const char* answer : {"a", "3", "桥"}) EXPECT_TRUE(may(mask, answer, "[1]")) << answer;
}

TEST(CitationMask, AMarkGrowsOnlyIntoKnownIds) {
  CitationMask mask(kVocabulary, {1, 2, 12});
  EXPECT_TRUE(may(mask, "x [1", "2"));   // 12
  EXPECT_FALSE(may(mask, "x [1", "1"));  // 11
  EXPECT_TRUE(may(mask, "x [1", "]"));
  EXPECT_TRUE(may(mask, "x [1", ", "));
  EXPECT_TRUE(may(mask, "x [1, ", "2"));
  EXPECT_FALSE(may(mask, "x [1, ", "3"));
  EXPECT_FALSE(may(mask, "x [12", "1"));
  EXPECT_TRUE(may(mask, "x [12", "]."));
  // A prefix of an id that is none itself must go on.
  CitationMask high(kVocabulary, {12});
  EXPECT_TRUE(may(high, "x [", "1"));
  EXPECT_FALSE(may(high, "x [1", "]"));
  EXPECT_FALSE(may(high, "x [1", ", "));
  EXPECT_TRUE(may(high, "x [1", "2"));
}

TEST(CitationMask, TextThatIsNoMarkIsFree) {
  CitationMask mask(kVocabulary, {1});
  EXPECT_EQ(after(mask, "see `argv[").size(), kVocabulary.size()) << "inside code";
  EXPECT_FALSE(may(mask, "see `argv[0]` and [", "9")) << "behind it";
  EXPECT_TRUE(may(mask, "see [note ", "9")) << "a bracket with words in it";
  EXPECT_TRUE(may(mask, "in [1] there are ", "9")) << "a closed mark";
}

TEST(CitationMask, AllIdsOfALongConversationCanBeReached) {
  std::vector<int> ids;
  for (int i = 1; i <= 40; ++i) ids.push_back(i * 3);
  std::vector<std::string> digits = {"[", "]", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
  CitationMask mask(digits, ids);
  int written = 0;
  for (int n = 0; n < 1000; ++n) {
    std::string text = "x [";
    bool allowed = true;
    for (char c : std::to_string(n) + "]") {
      size_t token = c == ']' ? 1 : static_cast<size_t>(c - '0') + 2;
      allowed = allowed && (mask.allowed(text)[0] >> token & 1);
      text += c;
    }
    EXPECT_EQ(allowed, n > 0 && n % 3 == 0 && n <= 120) << n;
    written += allowed;
  }
  EXPECT_EQ(written, 40);
}

}  // namespace
}  // namespace apud
