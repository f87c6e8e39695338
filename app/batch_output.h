// Where `apud batch` puts its answers: standard output, or a file that a later run goes on with.
//
// Threads: one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>

#include "app/json_text.h"
#include "app/terminal.h"
#include "base/file.h"

namespace apud {

class BatchOutput {
 public:
  /// path: of a file, or "-".
  BatchOutput(Terminal& terminal, std::string path) : terminal_(terminal), path_(std::move(path)) {}

  /// Opens the file, empties it unless it is gone on with, and keeps other batches out of it while
  /// this one lives. Throws kUsage where it is the file of the questions (descriptor `input`),
  /// kBusy where another batch writes to it.
  void open(int input, bool resume);
  /// Keys (item_key) of the questions that the file answers, with how often (an id may stand twice
  /// in the input). A torn last line and the lines of questions that failed leave the file: they
  /// are asked again. Throws kBadData, and leaves the file alone, where a line is no answer;
  /// Interrupted.
  std::map<std::string, int64_t> answered();
  /// Written when it returns. Throws kIo.
  void write_line(const std::string& line);

 private:
  void drop_failures(off_t whole);

  Terminal& terminal_;
  std::string path_;
  FileDescriptor file_;
  FileDescriptor replaced_;  // the file before drop_failures(), for its lock
};

/// What tells a question of the input from others: its id, else its line.
std::string item_key(const ordered_json& id, int64_t index);

}  // namespace apud
