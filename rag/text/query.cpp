#include "rag/text/query.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <unordered_set>

#include "base/error.h"
#include "base/utf8.h"
#include "rag/text/terms.h"

namespace apud {
namespace {

constexpr size_t kMaxTerms = 96;  // of a query; a question of 100 tokens has fewer

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"') out += '"';
    if (c != '\0') out += c;
  }
  return out + "\"";
}

/// A single CJK character stands in the index only inside pairs: it is searched as their beginning.
std::string term_match(std::string_view term) {
  Utf8Char c = utf8_decode(term, 0);
  bool single = c.size == term.size() && is_cjk(c.code);
  return quoted(term) + (single ? " *" : "");
}

int64_t parse_date(std::string_view text) {
  auto bad = [&] {
    return Error(ErrorKind::kUsage, fmt::format("'{}' is not a date", text),
                 "write it as 2025-01-31");
  };
  if (text.size() != 10 || text[4] != '-' || text[7] != '-') throw bad();
  int parts[3] = {0, 0, 0};
  const size_t from[3] = {0, 5, 8}, to[3] = {4, 7, 10};
  for (int i = 0; i < 3; ++i) {
    for (size_t p = from[i]; p < to[i]; ++p) {
      if (text[p] < '0' || text[p] > '9') throw bad();
      parts[i] = parts[i] * 10 + (text[p] - '0');
    }
  }
  std::chrono::year_month_day day{std::chrono::year(parts[0]), std::chrono::month(parts[1]),
                                  std::chrono::day(parts[2])};
  if (!day.ok()) throw bad();
  return std::chrono::sys_days(day).time_since_epoch().count() * 86400ll * 1000000000ll;
}

/// Matches at the beginning of both; linear in practice, at worst glob x path.
bool glob_match(std::string_view glob, std::string_view text) {
  size_t g = 0, t = 0, star_g = std::string_view::npos, star_t = 0;
  bool star_deep = false;
  while (t < text.size()) {
    if (g < glob.size() && glob[g] == '*') {
      star_deep = g + 1 < glob.size() && glob[g + 1] == '*';
      g += star_deep ? 2 : 1;
      if (star_deep && g < glob.size() && glob[g] == '/') ++g;  // **/x also matches x
      star_g = g;
      star_t = t;
    } else if (g < glob.size() && (glob[g] == text[t] || (glob[g] == '?' && text[t] != '/'))) {
      ++g;
      ++t;
    } else if (star_g != std::string_view::npos && (star_deep || text[star_t] != '/')) {
      g = star_g;
      t = ++star_t;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

}  // namespace

std::string any_word_match(std::string_view text, std::string_view columns) {
  std::vector<std::string> content, all;
  std::unordered_set<std::string> seen;
  for_each_term(text, [&](const Term& term) {
    if (seen.insert(std::string(term.text)).second) {
      all.emplace_back(term.text);
      if (!is_stop_word(term.text)) content.emplace_back(term.text);
    }
    return all.size() < kMaxTerms * 4;
  });
  const auto& chosen = content.empty() ? all : content;
  std::string match;
  for (size_t i = 0; i < chosen.size() && i < kMaxTerms; ++i) {
    match += (i ? " OR " : "") + term_match(chosen[i]);
  }
  if (match.empty() || columns.empty()) return match;
  return fmt::format("{} : ({})", columns, match);
}

std::string phrase_match(std::string_view phrase) {
  std::vector<std::string> terms = terms_of(phrase);
  if (terms.empty()) return {};
  return terms.size() == 1 ? term_match(terms[0]) : quoted(phrase);
}

SearchQuery parse_search_query(std::string_view typed) {
  SearchQuery query;
  size_t pos = 0;
  auto space = [&](size_t p) { return typed[p] == ' ' || typed[p] == '\t' || typed[p] == '\n'; };
  while (pos < typed.size()) {
    if (space(pos)) {
      ++pos;
      continue;
    }
    bool minus = typed[pos] == '-' && pos + 1 < typed.size() && !space(pos + 1);
    if (minus) ++pos;
    std::string word;
    bool phrase = typed[pos] == '"';
    if (phrase) {
      size_t close = typed.find('"', pos + 1);
      if (close == std::string_view::npos) {
        throw Error(ErrorKind::kUsage, "a quote in the query is not closed",
                    "end the phrase with \"");
      }
      word = std::string(typed.substr(pos + 1, close - pos - 1));
      pos = close + 1;
    } else {
      size_t begin = pos;
      while (pos < typed.size() && !space(pos)) ++pos;
      word = std::string(typed.substr(begin, pos - begin));
    }
    if (word.empty()) continue;
    if (minus) {
      query.excluded.push_back(word);
    } else if (phrase) {
      query.required.push_back(word);
      query.text += (query.text.empty() ? "" : " ") + word;
    } else if (word.rfind("path:", 0) == 0 && word.size() > 5) {
      query.paths.push_back(word.substr(5));
    } else if (word.rfind("after:", 0) == 0) {
      query.after_ns = parse_date(std::string_view(word).substr(6));
    } else if (word.rfind("before:", 0) == 0) {
      query.before_ns = parse_date(std::string_view(word).substr(7));
    } else {
      query.text += (query.text.empty() ? "" : " ") + word;
    }
  }
  return query;
}

bool path_glob(std::string_view glob, std::string_view path) {
  if (!glob.empty() && glob.front() == '/') return glob_match(glob, path);
  // A relative glob matches the path's end, beginning at a name.
  for (size_t at = 0; at != std::string_view::npos;) {
    if (glob_match(glob, path.substr(at))) return true;
    size_t slash = path.find('/', at);
    at = slash == std::string_view::npos ? slash : slash + 1;
  }
  return false;
}

}  // namespace apud
