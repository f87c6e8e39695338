// What a reader sees of marks: numbers while an answer streams, and the legend's lines.
#include <algorithm>
#include <string>

#include "rag/citation_mark.h"
#include "rag/citations.h"

namespace apud {
namespace {

constexpr size_t kMaxMark = 48;  // bytes of "[12, 3, 45]"

}  // namespace

Mark read_mark(std::string_view text, size_t pos) {
  Mark mark;
  std::vector<int> ids;
  int number = -1;
  int range_from = -1;
  auto finish_number = [&] {
    if (number < 0) return;
    if (range_from >= 0 && number > range_from && number - range_from <= 16) {
      for (int i = range_from + 1; i < number; ++i) ids.push_back(i);
    }
    ids.push_back(number);
    range_from = -1;
    number = -1;
  };
  for (size_t i = pos + 1; i < text.size() && i - pos <= kMaxMark; ++i) {
    char c = text[i];
    if (c >= '0' && c <= '9') {
      number = std::min(100000000, std::max(number, 0) * 10 + (c - '0'));
    } else if (c == ',' || c == ';' || c == ' ') {
      finish_number();
    } else if (c == '-') {
      int from = number;
      finish_number();
      range_from = from;
    } else if (c == ']') {
      finish_number();
      if (!ids.empty()) {
        mark.ids = std::move(ids);
        mark.end = i + 1;
      }
      return mark;
    } else {
      return mark;
    }
  }
  mark.open = text.size() - pos <= kMaxMark;
  return mark;
}

CitationStream::CitationStream(std::span<const Passage> passages) {
  for (const Passage& p : passages) known_.push_back(p.id);
}

int CitationStream::shown_number(int passage) {
  if (std::find(known_.begin(), known_.end(), passage) == known_.end()) return 0;
  auto at = std::find(shown_.begin(), shown_.end(), passage);
  if (at == shown_.end()) at = shown_.insert(shown_.end(), passage);
  return static_cast<int>(at - shown_.begin()) + 1;
}

std::string CitationStream::push(std::string_view text) {
  pending_ += text;
  std::string out;
  size_t pos = 0;
  while (pos < pending_.size()) {
    if (pending_[pos] != '[') {
      // A space is held while it may stand before an invented mark.
      bool edge = pending_[pos] == ' ' && pos + 1 == pending_.size();
      if (edge && !finishing_) break;
      bool before_mark =
          pending_[pos] == ' ' && pos + 1 < pending_.size() && pending_[pos + 1] == '[';
      if (before_mark) {
        Mark mark = read_mark(pending_, pos + 1);
        if (mark.open && !finishing_) break;
        bool any = mark.ids.empty();
        for (int id : mark.ids)
          any = any || std::find(known_.begin(), known_.end(), id) != known_.end();
        if (!any) {
          // What follows decides whether the space goes with the mark.
          if (mark.end == pending_.size() && !finishing_) break;
          bool drop =
              mark.end == pending_.size() ||
              std::string_view(" .,;:!?\n").find(pending_[mark.end]) != std::string_view::npos;
          if (!drop) out += ' ';
          pos = mark.end;
          continue;
        }
      }
      out += pending_[pos++];
      continue;
    }
    Mark mark = read_mark(pending_, pos);
    if (mark.open && !finishing_) break;
    if (mark.ids.empty()) {
      out += pending_[pos++];
      continue;
    }
    std::vector<int> seen;
    for (int id : mark.ids) {
      int number = shown_number(id);
      if (number == 0 || std::find(seen.begin(), seen.end(), number) != seen.end()) continue;
      seen.push_back(number);
      out += "[" + std::to_string(number) + "]";
    }
    pos = mark.end;
  }
  pending_.erase(0, pos);
  return out;
}

std::string CitationStream::finish() {
  finishing_ = true;
  return push("");
}

std::string legend_line(const Citation& c) {
  std::string line = "[" + std::to_string(c.number) + "] " + c.path;
  if (!c.member.empty()) line += " › " + c.member;
  if (c.page > 0) {
    line += c.page_end > c.page
                ? " pp. " + std::to_string(c.page) + "-" + std::to_string(c.page_end)
                : " p. " + std::to_string(c.page);
  } else if (c.line > 0) {
    line += ":" + std::to_string(c.line);
    if (c.line_end > c.line) line += "-" + std::to_string(c.line_end);
  }
  return line;
}

}  // namespace apud
