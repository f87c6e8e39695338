#include "rag/hit_line.h"

#include <algorithm>

#include "base/utf8.h"
#include "rag/chunker.h"
#include "rag/text/support.h"

namespace apud {
namespace {

constexpr int kMostColumns = 320;  // of a line: a paragraph in one line would fill the screen

/// How well a part of a hit's text shows why it was found.
class Worth {
 public:
  Worth(const Hit& hit, std::string_view query) : hit_(hit), wanted_(content_stems(query)) {}

  /// Of [begin, end) of the hit's text: the query's words in it, then (less than a word) its best
  /// sentence's nearness in meaning.
  double operator()(size_t begin, size_t end) const {
    double words = 0, match = 0;
    for (const std::string& stem : content_stems(hit_.text.substr(begin, end - begin)))
      words += wanted_.contains(stem);
    for (const SentenceMatch& s : hit_.sentences) {
      if (s.begin < hit_.begin + end && s.end > hit_.begin + begin)
        match = std::max(match, std::clamp<double>(s.match, 0, 0.99));
    }
    return words + match;
  }

 private:
  const Hit& hit_;
  const std::set<std::string> wanted_;
};

struct Range {
  size_t begin = 0, end = 0;
};

/// Of a line that is too long the best sentence, with those around it that have room.
Range best_sentences(const Hit& hit, const Worth& worth, Range line) {
  std::string_view text = std::string_view(hit.text).substr(line.begin, line.end - line.begin);
  if (display_width(text) <= kMostColumns) return line;
  std::vector<std::pair<size_t, size_t>> parts = sentence_ranges(text, line.begin);
  if (parts.empty()) return line;
  size_t first = 0;
  double best = -1;
  for (size_t i = 0; i < parts.size(); ++i) {
    double value = worth(parts[i].first, parts[i].second);
    if (value > best) {
      best = value;
      first = i;
    }
  }
  size_t last = first;
  auto fits = [&](size_t from, size_t to) {
    return display_width(std::string_view(hit.text).substr(
               parts[from].first, parts[to].second - parts[from].first)) <= kMostColumns;
  };
  while (last + 1 < parts.size() && fits(first, last + 1)) ++last;
  while (first > 0 && fits(first - 1, last)) --first;
  return {parts[first].first, parts[last].second};
}

}  // namespace

HitLine best_line(const Hit& hit, std::string_view query) {
  const Worth worth(hit, query);
  Range line;
  double best = -1;
  for (size_t begin = 0; begin < hit.text.size();) {
    size_t end = std::min(hit.text.find('\n', begin), hit.text.size());
    std::string_view text = std::string_view(hit.text).substr(begin, end - begin);
    size_t from = text.find_first_not_of(" \t\r");
    if (from != std::string_view::npos) {
      double value = worth(begin, end);
      if (value > best) {
        best = value;
        line = {begin + from, begin + text.find_last_not_of(" \t\r") + 1};
      }
    }
    begin = end + 1;
  }
  Range shown = best_sentences(hit, worth, line);
  std::string text = hit.text.substr(shown.begin, shown.end - shown.begin);
  if (shown.begin > line.begin) text.insert(0, "… ");
  if (shown.end < line.end) text += " …";
  return {text, hit.source ? hit.source->anchor_at(hit.begin + shown.begin) : hit.from};
}

}  // namespace apud
