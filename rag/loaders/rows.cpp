#include "rag/loaders/rows.h"

#include <algorithm>
#include <set>

namespace apud {

namespace {

bool looks_numeric(std::string_view text) {
  return text.find_first_not_of("0123456789.,+-%/: eE") == std::string_view::npos &&
         text.find_first_of("0123456789") != std::string_view::npos;
}

bool looks_like_year(std::string_view text) {
  return text.size() == 4 && (text.starts_with("19") || text.starts_with("20")) &&
         text.find_first_not_of("0123456789") == std::string_view::npos;
}

/// Short texts that differ from each other; some may be missing. Beside a first cell without a
/// number, or in a table whose corner is empty, years and other numbers are names, too.
bool names_columns(const std::vector<std::string>& values, size_t filled, size_t least) {
  if (values.size() < least || filled < 2 || filled * 2 < values.size()) return false;
  const bool corner = values[0].empty() && filled + 1 == values.size();
  const auto years = std::count_if(values.begin(), values.end(), looks_like_year);
  std::set<std::string_view> distinct;
  for (const std::string& value : values) {
    if (value.empty()) continue;
    const bool year = years > 1 && looks_like_year(value) && !looks_numeric(values[0]);
    if (value.size() > 80 || !distinct.insert(value).second) return false;
    if (looks_numeric(value) && !corner && !year) return false;
  }
  return true;
}

}  // namespace

void RowWriter::row(const std::vector<std::string>& cells, const Anchor& at) {
  std::vector<std::string> values;
  size_t filled = 0;
  for (const std::string& cell : cells) {
    values.push_back(one_line(cell));
    filled += !values.back().empty();
  }
  if (filled == 0) return;
  while (values.back().empty()) values.pop_back();
  std::string text;
  if (first_ && filled > 1) {  // a cell alone is the table's title
    first_ = false;
    if (names_columns(values, filled, least_names_)) names_ = values;
  } else if (!names_.empty()) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i].empty()) continue;
      if (!text.empty()) text += "; ";
      if (i < names_.size() && !names_[i].empty()) text += names_[i] + ": ";
      text += values[i];
    }
  }
  if (text.empty() && filled == 1) {
    text = values.back();
  } else if (text.empty()) {
    for (size_t i = 0; i < values.size(); ++i) text += (i > 0 ? " | " : "") + values[i];
  }
  builder_.place(at.line, at.page, at.member);
  builder_.block(BlockKind::kTableRow, text);
}

}  // namespace apud
