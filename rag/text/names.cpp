#include "rag/text/names.h"

#include <algorithm>

#include "base/ascii.h"
#include "rag/text/terms.h"

namespace apud {
namespace {

constexpr size_t kDigits = 5;     // of a number that names something; four are a year or an amount
constexpr size_t kExtension = 2;  // letters around a file name's point: "e.g." has none
constexpr size_t kUnit = 3;       // letters behind a number that make it a measure: 5kg, 2nd

bool is_name(std::string_view word) {
  size_t digits = 0, letters = 0;
  bool underscore = false, file = false;
  for (size_t i = 0; i < word.size(); ++i) {
    digits += ascii_digit(word[i]);
    letters += ascii_letter(word[i]);
    underscore = underscore || word[i] == '_';
    if (word[i] != '.') continue;
    auto around = [&](auto at) {  // letters from there on
      size_t n = 0;
      while (at(n) < word.size() && ascii_letter(word[at(n)])) ++n;
      return n;
    };
    file = file || (around([&](size_t n) { return i + 1 + n; }) >= kExtension &&
                    around([&](size_t n) { return i - 1 - n; }) >= kExtension);
  }
  if (letters == 0) return digits >= kDigits && word.find('.') == word.npos;
  const size_t first = std::find_if(word.begin(), word.end(), ascii_letter) - word.begin();
  const bool measure = first > 0 && letters <= kUnit && first + letters == word.size() &&
                       std::all_of(word.begin(), word.begin() + first, ascii_digit);
  return (digits > 0 && !measure) || underscore || file;
}

}  // namespace

std::vector<std::string> exact_names(std::string_view text) {
  std::vector<std::string> names;
  auto part = [&](size_t i) {
    return i < text.size() && (ascii_letter(text[i]) || ascii_digit(text[i]));
  };
  for (size_t i = 0; i < text.size();) {
    if (!part(i)) {
      ++i;
      continue;
    }
    size_t end = i;
    while (part(end) || (end < text.size() && part(end + 1) &&
                         (text[end] == '-' || text[end] == '_' || text[end] == '.')))
      ++end;
    std::string word(text.substr(i, end - i));
    if (is_name(word) && std::find(names.begin(), names.end(), word) == names.end())
      names.push_back(std::move(word));
    i = end;
  }
  return names;
}

bool holds_name(std::string_view text, std::string_view name) {
  const std::vector<std::string> words = terms_of(text), wanted = terms_of(name);
  return !wanted.empty() &&
         std::search(words.begin(), words.end(), wanted.begin(), wanted.end()) != words.end();
}

}  // namespace apud
