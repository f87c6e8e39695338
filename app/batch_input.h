// What `apud batch` reads: lines of any input, and what each of them asks.
//
// Threads: a reader belongs to one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "app/json_text.h"
#include "base/file.h"

namespace apud {

/// Lines of a descriptor, one at a time, however long the input is. Ends where the user interrupts.
class LineReader {
 public:
  /// name: of the input, for messages.
  LineReader(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}
  /// Absent at the end. A last line without newline counts. Throws kBadData for one of more than
  /// 16 MiB, kIo.
  std::optional<std::string> next();
  /// What next() will return, which waits for it.
  const std::optional<std::string>& peek();
  /// Whether next() returns without waiting for whoever writes the input.
  bool ready();
  /// The line returned last had no newline at its end.
  bool torn() const { return torn_; }

 private:
  std::optional<std::string> take();
  void read_some();

  int fd_;
  std::string name_;
  std::optional<std::string> ahead_;
  std::string buffer_;
  size_t scanned_ = 0;
  bool end_ = false;
  bool torn_ = false;
};

/// A question of the input.
struct BatchItem {
  int64_t index = 0;  // 0-based line of the input, empty lines counted
  ordered_json id;    // echoed; null where the line gave none
  std::string question;
  std::string system;
  std::vector<std::string> collections;
  std::optional<int> max_tokens;
  std::optional<double> temperature;
  std::optional<int> beams;
  std::optional<uint64_t> seed;
};

/// The questions' file, or a pipe under a name (`<(…)`, /dev/stdin, a FIFO). Throws kNoInput, kIo,
/// kBadData for a folder, kUsage for a terminal.
FileDescriptor open_questions(const std::string& path);
/// Throws kBadData where the first line of the input shows another encoding than UTF-8.
void check_encoding(const std::string& first_line);

/// Reads a line: text, or an object with the fields of BatchItem. Fills `item` as far as it can, so
/// that a bad line keeps its id. Throws kBadData with line, field and what was expected.
void parse_batch_line(const std::string& line, int64_t index, BatchItem& item);

}  // namespace apud
