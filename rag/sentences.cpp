// Sentence splitter: rules for Latin and Chinese punctuation in one linear pass.
#include <algorithm>
#include <array>

#include "base/ascii.h"
#include "base/utf8.h"
#include "rag/chunker.h"

namespace apud {

namespace {

bool space(char c) { return c == ' ' || c == '\t' || c == '\n'; }

bool closer(char32_t c) {
  return c == '"' || c == '\'' || c == ')' || c == ']' || c == 0x201D || c == 0x2019 ||
         c == 0x300D || c == 0x300F || c == 0xFF09 || c == 0x300B || c == 0x3011 || c == 0xBB;
}

// Words before a full stop that does not end a sentence.
bool abbreviation(std::string_view word) {
  static constexpr std::array<std::string_view, 40> kWords = {
      "e.g",  "i.e", "etc", "vs",  "cf",  "al",   "mr",  "mrs",    "ms",   "dr",
      "prof", "st",  "jr",  "sr",  "inc", "ltd",  "co",  "corp",   "fig",  "figs",
      "eq",   "no",  "nos", "vol", "pp",  "ch",   "sec", "approx", "dept", "est",
      "jan",  "feb", "mar", "apr", "aug", "sept", "oct", "nov",    "dec",  "viz"};
  if (word.size() == 1 && word[0] >= 'A' && word[0] <= 'Z') return true;  // initials
  return word.size() <= 8 &&
         std::find(kWords.begin(), kWords.end(), ascii_lower(word)) != kWords.end();
}

bool list_marker(std::string_view rest) {
  if (rest.size() < 2) return false;
  for (std::string_view mark : {"- ", "* ", "+ ", "• ", "– ", "◦ ", "▪ ", "|"}) {
    if (rest.substr(0, mark.size()) == mark) return true;
  }
  size_t digits = 0;
  while (digits < rest.size() && digits < 4 && rest[digits] >= '0' && rest[digits] <= '9') ++digits;
  return digits > 0 && digits + 1 < rest.size() && (rest[digits] == '.' || rest[digits] == ')') &&
         rest[digits + 1] == ' ';
}

// "Article: P-17; Stock: 4; Supplier: Marlow": a row of a table that carries its columns' names
// (RowWriter). It says its own, however it is punctuated, and nothing of the rows around it.
bool named_row(std::string_view line) {
  constexpr size_t kLongestName = 82;
  size_t name = line.substr(0, kLongestName).find(": ");
  size_t next = name == std::string_view::npos ? name : line.find("; ", name);
  return next != std::string_view::npos && line.find(": ", next) != std::string_view::npos;
}

constexpr size_t kSentenceBytes = 1500;  // a longer "sentence" is a list or a table gone wrong
constexpr int kShortLine = 40;  // columns: a line that ends before that was ended on purpose

}  // namespace

std::vector<Sentence> split_sentences(std::string_view text) {
  std::vector<Sentence> out;
  size_t begin = 0, word = 0;  // start of the sentence, of the current word
  int columns = 0;             // of the current line
  auto emit = [&](size_t end) {
    while (begin < end && space(text[begin])) ++begin;
    size_t last = end;
    while (last > begin && space(text[last - 1])) --last;
    if (last > begin) out.push_back({begin, last, 0});
    begin = end;
  };
  for (size_t i = 0; i < text.size();) {
    if (i == 0 || text[i - 1] == '\n') {
      size_t end = std::min(text.find('\n', i), text.size());
      if (named_row(text.substr(i, end - i))) {
        emit(i);
        emit(end);
        i = word = end;
        columns = 0;
        if (end == text.size()) break;
      }
    }
    Utf8Char c = utf8_decode(text, i);
    size_t next = i + c.size;
    if (c.code == '\n') {
      size_t follow = next;
      while (follow < text.size() && (text[follow] == ' ' || text[follow] == '\t') &&
             follow - next < 64)
        ++follow;
      bool empty_line = follow < text.size() && text[follow] == '\n';
      if (empty_line || (columns > 0 && columns < kShortLine) ||
          list_marker(text.substr(follow, 8)))
        emit(next);
      columns = 0;
      word = next;
    } else {
      columns += display_width(c.code);
      if (c.code == ' ' || c.code == '\t') word = next;
    }
    bool chinese = c.code == 0x3002 || c.code == 0xFF01 || c.code == 0xFF1F;
    bool latin = c.code == '.' || c.code == '!' || c.code == '?' || c.code == 0x2026;
    if (!chinese && !latin) {
      i = next;
      continue;
    }
    std::string_view before = text.substr(word, i - word);
    // More of the same, then closing quotes and brackets.
    size_t end = next;
    while (end < text.size()) {
      Utf8Char more = utf8_decode(text, end);
      bool again = more.code == '.' || more.code == '!' || more.code == '?' ||
                   more.code == 0x3002 || more.code == 0xFF01 || more.code == 0xFF1F ||
                   more.code == 0x2026;
      if (!again && !closer(more.code)) break;
      end += more.size;
      columns += display_width(more.code);
    }
    if (chinese) {
      emit(end);
    } else if (end >= text.size() || space(text[end])) {
      size_t follow = end;
      while (follow < text.size() && space(text[follow]) && follow - end < 64) ++follow;
      Utf8Char head = follow < text.size() ? utf8_decode(text, follow) : Utf8Char{'A', 1, true};
      bool lower = head.code >= 'a' && head.code <= 'z';
      while (!before.empty() && (before[0] == '(' || before[0] == '"')) before.remove_prefix(1);
      bool number = c.code == '.' && begin == word &&
                    before.find_first_not_of("0123456789") == std::string_view::npos;
      if (!lower && !number && !(c.code == '.' && end == next && abbreviation(before))) emit(end);
    }
    i = end;
  }
  emit(text.size());
  return out;
}

std::vector<std::pair<size_t, size_t>> sentence_ranges(std::string_view text, size_t base) {
  std::vector<std::pair<size_t, size_t>> ranges;
  for (const Sentence& s : split_sentences(text)) {
    size_t begin = s.begin;
    while (s.end - begin > kSentenceBytes) {
      size_t cut = text.rfind('\n', begin + kSentenceBytes);
      if (cut == std::string_view::npos || cut <= begin + kSentenceBytes / 2)
        cut = text.rfind(' ', begin + kSentenceBytes);
      if (cut == std::string_view::npos || cut <= begin) {
        cut = begin + kSentenceBytes;
        while (cut > begin + 1 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
      }
      ranges.emplace_back(base + begin, base + cut);
      begin = cut;
      while (begin < s.end && space(text[begin])) ++begin;
    }
    if (begin < s.end) ranges.emplace_back(base + begin, base + s.end);
  }
  return ranges;
}

}  // namespace apud
