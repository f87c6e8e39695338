// An answer on its way to the reader: how far the prompt is read, then the text as it is made.
//
// Threads: one thread; what attach() puts into the request is called by generate() on that thread.
#pragma once

#include <span>
#include <string>

#include "app/answer.h"
#include "app/progress.h"
#include "app/terminal.h"
#include "engine/engine.h"

namespace apud {

class LiveAnswer {
 public:
  /// stream: write the text to standard output. reasoning: show it on stderr.
  LiveAnswer(Terminal& terminal, std::span<const Passage> passages, Citing citing, bool stream,
             bool reasoning)
      : terminal_(terminal),
        reading_(terminal),
        text_(passages, citing),
        stream_(stream),
        reasoning_(reasoning) {}

  /// Shows the reading of the request's prompt at once and follows its run. The object must outlive
  /// it.
  void attach(Request& request);
  /// After the run: the rest of the text and the end of its last line.
  void finish();

 private:
  void show(const std::string& text);
  void end_reasoning();

  Terminal& terminal_;
  ReadingProgress reading_;
  AnswerStream text_;
  bool stream_, reasoning_;
  bool line_ended_ = false;
  bool reasoning_open_ = false;  // its last line has no end yet
};

}  // namespace apud
