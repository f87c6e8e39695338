#include "rag/loaders/entities.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/utf8.h"

namespace apud {

namespace {

constexpr std::array<std::pair<std::string_view, char32_t>, 46> kNames = {{
    {"amp", '&'},      {"lt", '<'},       {"gt", '>'},        {"quot", '"'},     {"apos", '\''},
    {"nbsp", 0xA0},    {"copy", 0xA9},    {"reg", 0xAE},      {"deg", 0xB0},     {"plusmn", 0xB1},
    {"middot", 0xB7},  {"laquo", 0xAB},   {"raquo", 0xBB},    {"times", 0xD7},   {"divide", 0xF7},
    {"ndash", 0x2013}, {"mdash", 0x2014}, {"lsquo", 0x2018},  {"rsquo", 0x2019}, {"ldquo", 0x201C},
    {"rdquo", 0x201D}, {"bull", 0x2022},  {"hellip", 0x2026}, {"trade", 0x2122}, {"larr", 0x2190},
    {"rarr", 0x2192},  {"uarr", 0x2191},  {"darr", 0x2193},   {"harr", 0x2194},  {"le", 0x2264},
    {"ge", 0x2265},    {"ne", 0x2260},    {"euro", 0x20AC},   {"pound", 0xA3},   {"yen", 0xA5},
    {"sect", 0xA7},    {"para", 0xB6},    {"eacute", 0xE9},   {"egrave", 0xE8},  {"agrave", 0xE0},
    {"uuml", 0xFC},    {"ouml", 0xF6},    {"auml", 0xE4},     {"szlig", 0xDF},   {"ccedil", 0xE7},
    {"ensp", 0x2002},
}};

bool iequal(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    char c = a[i] >= 'A' && a[i] <= 'Z' ? static_cast<char>(a[i] + 32) : a[i];
    if (c != b[i]) return false;
  }
  return true;
}

bool in(std::string_view name, std::initializer_list<std::string_view> list) {
  return std::any_of(list.begin(), list.end(), [&](std::string_view x) { return iequal(name, x); });
}

// Position behind "</NAME" … ">" for elements whose content is no text. `at` only grows, so that
// unclosed elements cost one search for the whole document.
size_t skip_raw(std::string_view html, size_t at, std::string_view name) {
  for (;;) {
    at = html.find("</", at);
    if (at == std::string_view::npos) return html.size();
    at += 2;
    if (iequal(html.substr(at, name.size()), name)) {
      size_t end = html.find('>', at);
      return end == std::string_view::npos ? html.size() : end + 1;
    }
  }
}

}  // namespace

std::string decode_entity(std::string_view entity) {
  std::string_view name = entity;
  if (!name.empty() && name.front() == '&') name.remove_prefix(1);
  if (!name.empty() && name.back() == ';') name.remove_suffix(1);
  std::string out;
  if (name.size() > 1 && name[0] == '#') {
    bool hex = name[1] == 'x' || name[1] == 'X';
    std::string_view digits = name.substr(hex ? 2 : 1);
    char32_t code = 0;
    if (digits.empty() || digits.size() > 8) return std::string(entity);
    for (char c : digits) {
      int value = c >= '0' && c <= '9'          ? c - '0'
                  : hex && c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : hex && c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                : -1;
      if (value < 0) return std::string(entity);
      code = code * (hex ? 16 : 10) + static_cast<char32_t>(value);
      if (code > 0x10FFFF) code = 0x110000;
    }
    utf8_append(out, code == 0 ? kReplacement : code);
    return out;
  }
  for (const auto& [known, code] : kNames) {
    if (name == known) {
      utf8_append(out, code);
      return out;
    }
  }
  return std::string(entity);
}

std::string strip_tags(std::string_view html) {
  std::string out;
  for (size_t i = 0; i < html.size();) {
    char c = html[i];
    if (c == '<') {
      if (html.substr(i, 4) == "<!--") {
        size_t end = html.find("-->", i + 4);
        i = end == std::string_view::npos ? html.size() : end + 3;
        continue;
      }
      size_t name_begin = i + 1 + (i + 1 < html.size() && html[i + 1] == '/' ? 1 : 0);
      size_t name_end = name_begin;
      while (name_end < html.size() && name_end - name_begin < 16 &&
             ((html[name_end] | 32) >= 'a' && (html[name_end] | 32) <= 'z')) {
        ++name_end;
      }
      while (name_end < html.size() && html[name_end] >= '0' && html[name_end] <= '9') ++name_end;
      bool markup = name_end > name_begin ||
                    (i + 1 < html.size() && (html[i + 1] == '!' || html[i + 1] == '?'));
      if (!markup) {
        out += c;
        ++i;
        continue;
      }
      size_t end = html.find('>', i);
      if (end == std::string_view::npos) end = html.size() - 1;
      std::string_view name = html.substr(name_begin, name_end - name_begin);
      bool opening = name_begin == i + 1;
      i = end + 1;
      if (opening && in(name, {"script", "style", "template", "noscript"})) {
        i = skip_raw(html, i, name);
      } else if (in(name, {"p",  "div",     "br",      "li",         "tr",  "h1",    "h2",
                           "h3", "h4",      "h5",      "h6",         "pre", "table", "ul",
                           "ol", "section", "article", "blockquote", "dt",  "dd",    "title"})) {
        out += '\n';
      } else if (in(name, {"td", "th"})) {
        out += ' ';
      }
    } else if (c == '&') {
      size_t end = html.find(';', i);
      if (end != std::string_view::npos && end - i <= 10) {
        out += decode_entity(html.substr(i, end + 1 - i));
        i = end + 1;
      } else {
        out += c;
        ++i;
      }
    } else {
      out += c;
      ++i;
    }
  }
  return out;
}

}  // namespace apud
