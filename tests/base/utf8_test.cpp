#include "base/utf8.h"

#include <gtest/gtest.h>

#include <random>

namespace apud {
namespace {

TEST(Utf8, EveryScalarValueRoundTrips) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    utf8_append(text, c);
    Utf8Char decoded = utf8_decode(text, 0);
    ASSERT_TRUE(decoded.valid);
    ASSERT_EQ(decoded.code, c);
    ASSERT_EQ(decoded.size, text.size());
  }
}

// Table 3-8 of the Unicode standard: maximal subparts become one U+FFFD each.
TEST(Utf8, MaximalSubpartsAsInTheStandard) {
  EXPECT_EQ(utf8_repair("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  EXPECT_EQ(utf8_repair("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(utf8_repair("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
}

// However bytes are cut, the stream gives what repairing the whole gives.
TEST(Utf8, StreamEqualsWholeAtEverySplit) {
  std::mt19937 rng(7);
  const std::string pieces[] = {"a",        "é",    "中",           "😀", "\x80", "\xE4\xB8",
                                "\xF0\x9F", "\xC0", "\xED\xA0\x80", "\n"};
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += pieces[rng() % std::size(pieces)];
    std::string whole = utf8_repair(text);
    for (size_t cut = 0; cut <= text.size(); ++cut) {
      Utf8Stream stream;
      std::string first = stream.push(text.substr(0, cut));
      EXPECT_TRUE(utf8_valid(first));
      std::string second = stream.push(text.substr(cut));
      EXPECT_EQ(first + second + stream.finish(), whole);
    }
  }
}

TEST(Utf8, TerminalFilterLeavesNoEscape) {
  const std::string attacks[] = {"\x1b]0;title\x07",
                                 "\x1b]52;c;YQ==\x1b\\",
                                 "\x1b[2J",
                                 "\x1b"
                                 "c",
                                 "\xC2\x9B"
                                 "31m",
                                 "\x1bP1;2|x\x1b\\",
                                 "\b\b\b",
                                 "\r",
                                 "\x7f",
                                 "\u202Eabc",
                                 "\U000E0041",
                                 "\u2066x\u2069"};
  for (const std::string& attack : attacks) {
    std::string shown = printable("ok " + attack + " end\n\tx");
    for (size_t pos = 0; pos < shown.size();) {
      Utf8Char c = utf8_decode(shown, pos);
      EXPECT_TRUE(c.valid);
      EXPECT_FALSE(c.code < 0x20 && c.code != '\n' && c.code != '\t') << attack;
      EXPECT_FALSE(c.code >= 0x7F && c.code < 0xA0);
      EXPECT_FALSE(c.code >= 0x202A && c.code <= 0x202E);
      EXPECT_FALSE(c.code >= 0x2066 && c.code <= 0x2069);
      EXPECT_FALSE(c.code >= 0xE0000 && c.code <= 0xE007F);
      pos += c.size;
    }
  }
  EXPECT_EQ(printable("a\x1b[0m\n"), "a\\x1b[0m\n");
  EXPECT_EQ(printable("a\nb", true), "a\\nb");
  EXPECT_EQ(printable("中文 é 😀"), "中文 é 😀");
}

TEST(Utf8, Widths) {
  EXPECT_EQ(display_width("abc"), 3);
  EXPECT_EQ(display_width("中文"), 4);
  EXPECT_EQ(display_width("e\u0301"), 1);
}

}  // namespace
}  // namespace apud
