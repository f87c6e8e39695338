#include "rag/loaders/rows.h"

#include <set>

namespace apud {

namespace {

bool looks_numeric(std::string_view text) {
  return text.find_first_not_of("0123456789.,+-%/: eE") == std::string_view::npos &&
         text.find_first_of("0123456789") != std::string_view::npos;
}

}  // namespace

void RowWriter::reset() {
  names_.clear();
  first_ = true;
}

void RowWriter::row(const std::vector<std::string>& cells, int line, std::string_view member) {
  std::vector<std::string> values;
  size_t filled = 0;
  for (const std::string& cell : cells) {
    values.push_back(one_line(cell));
    filled += !values.back().empty();
  }
  if (filled == 0) return;
  std::string text;
  if (first_) {
    first_ = false;
    std::set<std::string> distinct(values.begin(), values.end());
    bool header = values.size() > 1 && distinct.size() == values.size() && filled == values.size();
    for (const std::string& value : values)
      header = header && value.size() <= 80 && !looks_numeric(value);
    if (header) names_ = values;
  } else if (!names_.empty()) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i].empty()) continue;
      if (!text.empty()) text += "; ";
      if (i < names_.size()) text += names_[i] + ": ";
      text += values[i];
    }
  }
  if (text.empty()) {
    for (const std::string& value : values) text += (text.empty() ? "" : " | ") + value;
  }
  builder_.place(line, 0, member);
  builder_.block(BlockKind::kTableRow, text);
}

}  // namespace apud
