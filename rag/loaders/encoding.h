// Bytes of any encoding → clean UTF-8. Private to rag.
//
// Threads: re-entrant.
#pragma once

#include <string>
#include <string_view>

namespace apud {

/// Text as every loader stores it, and what was changed on the way.
struct CleanText {
  std::string text;
  int replaced = 0;  // ill-formed subparts, now U+FFFD
  int hidden = 0;    // bidi controls, tag and zero-width characters dropped
};

/// Cleans UTF-8: CRLF and CR become \n; form feeds \n; terminal escape sequences, other controls,
/// bidi controls, tags, zero-width characters and soft hyphens go; overstrikes (x\bx) are resolved;
/// ill-formed bytes become U+FFFD. Linear.
void clean_append(std::string_view utf8, CleanText& out);
CleanText clean_utf8(std::string_view utf8);

/// Name of the encoding as ICU knows it. Order: byte order mark, strict UTF-8, UTF-16 by what its
/// units mean, nearly-valid UTF-8, uchardet on the stretches that hold high bytes, GB2312 by its
/// byte ranges, windows-1252. Every GB* is read as GB18030. Empty: binary (NUL bytes, not UTF-16).
/// Source of the order: measurements in the project's notes on uchardet (English with a few Han).
std::string detect_encoding(std::string_view bytes);

/// Converts from `encoding` (a name of detect_encoding or any ICU alias) to UTF-8; ill-formed input
/// becomes U+FFFD. A byte order mark is dropped. Unknown names give an empty optional-like result:
/// `known` false.
std::string to_utf8(std::string_view bytes, const std::string& encoding, bool* known = nullptr);

/// Both of the above and cleaning. `binary` is set instead of text where the bytes are no text.
struct DecodedText {
  CleanText clean;
  std::string encoding;
  bool binary = false;
};
DecodedText decode_text(std::string_view bytes);

/// Leaves the first 64 letters and an ellipsis of every run of 512 and more of base64's letters: no
/// language has such words, and megabytes of them take minutes to embed for nothing. How many there
/// were.
int shorten_data(std::string& text);

}  // namespace apud
