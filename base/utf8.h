// UTF-8: decoding that never fails, repair, and the one filter that stands before a terminal.
// All functions are linear in their input and re-entrant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace apud {

inline constexpr char32_t kReplacement = 0xFFFD;

/// One decoded scalar value. `valid` is false for a maximal ill-formed subpart, which then counts
/// as one U+FFFD (Unicode 15, section 3.9, "substitution of maximal subparts"). size is 1..4 bytes.
struct Utf8Char {
  char32_t code;
  uint8_t size;
  bool valid;
};
/// Decodes at text[pos]. REQUIRES: pos < text.size().
Utf8Char utf8_decode(std::string_view text, size_t pos);
/// Appends a scalar value (surrogates and values above U+10FFFF become U+FFFD).
void utf8_append(std::string& out, char32_t code);
/// Copy with every ill-formed subpart replaced by U+FFFD.
std::string utf8_repair(std::string_view text);
bool utf8_valid(std::string_view text);
/// Bytes at the end (0..3) that are the start of a scalar value not yet complete.
size_t utf8_incomplete_tail(std::string_view text);

/// Collects bytes that arrive in any pieces and hands out only whole, valid UTF-8.
class Utf8Stream {
 public:
  /// Adds bytes; returns what is complete, ill-formed subparts replaced.
  std::string push(std::string_view bytes);
  /// The end: an incomplete tail becomes U+FFFD.
  std::string finish();

 private:
  std::string pending_;
};

/// Text safe to print: keeps newline, tab and printable characters; every other C0, DEL, C1, bidi
/// control and tag character is shown as a visible escape (\x1b, <U+202E>). Ill-formed bytes become
/// U+FFFD. With `one_line`, newline and tab are escaped as well (file names, errors).
std::string printable(std::string_view text, bool one_line = false);

/// True for Han, Hiragana, Katakana, Hangul and CJK compatibility code points.
bool is_cjk(char32_t code);
/// Does the text hold such a character?
bool holds_cjk(std::string_view text);
/// Columns on a terminal: 0 for combining and zero-width, 2 for wide East Asian, 1 otherwise.
int display_width(char32_t code);
int display_width(std::string_view text);

}  // namespace apud
