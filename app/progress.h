// What a waiting user sees: "reading 1,480 tokens · 34%", and the receipt when it is over.
#pragma once

#include <chrono>
#include <string>

#include "app/runtime.h"
#include "app/terminal.h"
#include "base/numbers.h"
#include "engine/receipt.h"

namespace apud {

/// 1536000 -> "1.5 MB".
std::string human_bytes(uint64_t bytes);

/// `path` as a reader types it: relative where it lies below the current folder, else unchanged.
std::string shown_path(const std::string& path);

/// The line shown while a prompt is read; on a terminal only.
class ReadingProgress {
 public:
  explicit ReadingProgress(Terminal& terminal) : terminal_(terminal) {}
  ~ReadingProgress() { end(); }
  /// Shows the line at once (also while the model is still loading).
  void begin(int total);
  void update(int done, int total);
  void end();

 private:
  Terminal& terminal_;
  bool shown_ = false;
};

/// The dim line on a terminal; off a terminal only with --stats; details with -v.
void report_receipt(Runtime& runtime, const Receipt& receipt);

}  // namespace apud
