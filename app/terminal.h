// The one place that writes to the user: stdout for answers, stderr for everything else. Untrusted
// text (model, documents, file names) passes the filter of base/utf8.h before it gets here or goes
// through the *_text functions, which apply it.
//
// Threads: one thread writes.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "base/error.h"

namespace apud {

struct TerminalState {
  bool stdin_tty = false;
  bool stdout_tty = false;
  bool stderr_tty = false;
  bool colour = false;  // on stderr and stdout where they are terminals; NO_COLOR and TERM=dumb win
  int columns = 80;
  bool dumb = false;  // TERM=dumb or none: lines cannot be written over
};
/// Takes the places of standard descriptors that whoever started apud has closed, so that no file
/// of ours gets them: reading or writing there fails as before.
void occupy_closed_descriptors();
/// Looks at the file descriptors, NO_COLOR, TERM and the window size.
TerminalState inspect_terminal();

class Terminal {
 public:
  explicit Terminal(const TerminalState& state) : state_(state) {}

  const TerminalState& state() const { return state_; }
  void set_quiet(bool quiet) { quiet_ = quiet; }
  bool quiet() const { return quiet_; }

  /// Answer text: filtered, to stdout. Throws kIo when stdout cannot be written (a full disk behind
  /// `> file` is never exit 0); a closed pipe ends the process quietly (SIGPIPE, exit 141).
  void out_text(std::string_view untrusted);
  /// Trusted bytes (JSON, our own layout) to stdout, unfiltered.
  void out(std::string_view bytes);
  /// Pushes what is buffered; throws kIo.
  void flush();
  /// Standard output failed: there is no use in going on.
  bool broken() const { return broken_; }

  /// One filtered line on stderr. note() is silenced by --quiet, warn() as well, error() never.
  void note(std::string_view line);
  void warn(std::string_view line);
  void error(std::string_view line);
  /// Dim line on stderr, only on a terminal and not with --quiet.
  void dim(std::string_view line);
  /// Part of a model's reasoning, as it comes: to stderr, dim where there is colour, filtered.
  void reasoning(std::string_view untrusted);
  /// A line that replaces itself, only when stderr is a terminal; at most 10 times a second unless
  /// `force`. Empty clears.
  void progress(std::string_view line, bool force = false);

 private:
  TerminalState state_;
  bool quiet_ = false;
  bool progress_shown_ = false;
  int progress_width_ = 0;
  bool broken_ = false;
  std::chrono::steady_clock::time_point last_progress_{};
  std::string buffer_;
};

}  // namespace apud
