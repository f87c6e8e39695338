#include "rag/loaders/pdf_contents.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

namespace apud {

namespace {

constexpr size_t kFewestEntries = 5;
constexpr size_t kWrapped = 2;  // lines between two entries: titles that are longer than a line

/// The page number of "Title … 12"; 0 for "Title … xii".
std::optional<int> entry_page(std::string_view line) {
  constexpr std::string_view kLeader = " … ";
  size_t at = line.rfind(kLeader);
  if (at == 0 || at == std::string_view::npos) return std::nullopt;
  std::string_view number = line.substr(at + kLeader.size());
  if (number.empty() || number.size() > 6) return std::nullopt;
  if (number.find_first_not_of("ivxlcIVXLC") == std::string_view::npos) return 0;
  int page = 0;
  auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), page);
  if (error != std::errc{} || end != number.data() + number.size()) return std::nullopt;
  return page;
}

bool names_contents(std::string_view line) {
  constexpr std::string_view kNames[] = {"Contents",
                                         "CONTENTS",
                                         "Table of Contents",
                                         "TABLE OF CONTENTS",
                                         "Table of contents",
                                         "目录",
                                         "目 录",
                                         "目錄",
                                         "目次",
                                         "Inhaltsverzeichnis"};
  return std::find(std::begin(kNames), std::end(kNames), line) != std::end(kNames);
}

}  // namespace

std::vector<bool> contents_lines(std::span<const std::string> lines) {
  std::vector<bool> out(lines.size(), false);
  size_t marked = 0, begin = 0, last = 0, entries = 0;
  int page = 0;
  auto end_run = [&] {
    if (entries >= kFewestEntries) {
      if (begin > 0 && names_contents(lines[begin - 1])) --begin;
      std::fill(out.begin() + static_cast<std::ptrdiff_t>(begin),
                out.begin() + static_cast<std::ptrdiff_t>(last) + 1, true);
      marked += last + 1 - begin;
    }
    entries = 0;
    page = 0;
  };
  for (size_t i = 0; i < lines.size(); ++i) {
    std::optional<int> here = entry_page(lines[i]);
    if (!here) continue;
    if (entries > 0 && (i - last > kWrapped + 1 || (*here > 0 && *here < page))) end_run();
    if (entries++ == 0) begin = i;
    last = i;
    page = std::max(page, *here);
  }
  end_run();
  if (marked * 2 > lines.size()) out.assign(lines.size(), false);
  return out;
}

}  // namespace apud
