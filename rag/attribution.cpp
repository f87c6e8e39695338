#include "rag/attribution.h"

#include <algorithm>

#include "base/utf8.h"
#include "rag/text/support.h"
#include "rag/text/terms.h"

namespace apud {

namespace {

constexpr double kBorne = 0.6;     // share of a sentence's content words that its passage holds
constexpr double kSupports = 0.5;  // the least that check_answer takes as support
constexpr double kNearest = 0.25;  // the same for the one mark of an answer without any
constexpr double kRelevanceWeight = 0.5;  // of a passage's score beside the share
constexpr double kMarkWeight = 0.05;      // what the model's own choice counts
constexpr size_t kFewestWords = 2;        // fewer say nothing about where they come from
constexpr size_t kLongestMark = 48;

bool ends_sentence(char32_t c) {
  return c == '.' || c == '!' || c == '?' || c == '\n' || c == 0x3002 || c == 0xFF01 ||
         c == 0xFF1F || c == 0xFF1B;
}
/// Full-width ends and line breaks need no space after them.
bool ends_at_once(char32_t c) { return c == '\n' || c > 0x2000; }

/// Ids of "[12, 3]"; empty: not a mark.
std::vector<int> mark_ids(std::string_view mark) {
  std::vector<int> ids;
  int number = -1;
  for (char c : mark.substr(1, mark.size() - 2)) {
    if (c >= '0' && c <= '9') {
      number = std::min(1000000, std::max(number, 0) * 10 + (c - '0'));
    } else if (c == ',' || c == ' ' || c == ';') {
      if (number >= 0) ids.push_back(number);
      number = -1;
    } else {
      return {};
    }
  }
  if (number >= 0) ids.push_back(number);
  return ids;
}

}  // namespace

AttributionStream::AttributionStream(std::span<const Passage> passages, Citing citing)
    : citing_(citing) {
  for (const Passage& p : passages) {
    candidates_.push_back({p.id, p.chunk_rank > 0 ? p.chunk_rank : 1000,
                           content_stems(p.source_text + "\n" + p.heading_path),
                           kRelevanceWeight * p.score, language_of(p.source_text)});
  }
}

AttributionStream::Best AttributionStream::best_passage(const std::set<std::string>& words,
                                                        double least) const {
  Best best;
  int rank = 0;
  for (const Candidate& one : candidates_) {
    double share = support(words, one.stems);
    double value = share + one.relevance;
    if (share < least || share <= 0) continue;
    if (!best.id || value > best.value || (value == best.value && one.rank < rank)) {
      best = {one.id, share, value};
      rank = one.rank;
    }
  }
  return best;
}

int AttributionStream::nearest_passage() const {
  if (answer_.find_first_not_of(" \n") == std::string::npos) return 0;
  auto top = std::max_element(
      candidates_.begin(), candidates_.end(),
      [](const Candidate& a, const Candidate& b) { return a.relevance < b.relevance; });
  if (top == candidates_.end()) return 0;
  std::set<std::string> words = content_terms(answer_);
  // "Yes.", "4", or an answer in another language than its passage: words cannot tell.
  Language language = language_of(answer_);
  bool comparable =
      words.size() >= kFewestWords && language != Language::kOther && language == top->language;
  Best best = best_passage(words, comparable ? kNearest : 0);
  return best.id || comparable ? best.id : top->id;
}

std::string AttributionStream::missing_mark() const {
  if (!marked_.empty()) return {};
  std::set<std::string> words = content_terms(sentence_);
  if (words.size() < kFewestWords) return {};
  Best best = best_passage(words, kBorne);
  return best.id ? "[" + std::to_string(best.id) + "]" : "";
}

bool AttributionStream::foreign(const std::set<std::string>& words) const {
  if (words.size() < kFewestWords) return false;
  Language language = language_of(sentence_);
  return language != Language::kOther &&
         std::all_of(candidates_.begin(), candidates_.end(), [&](const Candidate& one) {
           return one.language == language && support(words, one.stems) < kNearest;
         });
}

std::string AttributionStream::resolve_mark(std::string_view mark) {
  std::vector<int> ids = mark_ids(mark);
  if (ids.empty()) return std::string(mark);
  std::set<std::string> words = content_terms(sentence_);
  if (citing_ == Citing::kReply && foreign(words)) return {};
  std::string out;
  for (int id : ids) {
    auto known = std::find_if(candidates_.begin(), candidates_.end(),
                              [&](const Candidate& one) { return one.id == id; });
    double share = 0, value = 0;
    if (known != candidates_.end()) {
      share = support(words, known->stems);
      value = share + known->relevance + kMarkWeight;
    }
    if (!words.empty()) {
      Best best = best_passage(words, share);
      if (best.share >= kSupports && best.value > value) id = best.id;
    }
    if (marked_.insert(id).second) out += "[" + std::to_string(id) + "]";
  }
  cited_ = cited_ || !marked_.empty();
  return out;
}

void AttributionStream::begin_sentence() {
  if (!cited_) answer_ += sentence_ + "\n";
  sentence_.clear();
  marked_.clear();
  ended_ = false;
}

/// What was held at a sentence's end goes out, with a mark where one is missing.
void AttributionStream::release_end(bool followed_by_mark, std::string& out) {
  char32_t code = utf8_decode(end_, 0).code;
  size_t width = utf8_decode(end_, 0).size;
  const bool asks = code == '?' || code == 0xFF1F;  // states nothing that a passage could bear
  std::string mark = followed_by_mark || asks ? "" : missing_mark();
  cited_ = cited_ || !mark.empty();
  if (code == '\n') {
    out += (mark.empty() ? "" : " ") + mark + end_;
  } else {
    out += end_.substr(0, width) + (mark.empty() || ends_at_once(code) ? "" : " ") + mark +
           end_.substr(width);
  }
  end_.clear();
  if (followed_by_mark) {
    ended_ = true;
  } else {
    begin_sentence();
  }
}

void AttributionStream::take(std::string_view character, char32_t code, std::string& out) {
  if (!mark_.empty()) {
    mark_ += character;
    if (code == ']') {
      out += resolve_mark(mark_);
      mark_.clear();
    } else if (mark_.size() > kLongestMark || code == '\n') {
      out += mark_;
      sentence_ += mark_;
      mark_.clear();
    }
    return;
  }
  if (!end_.empty()) {
    if (code == ' ' && end_.back() != ' ') {
      end_ += ' ';
      return;
    }
    bool over = ends_at_once(utf8_decode(end_, 0).code) || end_.back() == ' ' || code == '\n' ||
                code == '[';
    if (over) {
      release_end(code == '[', out);
    } else {  // "4.5", "lending-rules.md"
      out += end_;
      sentence_ += end_;
      end_.clear();
    }
  } else if (ended_ && code != '[' && code != ' ') {
    begin_sentence();  // the marks behind the last sentence's end are over
  }
  if (code == '[') {
    mark_ = character;
  } else if (ends_sentence(code)) {
    end_ = character;
  } else {
    out += character;
    sentence_ += character;
  }
}

std::string AttributionStream::push(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    take(text.substr(pos, c.size), c.code, out);
    pos += c.size;
  }
  return out;
}

std::string AttributionStream::finish(bool refused) {
  std::string out;
  if (!mark_.empty()) {
    out += mark_;
    mark_.clear();
  } else if (!end_.empty()) {
    release_end(false, out);
  } else if (std::string mark = missing_mark(); !mark.empty()) {
    out += " " + mark;
    cited_ = true;
  }
  begin_sentence();
  if (citing_ == Citing::kMust && !refused && !cited_) {
    if (int id = nearest_passage()) {
      out += (out.ends_with('\n') ? "[" : " [") + std::to_string(id) + "]";
    }
  }
  return out;
}

std::string attribute(std::string_view answer, std::span<const Passage> passages, Citing citing) {
  AttributionStream stream(passages, citing);
  std::string out = stream.push(answer);
  return out + stream.finish();
}

}  // namespace apud
