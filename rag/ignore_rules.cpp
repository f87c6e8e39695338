#include "rag/ignore_rules.h"

#include <cctype>

namespace apud {

namespace {

bool in_class(std::string_view name, unsigned char c) {
  if (name == "alpha") return std::isalpha(c);
  if (name == "digit") return std::isdigit(c);
  if (name == "alnum") return std::isalnum(c);
  if (name == "upper") return std::isupper(c);
  if (name == "lower") return std::islower(c);
  if (name == "space") return std::isspace(c);
  if (name == "punct") return std::ispunct(c);
  if (name == "xdigit") return std::isxdigit(c);
  return false;
}

// Matches one element of the pattern at `p` against `c`; moves `p` behind the element.
bool match_one(std::string_view pattern, size_t& p, unsigned char c) {
  if (pattern[p] == '?') {
    ++p;
    return true;
  }
  if (pattern[p] == '\\' && p + 1 < pattern.size()) {
    p += 2;
    return static_cast<unsigned char>(pattern[p - 1]) == c;
  }
  if (pattern[p] == '[') {
    size_t i = p + 1;
    bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
    if (negated) ++i;
    bool hit = false;
    for (bool first = true; i < pattern.size() && (first || pattern[i] != ']'); first = false) {
      if (pattern.compare(i, 2, "[:") == 0) {
        size_t close = pattern.find(":]", i + 2);
        if (close != std::string_view::npos) {
          hit |= in_class(pattern.substr(i + 2, close - i - 2), c);
          i = close + 2;
          continue;
        }
      }
      if (pattern[i] == '\\' && i + 1 < pattern.size()) ++i;
      unsigned char low = static_cast<unsigned char>(pattern[i++]), high = low;
      if (i + 1 < pattern.size() && pattern[i] == '-' && pattern[i + 1] != ']') {
        i += pattern[i + 1] == '\\' && i + 2 < pattern.size() ? 2 : 1;
        high = static_cast<unsigned char>(pattern[i++]);
      }
      hit |= low <= c && c <= high;
    }
    if (i < pattern.size()) {  // closed; an unclosed bracket is a literal one
      p = i + 1;
      return hit != negated;
    }
  }
  return static_cast<unsigned char>(pattern[p++]) == c;
}

std::vector<std::string_view> split(std::string_view path) {
  std::vector<std::string_view> out;
  for (size_t begin = 0;;) {
    size_t slash = path.find('/', begin);
    out.push_back(path.substr(begin, slash - begin));
    if (slash == std::string_view::npos) return out;
    begin = slash + 1;
  }
}

// Greedy matching with one way back, to the last "**": enough for patterns whose other elements
// match exactly one segment each.
bool match_segments(const std::vector<std::string>& pattern,
                    const std::vector<std::string_view>& path) {
  size_t p = 0, s = 0, star = std::string::npos, mark = 0;
  while (s < path.size()) {
    if (p < pattern.size() && pattern[p] == "**") {
      // A trailing "/**" matches everything inside, so at least one segment.
      if (p + 1 == pattern.size()) return true;
      star = p++;
      mark = s;
    } else if (p < pattern.size() && glob_match(pattern[p], path[s])) {
      ++p;
      ++s;
    } else if (star != std::string::npos) {
      p = star + 1;
      s = ++mark;
    } else {
      return false;
    }
  }
  return p == pattern.size();
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, mark = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = n;
      continue;
    }
    size_t next = p;
    if (p < pattern.size() && match_one(pattern, next, static_cast<unsigned char>(name[n]))) {
      p = next;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

IgnoreRules::IgnoreRules(std::string_view content) {
  if (content.substr(0, 3) == "\xEF\xBB\xBF") content.remove_prefix(3);
  while (!content.empty()) {
    size_t end = content.find('\n');
    add(content.substr(0, end));
    if (end == std::string_view::npos) break;
    content.remove_prefix(end + 1);
  }
}

void IgnoreRules::add(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  // Trailing spaces do not count unless escaped.
  while (!line.empty() && line.back() == ' ' &&
         !(line.size() > 1 && line[line.size() - 2] == '\\')) {
    line.remove_suffix(1);
  }
  if (line.empty() || line[0] == '#') return;
  Rule rule;
  if (line[0] == '!') {
    rule.negated = true;
    line.remove_prefix(1);
  }
  if (!line.empty() && line.back() == '/') {
    rule.folder_only = true;
    line.remove_suffix(1);
  }
  if (line.empty()) return;
  size_t slash = line.find('/');
  rule.name_only = slash == std::string_view::npos;
  if (slash == 0) line.remove_prefix(1);
  if (line.empty()) return;
  for (std::string_view segment : split(line)) {
    // "**" next to "**" means no more than one.
    if (segment == "**" && !rule.segments.empty() && rule.segments.back() == "**") continue;
    rule.segments.emplace_back(segment);
  }
  rule.literal = rule.name_only && line.find_first_of("*?[\\") == std::string_view::npos;
  rules_.push_back(std::move(rule));
}

std::optional<bool> IgnoreRules::decide(std::string_view path, bool is_folder) const {
  if (rules_.empty()) return std::nullopt;
  std::string_view name = path.substr(path.rfind('/') + 1);
  std::vector<std::string_view> segments;
  for (auto rule = rules_.rbegin(); rule != rules_.rend(); ++rule) {
    if (rule->folder_only && !is_folder) continue;
    bool hit;
    if (rule->literal) {
      hit = rule->segments[0] == name;
    } else if (rule->name_only) {
      hit = glob_match(rule->segments[0], name);
    } else {
      if (segments.empty()) segments = split(path);
      hit = match_segments(rule->segments, segments);
    }
    if (hit) return !rule->negated;
  }
  return std::nullopt;
}

}  // namespace apud
