#include "app/progress.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/utf8.h"

namespace apud {

std::string human_bytes(uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  const char* units[] = {"kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes) / 1000;
  int unit = 0;
  // What would be rounded to 1000 is shown in the next unit.
  while (value >= 999.5 && unit < 3) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, value < 9.95 ? 1 : 0, units[unit]);
}

std::string shown_path(const std::string& path) {
  std::error_code error;
  static const std::string here = std::filesystem::current_path(error).string() + "/";
  bool below = !error && here.size() > 2 && path.starts_with(here);
  return printable(below ? std::string_view(path).substr(here.size()) : path, true);
}

void ReadingProgress::begin(int total) {
  terminal_.progress(fmt::format("reading {} tokens", with_commas(total)), true);
  shown_ = true;
}

void ReadingProgress::update(int done, int total) {
  if (!shown_ || total <= 0) return;
  terminal_.progress(fmt::format("reading {} tokens · {}%", with_commas(total),
                                 static_cast<int64_t>(done) * 100 / total));
}

void ReadingProgress::end() {
  if (!shown_) return;
  terminal_.progress("", true);
  shown_ = false;
}

void report_receipt(Runtime& runtime, const Receipt& receipt) {
  Terminal& terminal = runtime.terminal;
  const CommonOptions& common = runtime.options.common;
  if (terminal.state().stderr_tty) {
    terminal.dim(receipt_line(receipt));
  } else if (common.stats) {
    terminal.error(receipt_line(receipt));
  }
  if (common.verbose) terminal.note(receipt_details(receipt));
}

}  // namespace apud
