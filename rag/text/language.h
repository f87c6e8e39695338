// The language of a text, as far as citations need it: whether two texts can share words.
//
// Threads: pure function.
#pragma once

#include <string_view>

namespace apud {

enum class Language { kOther, kEnglish, kChinese };

/// Chinese by its characters (commands and names stay Latin in any text), English by its function
/// words; nothing is known of other languages.
Language language_of(std::string_view text);

}  // namespace apud
