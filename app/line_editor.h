// Line input for chat: libedit on a terminal (history, editing, bracketed paste, which libedit
// lacks and we bind ourselves), plain lines elsewhere. A line ending in a backslash, or text
// between two lines of """, is one input of several lines.
//
// Threads: one thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/file.h"

namespace apud {

class LineEditor {
 public:
  /// `history` is read now and appended to after each input (0600); an empty path keeps none.
  LineEditor(bool terminal, const Path& history);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  struct Input {
    enum Kind { kText, kInterrupted, kEnd } kind = kEnd;
    std::string text;  // repaired UTF-8
  };
  /// One input. kInterrupted: Ctrl-C at the prompt. kEnd: Ctrl-D, end of file or an ending signal.
  Input read(const std::string& prompt);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace apud
