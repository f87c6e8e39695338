#include "rag/text/language.h"

#include <string>

#include "base/utf8.h"
#include "rag/text/terms.h"

namespace apud {

Language language_of(std::string_view text) {
  size_t cjk = 0, latin = 0, function_words = 0, words = 0;
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    pos += c.size;
    bool han = is_cjk(c.code);
    cjk += han;
    latin += !han && (c.code >= 0x80 || (c.code >= 'A' && c.code <= 'z'));
  }
  if (cjk * 10 > latin) return Language::kChinese;
  for (const std::string& term : terms_of(text)) {
    ++words;
    function_words += is_stop_word(term);
  }
  return function_words * 5 > words ? Language::kEnglish : Language::kOther;
}

}  // namespace apud
