#include "rag/hit_line.h"

#include <algorithm>

#include "rag/text/support.h"

namespace apud {

HitLine best_line(const Hit& hit, std::string_view query) {
  const std::set<std::string> wanted = content_stems(query);
  size_t best = 0, best_size = 0;
  double best_value = -1;
  for (size_t begin = 0; begin < hit.text.size();) {
    size_t end = std::min(hit.text.find('\n', begin), hit.text.size());
    std::string_view line = std::string_view(hit.text).substr(begin, end - begin);
    size_t text = line.find_first_not_of(" \t\r");
    if (text != std::string_view::npos) {
      double value = 0;
      for (const std::string& stem : content_stems(line)) value += wanted.contains(stem);
      // A match is at most 1, so it only decides between lines of as many words.
      double match = 0;
      for (const SentenceMatch& s : hit.sentences) {
        if (s.begin < hit.begin + end && s.end > hit.begin + begin)
          match = std::max(match, std::clamp<double>(s.match, 0, 0.99));
      }
      if (value + match > best_value) {
        best_value = value + match;
        best = begin + text;
        best_size = line.size() - text;
      }
    }
    begin = end + 1;
  }
  std::string text = hit.text.substr(best, best_size);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\r' || text.back() == '\t'))
    text.pop_back();
  return {text, hit.source ? hit.source->anchor_at(hit.begin + best) : hit.from};
}

}  // namespace apud
