#include "models/tokenizers/pretokenizer.h"

#include "base/utf8.h"
#include "models/tokenizers/unicode.h"

namespace apud {
namespace {

using unicode::kLetter;
using unicode::kNumber;
using unicode::kNumeric;
using unicode::kSpace;

constexpr std::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Character {
  char32_t code;
  uint8_t size;
  uint8_t bits;
};

class Matcher {
 public:
  Matcher(std::string_view text, std::vector<size_t>& ends) : text_(text), ends_(ends) {}

  /// GPT-2's expression over [begin, end): look-ahead sees `end` as the end of the text.
  void gpt2(size_t begin, size_t end) {
    for (size_t pos = begin; pos < end;) {
      size_t next = contraction(pos, end, false);
      if (next == pos) {
        Character first = at(pos, end);
        size_t start = pos;
        Character body = first;
        if (first.code == ' ' && pos + 1 < end) {
          start = pos + 1;
          body = at(start, end);
        }
        if (body.bits & kLetter) {
          next = run(start, end, kLetter);
        } else if (body.bits & kNumber) {
          next = run(start, end, kNumber);
        } else if (!(body.bits & kSpace)) {
          next = others(start, end);
        } else {
          next = spaces(pos, end, false);
        }
      }
      ends_.push_back(next);
      pos = next;
    }
  }

  /// The Qwen2 and Llama 3 expressions, which differ in how many digits a piece may hold.
  void modern(size_t max_digits) {
    size_t end = text_.size();
    for (size_t pos = 0; pos < end;) {
      size_t next = contraction(pos, end, true);
      if (next == pos) {
        Character first = at(pos, end);
        size_t second = pos + first.size;
        bool line_end = first.code == '\r' || first.code == '\n';
        if (first.bits & kLetter) {
          next = run(pos, end, kLetter);
        } else if (!line_end && !(first.bits & kNumber) && second < end &&
                   (at(second, end).bits & kLetter)) {
          next = run(second, end, kLetter);
        } else if (first.bits & kNumber) {
          next = second;
          for (size_t n = 1; n < max_digits && next < end; ++n) {
            Character digit = at(next, end);
            if (!(digit.bits & kNumber)) break;
            next += digit.size;
          }
        } else if (!(first.bits & kSpace) ||
                   (first.code == ' ' && second < end &&
                    !(at(second, end).bits & (kSpace | kLetter | kNumber)))) {
          next = others(first.code == ' ' ? second : pos, end);
          while (next < end && (text_[next] == '\r' || text_[next] == '\n')) ++next;
        } else {
          next = spaces(pos, end, true);
        }
      }
      ends_.push_back(next);
      pos = next;
    }
  }

  /// Every number symbol alone, GPT-2's expression over what lies between.
  void smollm() {
    size_t end = text_.size(), open = 0;
    for (size_t pos = 0; pos < end;) {
      Character c = at(pos, end);
      if (c.bits & kNumeric) {
        gpt2(open, pos);
        pos += c.size;
        ends_.push_back(pos);
        open = pos;
      } else {
        pos += c.size;
      }
    }
    gpt2(open, end);
  }

 private:
  Character at(size_t pos, size_t end) const {
    Utf8Char c = utf8_decode(text_.substr(0, end), pos);
    // An ill-formed byte is a symbol of its own, so that pieces do not depend on what follows it.
    if (!c.valid) return {kReplacement, 1, 0};
    return {c.code, c.size, unicode::properties(c.code)};
  }

  size_t run(size_t pos, size_t end, uint8_t bits) const {
    while (pos < end) {
      Character c = at(pos, end);
      if (!(c.bits & bits)) break;
      pos += c.size;
    }
    return pos;
  }

  size_t others(size_t pos, size_t end) const {
    while (pos < end) {
      Character c = at(pos, end);
      if (c.bits & (kSpace | kLetter | kNumber)) break;
      pos += c.size;
    }
    return pos;
  }

  /// White space from `pos`: with `lines` first \s*[\r\n]+, then \s+(?!\S), then \s+.
  size_t spaces(size_t pos, size_t end, bool lines) const {
    size_t stop = pos, last = pos, line = pos;
    while (stop < end) {
      Character c = at(stop, end);
      if (!(c.bits & kSpace)) break;
      last = stop;
      stop += c.size;
      if (c.code == '\r' || c.code == '\n') line = stop;
    }
    if (lines && line > pos) return line;
    if (stop == end || last == pos) return stop;
    return last;  // the last one stays with the word that follows
  }

  /// End of 's 't 're 've 'm 'll 'd at `pos`, or `pos`.
  size_t contraction(size_t pos, size_t end, bool any_case) const {
    if (text_[pos] != '\'' || pos + 1 >= end) return pos;
    auto fold = [&](size_t i) {
      if (i >= end) return '\0';
      char c = text_[i];
      return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    };
    char first = fold(pos + 1), second = fold(pos + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return pos + 2;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
        (first == 'l' && second == 'l')) {
      return pos + 3;
    }
    // The long s (U+017F) is an s to a case-insensitive match.
    if (any_case && text_.substr(pos + 1, 2) == "\xC5\xBF") return pos + 3;
    return pos;
  }

  std::string_view text_;
  std::vector<size_t>& ends_;
};

}  // namespace

std::optional<PreTokenizerKind> pretokenizer_by_name(std::string_view name) {
  if (name == "gpt-2" || name == "gpt2") return PreTokenizerKind::kGpt2;
  if (name == "smollm") return PreTokenizerKind::kSmollm;
  if (name == "qwen2") return PreTokenizerKind::kQwen2;
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3")
    return PreTokenizerKind::kLlama3;
  return std::nullopt;
}

std::optional<PreTokenizerKind> pretokenizer_by_regex(std::string_view regex) {
  if (regex == kGpt2Regex) return PreTokenizerKind::kGpt2;
  if (regex == kQwen2Regex) return PreTokenizerKind::kQwen2;
  if (regex == kLlama3Regex) return PreTokenizerKind::kLlama3;
  return std::nullopt;
}

const char* pretokenizer_name(PreTokenizerKind kind) {
  switch (kind) {
    case PreTokenizerKind::kGpt2:
      return "gpt-2";
    case PreTokenizerKind::kSmollm:
      return "smollm";
    case PreTokenizerKind::kQwen2:
      return "qwen2";
    case PreTokenizerKind::kLlama3:
      return "llama-3";
  }
  return "?";
}

std::vector<size_t> pretokenize(PreTokenizerKind kind, std::string_view text) {
  std::vector<size_t> ends;
  Matcher matcher(text, ends);
  switch (kind) {
    case PreTokenizerKind::kGpt2:
      matcher.gpt2(0, text.size());
      break;
    case PreTokenizerKind::kSmollm:
      matcher.smollm();
      break;
    case PreTokenizerKind::kQwen2:
      matcher.modern(1);
      break;
    case PreTokenizerKind::kLlama3:
      matcher.modern(3);
      break;
  }
  return ends;
}

}  // namespace apud
