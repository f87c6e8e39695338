#include "rag/text/support.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/ascii.h"
#include "base/utf8.h"
#include "rag/text/terms.h"

namespace apud {

namespace {

bool word_letter(char c) { return ascii_letter(c) || c == '_'; }

/// "85,000.00" as 85000, "0.8", "1.2.3" and "3.0", which may be a version, as they are; empty where
/// commas do not part thousands.
std::string plain_number(std::string_view written) {
  std::string number;
  const size_t point = written.find('.');
  for (size_t i = 0; i < written.size(); ++i) {
    if (written[i] != ',') {
      number += written[i];
      continue;
    }
    size_t group = 0;
    while (i + 1 + group < written.size() && ascii_digit(written[i + 1 + group])) ++group;
    if (group != 3 || i > point) return {};
  }
  const size_t fraction = number.find('.') + 1;
  if (fraction > 0 && number.size() >= fraction + 2 &&
      number.find_first_not_of('0', fraction) == std::string::npos)
    number.resize(fraction - 1);
  return number;
}

/// Takes numbers of several parts out of the text and adds them whole: the words "0" and "8" of
/// "0.8" would bear an 8, and the "00" of any price another. `parts`: their integers, too.
std::string without_numbers(std::string_view text, bool parts, std::set<std::string>& numbers) {
  std::string rest;
  for (size_t i = 0; i < text.size();) {
    if (!ascii_digit(text[i]) ||
        (i > 0 && (word_letter(text[i - 1]) || ascii_digit(text[i - 1]) || text[i - 1] == '.'))) {
      rest += text[i++];
      continue;
    }
    size_t end = i, separators = 0;
    while (end < text.size() &&
           (ascii_digit(text[end]) || ((text[end] == '.' || text[end] == ',') &&
                                       end + 1 < text.size() && ascii_digit(text[end + 1])))) {
      separators += !ascii_digit(text[end]);
      ++end;
    }
    const bool word = end < text.size() && word_letter(text[end]);
    std::string number =
        separators > 0 && !word ? plain_number(text.substr(i, end - i)) : std::string();
    if (number.empty()) {
      rest += text.substr(i, end - i);
    } else {
      if (parts) numbers.insert(number.substr(0, number.find('.')));
      numbers.insert(std::move(number));
      rest += ' ';
    }
    i = end;
  }
  return rest;
}

/// Adds what numbers written in Chinese with their units come to, since answers write digits:
/// 八万五千 is 85000. Digits alone (二〇二六) and units alone (万一, a word) are left out.
void add_chinese_numbers(std::string_view text, std::set<std::string>& numbers) {
  static constexpr std::u32string_view kDigits = U"零一二三四五六七八九", kUnits = U"十百千万亿";
  static constexpr int64_t kWorth[] = {10, 100, 1000, 10'000, 100'000'000};
  constexpr int64_t kMost = 10'000'000'000;  // beyond: no number that anybody answers with
  int64_t total = 0, section = 0, ones = 0;
  bool open = false, unit_seen = false;
  auto close = [&] {
    if (open && unit_seen && total + section + ones > 0)
      numbers.insert(std::to_string(total + section + ones));
    total = section = ones = 0;
    open = unit_seen = false;
  };
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = utf8_decode(text, pos);
    pos += c.size;
    const char32_t code = c.code == U'两' ? U'二' : c.code == U'〇' ? U'零' : c.code;
    const size_t digit_at = kDigits.find(code), unit_at = kUnits.find(code);
    if (digit_at != kDigits.npos) {
      open = true;
      ones = static_cast<int64_t>(digit_at);
    } else if (unit_at != kUnits.npos && (open || unit_at == 0) && total + section < kMost) {
      open = unit_seen = true;
      if (unit_at < 3) {
        section += std::max<int64_t>(ones, 1) * kWorth[unit_at];
      } else if (unit_at == 3) {
        total += (section + ones) * kWorth[3];
        section = 0;
      } else {
        total = (total + section + ones) * kWorth[4];
        section = 0;
      }
      ones = 0;
    } else {
      close();
    }
  }
  close();
}

/// The same of English: twelve, twenty-five, two hundred and fifty, three thousand. One alone is no
/// number but a word.
void add_english_numbers(std::span<const std::string> terms, std::set<std::string>& numbers) {
  static const std::map<std::string_view, int64_t> kWorth = {
      {"one", 1},      {"two", 2},        {"three", 3},     {"four", 4},       {"five", 5},
      {"six", 6},      {"seven", 7},      {"eight", 8},     {"nine", 9},       {"ten", 10},
      {"eleven", 11},  {"twelve", 12},    {"thirteen", 13}, {"fourteen", 14},  {"fifteen", 15},
      {"sixteen", 16}, {"seventeen", 17}, {"eighteen", 18}, {"nineteen", 19},  {"twenty", 20},
      {"thirty", 30},  {"forty", 40},     {"fifty", 50},    {"sixty", 60},     {"seventy", 70},
      {"eighty", 80},  {"ninety", 90},    {"hundred", 100}, {"thousand", 1000}};
  int64_t total = 0, section = 0;
  auto close = [&] {
    if (total + section > 1) numbers.insert(std::to_string(total + section));
    total = section = 0;
  };
  for (const std::string& term : terms) {
    auto known = kWorth.find(term);
    if (known == kWorth.end()) {
      if (term != "and" || section < 100) close();
      continue;
    }
    const int64_t worth = known->second;
    const int64_t room = section % 100;  // what tens and ones of the section are
    if (worth == 1000 && section > 0 && total == 0) {
      total = section * worth;
      section = 0;
    } else if (worth == 100 && section > 0 && section < 10) {
      section *= worth;
    } else if (worth < 100 && (room == 0 || (worth < 10 && room >= 20 && room % 10 == 0))) {
      section += worth;
    } else {
      close();
      section = worth;
    }
  }
  close();
}

std::set<std::string> terms_and_numbers(std::string_view text, bool parts) {
  std::set<std::string> terms;
  const std::vector<std::string> all = terms_of(without_numbers(text, parts, terms));
  for (const std::string& t : all) {
    if (!is_stop_word(t)) terms.insert(t);
  }
  if (parts) {
    add_chinese_numbers(text, terms);
    add_english_numbers(all, terms);
  }
  return terms;
}

}  // namespace

std::set<std::string> content_terms(std::string_view text) {
  return terms_and_numbers(text, false);
}

std::string rough_stem(const std::string& term) {
  for (std::string_view ending : {"ing", "ed", "es", "s"}) {
    if (term.size() > ending.size() + 3 && term.ends_with(ending)) {
      return term.substr(0, term.size() - ending.size());
    }
  }
  return term;
}

std::set<std::string> content_stems(std::string_view text) {
  std::set<std::string> stems;
  for (const std::string& t : terms_and_numbers(text, true)) stems.insert(rough_stem(t));
  return stems;
}

double support(const std::set<std::string>& sentence, const std::set<std::string>& passage) {
  if (sentence.empty()) return 1;
  size_t held = 0;
  for (const std::string& t : sentence) held += passage.count(rough_stem(t));
  return static_cast<double>(held) / static_cast<double>(sentence.size());
}

}  // namespace apud
