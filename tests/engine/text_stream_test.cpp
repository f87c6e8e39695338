#include "engine/text_stream.h"

#include <gtest/gtest.h>

#include <random>

namespace apud {
namespace {

struct Out {
  std::string answer, reasoning;
  bool stopped = false;
  std::string by;
};

/// Pushes `text` in pieces cut at the given places; checks every piece on the way.
Out run(const std::string& text, const std::vector<size_t>& cuts, std::vector<std::string> stops,
        std::optional<ReasoningMarkers> markers) {
  TextStream stream(std::move(stops), std::move(markers));
  Out out;
  size_t from = 0;
  auto take = [&](const TextStream::Piece& piece) {
    EXPECT_TRUE(utf8_valid(piece.answer)) << "broken UTF-8";
    EXPECT_TRUE(utf8_valid(piece.reasoning)) << "broken UTF-8";
    out.answer += piece.answer;
    out.reasoning += piece.reasoning;
  };
  for (size_t i = 0; i <= cuts.size() && !stream.stopped(); ++i) {
    size_t to = i < cuts.size() ? cuts[i] : text.size();
    take(stream.push(std::string_view(text).substr(from, to - from)));
    from = to;
  }
  take(stream.finish());
  out.stopped = stream.stopped();
  if (out.stopped) out.by = stream.stop_string();
  return out;
}

TEST(TextStream, EveryCutGivesTheSame) {
  struct Case {
    std::string text;
    std::vector<std::string> stops;
    std::optional<ReasoningMarkers> markers;
    std::string answer, reasoning, by;
  };
  ReasoningMarkers think;
  ReasoningMarkers open = think;
  open.starts_open = true;
  const Case cases[] = {
      {"plain text, héllo 中文 🙂", {}, {}, "plain text, héllo 中文 🙂", "", ""},
      {"one STOP two", {"STOP"}, {}, "one ", "", "STOP"},
      {"one STO two ST", {"STOP"}, {}, "one STO two ST", "", ""},
      {"aab", {"ab"}, {}, "a", "", "ab"},
      {"x中文y", {"文"}, {}, "x中", "", "文"},
      {"one\n\nUser: two", {"\nUser:", "User:"}, {}, "one\n", "", "\nUser:"},
      {"<think>why 中</think>\n\nanswer", {}, think, "answer", "why 中", ""},
      {"\n<think>why</think>answer <think>kept</think>",
       {},
       think,
       "answer <think>kept</think>",
       "why",
       ""},
      {"no marker <think>x</think>", {}, think, "no marker <think>x</think>", "", ""},
      {"why STOP</think>\nanswer STOP more", {"STOP"}, open, "answer ", "why STOP", "STOP"},
      {"never closed", {}, open, "", "never closed", ""},
      {"<thin", {}, think, "<thin", "", ""},
  };
  for (const Case& c : cases) {
    for (size_t a = 0; a <= c.text.size(); ++a) {
      for (size_t b = a; b <= c.text.size(); ++b) {
        Out out = run(c.text, {a, b}, c.stops, c.markers);
        ASSERT_EQ(out.answer, c.answer) << c.text << " cut at " << a << "," << b;
        ASSERT_EQ(out.reasoning, c.reasoning) << c.text << " cut at " << a << "," << b;
        ASSERT_EQ(out.by, c.by) << c.text << " cut at " << a << "," << b;
      }
    }
    std::vector<size_t> every;
    for (size_t i = 1; i < c.text.size(); ++i) every.push_back(i);
    EXPECT_EQ(run(c.text, every, c.stops, c.markers).answer, c.answer);
  }
}

TEST(TextStream, HoldsBackOnlyWhatMayBegin) {
  TextStream stream({"END"}, {});
  EXPECT_EQ(stream.push("abc").answer, "abc");
  EXPECT_EQ(stream.push("dE").answer, "d");
  EXPECT_EQ(stream.push("N").answer, "");
  EXPECT_EQ(stream.push("x").answer, "ENx");
  EXPECT_EQ(stream.push("\xE4\xB8").answer, "");
  EXPECT_EQ(stream.push("\xAD!").answer, "中!");
  EXPECT_EQ(stream.push("\xE4\xB8").answer, "");
  EXPECT_EQ(stream.finish().answer, "\xEF\xBF\xBD");
}

TEST(TextStream, HostileBytesNeverBreak) {
  std::mt19937 rng(3);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (int i = 0; i < 60; ++i) bytes.push_back(static_cast<char>(rng() % 4 ? rng() % 256 : '<'));
    std::vector<size_t> cuts;
    for (size_t i = 1; i < bytes.size(); ++i) cuts.push_back(i);
    Out out = run(bytes, cuts, {"<<<"}, ReasoningMarkers{});
    std::string repaired = utf8_repair(bytes);
    EXPECT_EQ(out.answer, repaired.substr(0, repaired.find("<<<")));
  }
}

}  // namespace
}  // namespace apud
