// Methods of strings, as Python defines them; every piece of a result keeps its origin.
#include <algorithm>
#include <unordered_map>

#include "base/utf8.h"
#include "models/jinja/runtime.h"
#include "models/tokenizers/unicode.h"

namespace apud::jinja {
namespace {

using Method = Value (*)(Context&, const Text&, Arguments&);

Value from_bool(bool v) { return Value(v); }

/// Ends of the white-space separated words, or of what `separator` separates.
std::vector<Value> split(Context& context, const Text& text, const Value* separator, int64_t most) {
  std::vector<Value> parts;
  auto put = [&](size_t begin, size_t end) {
    context.step();
    parts.push_back(make_text(context, text.substr(begin, end)));
  };
  if (separator && !separator->is_none()) {
    const std::string& mark = need_text(*separator, "split").bytes;
    if (mark.empty()) throw TemplateError("split: empty separator");
    size_t begin = 0;
    while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
      size_t found = text.bytes.find(mark, begin);
      if (found == std::string::npos) break;
      put(begin, found);
      begin = found + mark.size();
    }
    put(begin, text.size());
    return parts;
  }
  auto space_at = [&](size_t pos) {
    Utf8Char c = utf8_decode(text.bytes, pos);
    return c.valid && is_python_space(c.code) ? c.size : 0;
  };
  size_t pos = 0;
  while (true) {
    while (pos < text.size() && space_at(pos)) pos += space_at(pos);
    if (pos >= text.size()) return parts;
    size_t begin = pos;
    if (most >= 0 && static_cast<int64_t>(parts.size()) >= most) {
      put(begin, text.size());
      return parts;
    }
    while (pos < text.size() && !space_at(pos)) pos += utf8_decode(text.bytes, pos).size;
    put(begin, pos);
  }
}

std::vector<Value> rsplit(Context& context, const Text& text, const Value* separator,
                          int64_t most) {
  if (most < 0 || !separator || separator->is_none()) {
    if (most >= 0) throw TemplateError("rsplit: a limit needs a separator");
    return split(context, text, separator, -1);
  }
  const std::string& mark = need_text(*separator, "rsplit").bytes;
  if (mark.empty()) throw TemplateError("rsplit: empty separator");
  std::vector<Value> parts;
  size_t end = text.size();
  while (static_cast<int64_t>(parts.size()) < most && end >= mark.size()) {
    size_t found = text.bytes.rfind(mark, end - mark.size());
    if (found == std::string::npos) break;
    context.step();
    parts.push_back(make_text(context, text.substr(found + mark.size(), end)));
    end = found;
  }
  parts.push_back(make_text(context, text.substr(0, end)));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Value> splitlines(Context& context, const Text& text, bool keep_ends) {
  std::vector<Value> lines;
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text.bytes, pos);
    size_t next = pos + c.size;
    bool line = (c.code >= 0x0A && c.code <= 0x0D) || (c.code >= 0x1C && c.code <= 0x1E) ||
                c.code == 0x85 || c.code == 0x2028 || c.code == 0x2029;
    if (line) {
      if (c.code == '\r' && next < text.size() && text.bytes[next] == '\n') ++next;
      context.step();
      lines.push_back(make_text(context, text.substr(begin, keep_ends ? next : pos)));
      begin = next;
    }
    pos = next;
  }
  if (begin < text.size()) lines.push_back(make_text(context, text.substr(begin, text.size())));
  return lines;
}

bool starts(const Text& text, const Value& what, bool at_end) {
  if (what.is_list()) {
    for (const Value& item : what.list().items) {
      if (starts(text, item, at_end)) return true;
    }
    return false;
  }
  const std::string& part = need_text(what, at_end ? "endswith" : "startswith").bytes;
  return at_end ? text.bytes.ends_with(part) : text.bytes.starts_with(part);
}

const Value& first_argument(Arguments& a, std::string_view who) {
  if (a.positional.empty()) throw TemplateError(std::string(who) + " needs an argument");
  return a.positional[0];
}

template <bool kLeft, bool kRight>
Value strip_method(Context& context, const Text& text, Arguments& a) {
  a.check("strip", 1, {"chars"});
  const Value* characters = a.get(0, "chars");
  const Text* set =
      characters && !characters->is_none() ? &need_text(*characters, "strip") : nullptr;
  return make_text(context, strip(text, set, kLeft, kRight));
}

template <Case kHow>
Value case_method(Context& context, const Text& text, Arguments&) {
  return make_text(context, change_case(text, kHow));
}

/// True when the text is not empty and `test` holds for every code point.
template <class Test>
bool all_codes(const Text& text, Test test) {
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text.bytes, pos);
    if (!c.valid || !test(c.code)) return false;
    pos += c.size;
  }
  return text.size() > 0;
}

template <bool kUpper>
bool is_case(const Text& text) {
  Text changed = change_case(text, kUpper ? Case::kUpper : Case::kLower);
  Text other = change_case(text, kUpper ? Case::kLower : Case::kUpper);
  return changed.bytes == text.bytes && other.bytes != text.bytes;
}

/// Position of `part` in code points, -1 when absent.
int64_t find(const Text& text, const Text& part, bool last) {
  size_t at = last ? text.bytes.rfind(part.bytes) : text.bytes.find(part.bytes);
  if (at == std::string::npos) return -1;
  return static_cast<int64_t>(length_of(std::string_view(text.bytes).substr(0, at)));
}

/// str.format with {}, {0} and {name}; conversions and format specifications are refused.
Value format(Context& context, const Text& text, Arguments& a) {
  Text out;
  size_t next = 0;
  for (size_t pos = 0; pos < text.size();) {
    char c = text.bytes[pos];
    if (c != '{' && c != '}') {
      size_t end = std::min(text.bytes.find_first_of("{}", pos), text.size());
      out.append(text, pos, end);
      pos = end;
      continue;
    }
    if (pos + 1 < text.size() && text.bytes[pos + 1] == c) {
      out.append(text, pos, pos + 1);
      pos += 2;
      continue;
    }
    size_t close = text.bytes.find('}', pos);
    if (c == '}' || close == std::string::npos) throw TemplateError("format: single brace");
    std::string field = text.bytes.substr(pos + 1, close - pos - 1);
    if (field.find_first_of(":!.[{") != std::string::npos) {
      throw TemplateError("format: field '" + field + "' is not supported");
    }
    const Value* value = nullptr;
    if (field.empty()) {
      value = next < a.positional.size() ? &a.positional[next++] : nullptr;
    } else if (std::all_of(field.begin(), field.end(),
                           [](char d) { return d >= '0' && d <= '9'; })) {
      size_t index = field.size() > 4 ? SIZE_MAX : std::stoul(field);
      value = index < a.positional.size() ? &a.positional[index] : nullptr;
    } else {
      value = a.get(SIZE_MAX, field);
    }
    if (!value) throw TemplateError("format: no argument for '{" + field + "}'");
    out.append(to_text(*value));
    if (out.size() > kMaxText) throw TemplateError("string of more than 10 MB");
    pos = close + 1;
  }
  return make_text(context, std::move(out));
}

Value partition(Context& context, const Text& text, Arguments& a, bool last) {
  const Text& mark = need_text(first_argument(a, "partition"), "partition");
  if (mark.size() == 0) throw TemplateError("partition: empty separator");
  size_t at = last ? text.bytes.rfind(mark.bytes) : text.bytes.find(mark.bytes);
  std::vector<Value> parts;
  if (at == std::string::npos) {
    parts = {make_text(context, text), Value(Text()), Value(Text())};
    if (last) std::swap(parts[0], parts[2]);
  } else {
    parts = {make_text(context, text.substr(0, at)),
             make_text(context, text.substr(at, at + mark.size())),
             make_text(context, text.substr(at + mark.size(), text.size()))};
  }
  return make_list(context, std::move(parts), true);
}

const std::unordered_map<std::string_view, Method>& methods() {
  static const std::unordered_map<std::string_view, Method> table = {
      {"strip", strip_method<true, true>},
      {"lstrip", strip_method<true, false>},
      {"rstrip", strip_method<false, true>},
      {"upper", case_method<Case::kUpper>},
      {"lower", case_method<Case::kLower>},
      {"title", case_method<Case::kTitle>},
      {"capitalize", case_method<Case::kCapitalize>},
      {"swapcase", case_method<Case::kSwap>},
      {"casefold", case_method<Case::kLower>},
      {"format", format},
      {"split",
       [](Context& c, const Text& t, Arguments& a) {
         a.check("split", 2, {"sep", "maxsplit"});
         const Value* most = a.get(1, "maxsplit");
         return make_list(c, split(c, t, a.get(0, "sep"), most ? need_int(*most, "split") : -1));
       }},
      {"rsplit",
       [](Context& c, const Text& t, Arguments& a) {
         a.check("rsplit", 2, {"sep", "maxsplit"});
         const Value* most = a.get(1, "maxsplit");
         return make_list(c, rsplit(c, t, a.get(0, "sep"), most ? need_int(*most, "rsplit") : -1));
       }},
      {"splitlines",
       [](Context& c, const Text& t, Arguments& a) {
         a.check("splitlines", 1, {"keepends"});
         const Value* keep = a.get(0, "keepends");
         return make_list(c, splitlines(c, t, keep && truthy(*keep)));
       }},
      {"partition",
       [](Context& c, const Text& t, Arguments& a) { return partition(c, t, a, false); }},
      {"rpartition",
       [](Context& c, const Text& t, Arguments& a) { return partition(c, t, a, true); }},
      {"startswith",
       [](Context&, const Text& t, Arguments& a) {
         return from_bool(starts(t, first_argument(a, "startswith"), false));
       }},
      {"endswith",
       [](Context&, const Text& t, Arguments& a) {
         return from_bool(starts(t, first_argument(a, "endswith"), true));
       }},
      {"replace",
       [](Context& c, const Text& t, Arguments& a) {
         a.check("replace", 3, {"count"});
         if (a.positional.size() < 2) throw TemplateError("replace needs two arguments");
         const Value* count = a.get(2, "count");
         return make_text(c, replace(t, need_text(a.positional[0], "replace"),
                                     need_text(a.positional[1], "replace"),
                                     count ? need_int(*count, "replace") : -1));
       }},
      {"join",
       [](Context& c, const Text& t, Arguments& a) {
         return make_text(c, join(c, iterate(first_argument(a, "join"))->items, t));
       }},
      {"find",
       [](Context&, const Text& t, Arguments& a) {
         return Value(find(t, need_text(first_argument(a, "find"), "find"), false));
       }},
      {"rfind",
       [](Context&, const Text& t, Arguments& a) {
         return Value(find(t, need_text(first_argument(a, "rfind"), "rfind"), true));
       }},
      {"index",
       [](Context&, const Text& t, Arguments& a) {
         int64_t at = find(t, need_text(first_argument(a, "index"), "index"), false);
         if (at < 0) throw TemplateError("index: substring not found");
         return Value(at);
       }},
      {"count",
       [](Context&, const Text& t, Arguments& a) {
         const std::string& part = need_text(first_argument(a, "count"), "count").bytes;
         if (part.empty()) return Value(static_cast<int64_t>(length_of(t.bytes) + 1));
         int64_t n = 0;
         for (size_t at = t.bytes.find(part); at != std::string::npos;
              at = t.bytes.find(part, at + part.size()))
           ++n;
         return Value(n);
       }},
      {"removeprefix",
       [](Context& c, const Text& t, Arguments& a) {
         const std::string& part =
             need_text(first_argument(a, "removeprefix"), "removeprefix").bytes;
         return make_text(c, t.bytes.starts_with(part) ? t.substr(part.size(), t.size()) : t);
       }},
      {"removesuffix",
       [](Context& c, const Text& t, Arguments& a) {
         const std::string& part =
             need_text(first_argument(a, "removesuffix"), "removesuffix").bytes;
         return make_text(c, t.bytes.ends_with(part) ? t.substr(0, t.size() - part.size()) : t);
       }},
      {"isdigit",
       [](Context&, const Text& t, Arguments&) {
         return from_bool(all_codes(t, [](char32_t c) { return c >= '0' && c <= '9'; }));
       }},
      {"isnumeric",
       [](Context&, const Text& t, Arguments&) {
         return from_bool(
             all_codes(t, [](char32_t c) { return unicode::has(c, unicode::kNumber); }));
       }},
      {"isalpha",
       [](Context&, const Text& t, Arguments&) {
         return from_bool(
             all_codes(t, [](char32_t c) { return unicode::has(c, unicode::kLetter); }));
       }},
      {"isalnum",
       [](Context&, const Text& t, Arguments&) {
         return from_bool(all_codes(
             t, [](char32_t c) { return unicode::has(c, unicode::kLetter | unicode::kNumber); }));
       }},
      {"isspace", [](Context&, const Text& t,
                     Arguments&) { return from_bool(all_codes(t, is_python_space)); }},
      {"isupper", [](Context&, const Text& t, Arguments&) { return from_bool(is_case<true>(t)); }},
      {"islower", [](Context&, const Text& t, Arguments&) { return from_bool(is_case<false>(t)); }},
  };
  return table;
}

}  // namespace

Text strip(const Text& text, const Text* characters, bool left, bool right) {
  auto drops = [&](size_t pos, size_t size) {
    std::string_view one = std::string_view(text.bytes).substr(pos, size);
    if (!characters) {
      Utf8Char c = utf8_decode(text.bytes, pos);
      return c.valid && is_python_space(c.code);
    }
    // A set of code points: bytes of one cannot match across two others in valid UTF-8.
    return characters->bytes.find(one) != std::string::npos;
  };
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t size = utf8_decode(text.bytes, begin).size;
    if (!drops(begin, size)) break;
    begin += size;
  }
  while (right && end > begin) {
    size_t back = end - 1;
    while (back > begin && (text.bytes[back] & 0xC0) == 0x80 && end - back < 4) --back;
    if (back + utf8_decode(text.bytes, back).size != end) back = end - 1;
    if (!drops(back, end - back)) break;
    end = back;
  }
  return text.substr(begin, end);
}

Text replace(const Text& text, const Text& from, const Text& to, int64_t count) {
  Text out;
  auto grow_check = [&] {
    if (out.size() > kMaxText) throw TemplateError("string of more than 10 MB");
  };
  if (from.size() == 0) {  // Python puts `to` before every code point and at the end
    size_t pos = 0;
    while (count != 0) {
      out.append(to);
      grow_check();
      if (count > 0) --count;
      if (pos >= text.size()) return out;
      size_t next = pos + utf8_decode(text.bytes, pos).size;
      out.append(text, pos, next);
      pos = next;
    }
    out.append(text, pos, text.size());
    return out;
  }
  size_t pos = 0;
  while (count != 0) {
    size_t found = text.bytes.find(from.bytes, pos);
    if (found == std::string::npos) break;
    out.append(text, pos, found);
    out.append(to);
    grow_check();
    pos = found + from.size();
    if (count > 0) --count;
  }
  out.append(text, pos, text.size());
  return out;
}

Text change_case(const Text& text, Case how) {
  Text out;
  bool in_word = false;
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text.bytes, pos);
    std::string mapped;
    if (!c.valid) {
      mapped = text.bytes.substr(pos, c.size);
    } else {
      std::string lower, upper;
      unicode::append_lower(lower, c.code);
      unicode::append_upper(upper, c.code);
      bool cased = lower != upper;
      bool up = how == Case::kUpper || (how == Case::kTitle && !in_word) ||
                (how == Case::kCapitalize && pos == 0);
      if (how == Case::kSwap) up = text.bytes.compare(pos, c.size, lower) == 0;
      mapped = up ? upper : lower;
      in_word = cased;
    }
    out.append(mapped, text.scaffold[pos] != 0);
    pos += c.size;
  }
  return out;
}

Value string_method(Context& context, const Value& object, const std::string& name) {
  auto found = methods().find(name);
  if (found == methods().end()) return Undefined{name};
  return make_function(name, [&context, object, method = found->second](Arguments& arguments) {
    // The first argument is what most methods look for.
    const auto& given = arguments.positional;
    charge_search(context, object.text(),
                  !given.empty() && given[0].is_string() ? given[0].text() : Text());
    return method(context, object.text(), arguments);
  });
}

}  // namespace apud::jinja
