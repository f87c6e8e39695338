// From token bytes to the text a reader sees, while it is being generated: whole UTF-8 only, the
// model's reasoning split off, stop strings found also across tokens. Text is held back only as far
// as a marker or stop string may begin in it.
//
// Threads: one object per answer, one thread at a time.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"

namespace apud {

/// How a thinking model marks its reasoning.
struct ReasoningMarkers {
  std::string open = "<think>";
  std::string close = "</think>";
  bool starts_open = false;  // the prompt itself opened the reasoning
};

class TextStream {
 public:
  TextStream(std::vector<std::string> stop_strings, std::optional<ReasoningMarkers> reasoning);

  struct Piece {
    std::string answer;     // may be shown now
    std::string reasoning;  // may be shown now
  };
  /// Adds the bytes of one token. After stopped() nothing more may be pushed.
  Piece push(std::string_view bytes);
  /// The end of the answer: hands out what was held back.
  Piece finish();

  /// Inside the model's reasoning.
  bool thinking() const { return thinking_; }
  /// Between the end of the reasoning and the first character of the answer.
  bool after_reasoning() const { return skip_newlines_; }
  /// A stop string was met; the answer ends before it.
  bool stopped() const { return stopped_by_ >= 0; }
  const std::string& stop_string() const { return stop_[static_cast<size_t>(stopped_by_)]; }

 private:
  void split(std::string_view text, bool last, Piece& out);
  void emit_answer(std::string_view text, bool last, Piece& out);

  std::vector<std::string> stop_;
  std::optional<ReasoningMarkers> markers_;
  Utf8Stream utf8_;
  std::string undecided_;  // may begin a marker
  std::string held_;       // may begin a stop string
  bool thinking_ = false;
  bool opened_ = false;  // something was seen before which no marker may open
  bool skip_newlines_ = false;
  int stopped_by_ = -1;
};

}  // namespace apud
