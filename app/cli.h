// The command line: one table of verbs and options; help, errors and shell completion come from it.
#pragma once

#include <string>

#include "app/options.h"

namespace apud {

/// Outcome of parsing: run a verb, or print `text` and leave with `exit_code` (help, version).
struct Parsed {
  Options options;
  bool run = true;
  int exit_code = 0;
  std::string text;
};
/// Throws kUsage for wrong arguments, with the nearest verb in the advice.
Parsed parse_command_line(int argc, const char* const* argv, Settings defaults);

/// Completion script for "bash", "zsh" or "fish"; throws kUsage for another shell.
std::string completion_script(const std::string& shell);

}  // namespace apud
