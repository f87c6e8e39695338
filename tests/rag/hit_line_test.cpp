#include "rag/hit_line.h"

#include <gtest/gtest.h>

#include "base/utf8.h"

namespace apud {
namespace {

Hit hit() {
  auto source = std::make_shared<DocumentText>();
  source->text =
      "Before.\n\n# Birds\n\nThe owl sleeps.\n  The heron stands in the reed. \nThe gull cries.\n";
  source->anchors = {{0, 1, 0, ""}};
  Hit hit;
  hit.source = source;
  hit.begin = source->text.find("# Birds");
  hit.end = source->text.size();
  hit.text = source->text.substr(hit.begin);
  hit.from = source->anchor_at(hit.begin);
  return hit;
}

TEST(HitLine, TheLineWithTheWords) {
  HitLine line = best_line(hit(), "where do herons stand");
  EXPECT_EQ(line.text, "The heron stands in the reed.");
  EXPECT_EQ(line.from.line, 6);
  EXPECT_EQ(best_line(hit(), "gull").from.line, 7);
}

TEST(HitLine, TheMeaningWhereNoWordsAreShared) {
  Hit h = hit();
  EXPECT_EQ(best_line(h, "苍鹭").text, "# Birds") << "the first, where nothing tells";
  size_t at = h.source->text.find("The gull");
  h.sentences = {{h.begin, h.begin + 5, 0.2F}, {at, at + 10, 0.6F}};
  EXPECT_EQ(best_line(h, "海鸥").text, "The gull cries.");
  EXPECT_EQ(best_line(h, "owl").text, "The owl sleeps.") << "words come first";
}

TEST(HitLine, AParagraphInOneLineIsCutToItsBestSentences) {
  auto paragraph = [](std::string_view filler, std::string_view wanted) {
    Hit h;
    for (int i = 0; i < 30; ++i) h.text += i == 17 ? wanted : filler;
    return h;
  };
  Hit h = paragraph("The gull cries over the harbour. ", "The heron stands in the reed. ");
  HitLine line = best_line(h, "where do herons stand");
  EXPECT_TRUE(line.text.starts_with("… The heron stands in the reed. The gull cries") &&
              line.text.ends_with("harbour. …"))
      << line.text;
  EXPECT_LE(display_width(line.text), 320 + 4) << line.text;
  EXPECT_GT(display_width(line.text), 240) << "what is around it has room: " << line.text;
  h = paragraph("海鸥在港口上空鸣叫。", "苍鹭站在芦苇丛里。");
  line = best_line(h, "苍鹭在哪里");
  EXPECT_NE(line.text.find("苍鹭站在芦苇丛里。"), std::string::npos) << line.text;
  EXPECT_LE(display_width(line.text), 320 + 4) << line.text;
  h.text = std::string(100, 'x') + " heron";
  EXPECT_EQ(best_line(h, "heron").text, h.text) << "short enough";
}

TEST(HitLine, OfATextWithoutText) {
  Hit h = hit();
  h.text = "  \n ";
  EXPECT_EQ(best_line(h, "x").text, "");
}

}  // namespace
}  // namespace apud
