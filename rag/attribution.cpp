#include "rag/attribution.h"

#include "base/utf8.h"
#include "rag/text/support.h"

namespace apud {

namespace {

constexpr double kBorne = 0.6;      // share of a sentence's content words in the passage
constexpr size_t kFewestWords = 2;  // fewer say nothing about where they come from

bool ends_sentence(char32_t c) {
  return c == '.' || c == '!' || c == '?' || c == '\n' || c == 0x3002 || c == 0xFF01 || c == 0xFF1F || c == 0xFF1B;
}
/// Full-width ends need no space after them.
bool ends_at_once(char32_t c) { return c == '\n' || c > 0x2000; }

}  // namespace

AttributionStream::AttributionStream(std::span<const Passage> passages) {
  for (const Passage& p : passages) {
    candidates_.push_back({p.id, p.chunk_rank > 0 ? p.chunk_rank : 1000, content_stems(p.source_text + "\n" + p.heading_path)});
  }
}

std::string AttributionStream::end_sentence(bool marked) {
  std::string sentence;
  sentence.swap(sentence_);
  if (marked || sentence.find('[') != std::string::npos) return {};
  std::set<std::string> words = content_terms(sentence);
  if (words.size() < kFewestWords) return {};
  const Candidate* best = nullptr;
  double best_share = 0;
  for (const Candidate& one : candidates_) {
    double share = support(words, one.stems);
    if (share > best_share || (best && share == best_share && one.rank < best->rank)) {
      best = &one;
      best_share = share;
    }
  }
  if (!best || best_share < kBorne) return {};
  return "[" + std::to_string(best->id) + "]";
}

std::string AttributionStream::push(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    std::string_view bytes = text.substr(pos, c.size);
    pos += c.size;
    if (!held_.empty()) {
      // A sentence ended before this character; does a mark of the model's own follow?
      char32_t end = utf8_decode(held_, 0).code;
      bool space = c.code == ' ';
      if (space && held_.back() != ' ') {
        held_ += ' ';
        continue;
      }
      bool real_end = ends_at_once(end) || held_.back() == ' ' || c.code == '\n' || c.code == '[';
      if (real_end) {
        bool marked = c.code == '[';
        std::string mark = end_sentence(marked);
        size_t width = utf8_decode(held_, 0).size;
        if (end == '\n') {
          out += mark + held_;  // before the line break
        } else {
          out += held_.substr(0, width) + (mark.empty() ? "" : (ends_at_once(end) ? "" : " ") + mark) + held_.substr(width);
        }
      } else {
        out += held_;
        sentence_ += held_;
      }
      held_.clear();
    }
    if (ends_sentence(c.code)) {
      held_ = bytes;
    } else {
      out += bytes;
      sentence_ += bytes;
    }
  }
  return out;
}

std::string AttributionStream::finish() {
  std::string out;
  std::string mark = end_sentence(false);
  if (held_.empty()) {
    out = mark.empty() ? "" : " " + mark;
  } else {
    char32_t end = utf8_decode(held_, 0).code;
    size_t width = utf8_decode(held_, 0).size;
    out = end == '\n' ? mark + held_ : held_.substr(0, width) + (mark.empty() ? "" : (ends_at_once(end) ? "" : " ") + mark) + held_.substr(width);
  }
  held_.clear();
  return out;
}

std::string attribute(std::string_view answer, std::span<const Passage> passages) {
  AttributionStream stream(passages);
  std::string out = stream.push(answer);
  return out + stream.finish();
}

}  // namespace apud
