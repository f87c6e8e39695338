#include "rag/text/terms.h"

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <unordered_set>

#include "base/check.h"
#include "base/utf8.h"

namespace apud {
namespace {

constexpr size_t kMaxTerm = 128;  // bytes

enum class Kind { kOther, kWord, kCjk };

Kind kind_of(char32_t c) {
  if (c < 0x80) {
    bool word =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    return word ? Kind::kWord : Kind::kOther;
  }
  if (c >= 0xFF01 && c <= 0xFF5E)
    return u_isalnum(c) ? Kind::kWord : Kind::kOther;  // full width Latin
  if (is_cjk(c)) return u_isalnum(c) ? Kind::kCjk : Kind::kOther;
  return u_isalnum(c) || (U_GET_GC_MASK(c) & U_GC_M_MASK) ? Kind::kWord : Kind::kOther;
}

/// Compatibility case folding without combining marks: Ａ -> a, É -> e.
std::string fold(std::string_view text) {
  bool ascii = true;
  for (unsigned char c : text) ascii &= c < 0x80;
  std::string out;
  if (ascii) {
    out.assign(text);
    for (char& c : out) {
      if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
    }
    return out;
  }
  UErrorCode status = U_ZERO_ERROR;
  static const icu::Normalizer2* folder = icu::Normalizer2::getNFKCCasefoldInstance(status);
  static const icu::Normalizer2* decomposer = icu::Normalizer2::getNFDInstance(status);
  APUD_CHECK(U_SUCCESS(status) && folder && decomposer, "ICU normalizer data");
  icu::UnicodeString wide = icu::UnicodeString::fromUTF8(
      icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
  wide = decomposer->normalize(folder->normalize(wide, status), status);
  icu::UnicodeString bare;
  for (int32_t i = 0; i < wide.length();) {
    UChar32 c = wide.char32At(i);
    i += U16_LENGTH(c);
    if (u_charType(c) != U_NON_SPACING_MARK) bare.append(c);
  }
  bare.toUTF8String(out);
  return out;
}

/// Ends of the parts of an identifier: cuts at _ and where CamelCase begins a word. ASCII only.
std::vector<std::pair<size_t, size_t>> identifier_parts(std::string_view word) {
  std::vector<std::pair<size_t, size_t>> parts;
  auto upper = [&](size_t i) { return word[i] >= 'A' && word[i] <= 'Z'; };
  auto lower = [&](size_t i) { return word[i] >= 'a' && word[i] <= 'z'; };
  size_t begin = 0;
  for (size_t i = 0; i <= word.size(); ++i) {
    bool cut = i == word.size() || word[i] == '_';
    // aB and the last capital of ABc begin a new part.
    bool camel = i > begin && i < word.size() && upper(i) &&
                 (lower(i - 1) || (upper(i - 1) && i + 1 < word.size() && lower(i + 1)));
    if (cut || camel) {
      if (i > begin) parts.emplace_back(begin, i);
      begin = cut ? i + 1 : i;
    }
  }
  return parts;
}

size_t cut_at_char(std::string_view text, size_t limit) {
  if (text.size() <= limit) return text.size();
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0) == 0x80) --limit;
  return limit;
}

bool emit_word(std::string_view text, size_t begin, size_t end,
               const std::function<bool(const Term&)>& emit) {
  std::string_view word = text.substr(begin, end - begin);
  word = word.substr(0, cut_at_char(word, kMaxTerm));
  auto parts = identifier_parts(word);
  if (parts.empty()) return true;  // underscores only
  if (parts.size() == 1) {
    std::string folded = fold(word.substr(parts[0].first, parts[0].second - parts[0].first));
    return folded.empty() || emit({folded, begin, end, false});
  }
  bool first = true;
  for (auto [from, to] : parts) {
    std::string folded = fold(word.substr(from, to - from));
    if (folded.empty()) continue;
    if (!emit({folded, begin + from, begin + to, false})) return false;
    if (first && !emit({fold(word), begin, end, true})) return false;
    first = false;
  }
  return true;
}

}  // namespace

void for_each_term(std::string_view text, const std::function<bool(const Term&)>& emit) {
  size_t pos = 0;
  while (pos < text.size()) {
    Utf8Char c = utf8_decode(text, pos);
    Kind kind = c.valid ? kind_of(c.code) : Kind::kOther;
    size_t begin = pos;
    pos += c.size;
    if (kind == Kind::kOther) continue;
    if (kind == Kind::kWord) {
      while (pos < text.size()) {
        c = utf8_decode(text, pos);
        if (!c.valid || kind_of(c.code) != Kind::kWord) break;
        pos += c.size;
      }
      if (!emit_word(text, begin, pos, emit)) return;
      continue;
    }
    // A CJK run: each pair of neighbours; a single character as itself.
    size_t previous = begin;
    bool pair = false;
    while (pos < text.size()) {
      c = utf8_decode(text, pos);
      if (!c.valid || kind_of(c.code) != Kind::kCjk) break;
      pair = true;
      if (!emit({text.substr(previous, pos + c.size - previous), previous, pos + c.size, false}))
        return;
      previous = pos;
      pos += c.size;
    }
    if (!pair && !emit({text.substr(begin, pos - begin), begin, pos, false})) return;
  }
}

std::vector<std::string> terms_of(std::string_view text) {
  std::vector<std::string> terms;
  for_each_term(text, [&](const Term& term) {
    terms.emplace_back(term.text);
    return true;
  });
  return terms;
}

bool is_stop_word(std::string_view term) {
  static const std::unordered_set<std::string_view> words = {
      "a",      "about", "all",   "also",  "am",     "an",    "and",   "any",    "are",   "as",
      "at",     "be",    "been",  "being", "but",    "by",    "can",   "could",  "did",   "do",
      "does",   "doing", "for",   "from",  "had",    "has",   "have",  "having", "he",    "her",
      "him",    "his",   "how",   "i",     "if",     "in",    "into",  "is",     "it",    "its",
      "just",   "me",    "my",    "no",    "nor",    "not",   "of",    "on",     "or",    "our",
      "out",    "s",     "shall", "she",   "should", "so",    "some",  "such",   "t",     "than",
      "that",   "the",   "their", "them",  "then",   "there", "these", "they",   "this",  "those",
      "to",     "too",   "us",    "was",   "we",     "were",  "what",  "when",   "where", "which",
      "while",  "who",   "whom",  "whose", "why",    "will",  "with",  "would",  "you",   "your",
      "please", "tell",  "什么",  "怎么",  "怎样",   "如何",  "为何",  "哪些",   "哪个",  "哪里",
      "哪儿",   "是否",  "能否",  "可以",  "是什",   "么是",  "为什",  "我的",   "你的",  "我们",
      "你们",   "他们",  "这个",  "那个",  "这些",   "那些",  "一个",  "有没",   "没有",  "请问",
      "的",     "了",    "是",    "在",    "和",     "与",    "吗",    "呢",     "吧",    "我",
      "你",     "他",    "么办",  "是怎",  "我怎",   "么样"};
  return words.count(term) > 0;
}

}  // namespace apud
