// Texts that a command line names (-f), and standard input.
//
// Threads: one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "rag/store.h"

namespace apud {

/// A text given with -f (or on stdin).
struct NamedText {
  std::string name;
  std::shared_ptr<const DocumentText> text;  // with the pages or lines of the file
};

/// Reads -f files, pipes that have a name (and stdin for "-"). Throws kNoInput, kBadData,
/// Interrupted.
std::vector<NamedText> read_named_texts(const std::vector<std::string>& files);
/// All of stdin, at most 64 MiB, as it comes.
std::string read_stdin();

}  // namespace apud
