// Character properties, case and normal forms as the reference tokenizers see them (generated
// table, scripts/make-unicode-table). Ill-formed bytes pass through every function unchanged.
//
// Threads: all functions re-entrant; the table is built on first use.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace apud::unicode {

enum Property : uint8_t {
  kLetter = 1,        // \p{L}
  kNumber = 2,        // \p{N}
  kSpace = 4,         // \s
  kNumeric = 8,       // the Digits pre-tokeniser's class (a newer Unicode version than kNumber)
  kNfcCheck = 16,     // text without such code points is in form C already
  kControl = 32,      // dropped by BERT's clean-up
  kPunctuation = 64,  // split off by BERT
  kMark = 128,        // dropped with accents by BERT
};

/// Sum of Property bits. `code` may be any value; beyond U+10FFFF it is 0.
uint8_t properties(char32_t code);
inline bool has(char32_t code, uint8_t bits) { return (properties(code) & bits) != 0; }

/// Appends the lower or upper case of one code point (one to three code points, no context).
void append_lower(std::string& out, char32_t code);
void append_upper(std::string& out, char32_t code);

/// True when nfc(text) == text can be told from single code points (ASCII and most other text).
bool is_nfc_quick(std::string_view text);
/// Canonical composition and decomposition. O(n log n) for hostile runs of marks, else linear.
std::string nfc(std::string_view text);
std::string nfd(std::string_view text);

}  // namespace apud::unicode
