#include "app/progress.h"

#include <fmt/format.h>

namespace apud {

std::string with_commas(int64_t number) {
  std::string digits = std::to_string(number < 0 ? -number : number);
  std::string out = number < 0 ? "-" : "";
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string human_bytes(uint64_t bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1000 && unit < 4) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.{}f} {}", value, value < 10 ? 1 : 0, units[unit]);
}

void ReadingProgress::begin(int total) {
  terminal_.progress(fmt::format("reading {} tokens", with_commas(total)), true);
  shown_ = true;
}

void ReadingProgress::update(int done, int total) {
  if (!shown_ || total <= 0) return;
  terminal_.progress(fmt::format("reading {} tokens · {}%", with_commas(total), static_cast<int64_t>(done) * 100 / total));
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
