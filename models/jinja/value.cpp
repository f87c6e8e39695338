#include "models/jinja/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/utf8.h"
#include "models/tokenizers/unicode.h"

namespace apud::jinja {

const Value* Dict::find(const Value& key) const {
  auto found = index.find(key_of(key));
  return found == index.end() ? nullptr : &items[found->second].second;
}

const Value* Dict::find(std::string_view key) const {
  auto found = index.find("s" + std::string(key));
  return found == index.end() ? nullptr : &items[found->second].second;
}

void Dict::set(const Value& key, Value value) {
  depth = std::max(depth, depth_above({value}));
  auto [at, fresh] = index.try_emplace(key_of(key), items.size());
  if (fresh) {
    items.emplace_back(key, std::move(value));
  } else {
    items[at->second].second = std::move(value);
  }
}

const Value* Arguments::get(size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Arguments::check(std::string_view callee, size_t most,
                      std::initializer_list<std::string_view> names) const {
  if (positional.size() > most) {
    throw TemplateError(std::string(callee) + " takes at most " + std::to_string(most) +
                        " arguments, got " + std::to_string(positional.size()));
  }
  for (const auto& [key, value] : named) {
    if (std::find(names.begin(), names.end(), key) == names.end()) {
      throw TemplateError(std::string(callee) + " has no argument '" + key + "'");
    }
  }
}

std::string key_of(const Value& key) {
  if (key.is_string()) return "s" + key.text().bytes;
  if (key.is_bool() || key.is_int()) return "i" + std::to_string(key.as_int());
  if (key.is_float()) {
    double v = key.as_double();
    if (v == std::floor(v) && std::abs(v) < 1e15)
      return "i" + std::to_string(static_cast<int64_t>(v));
    return "f" + float_repr(v);
  }
  if (key.is_none()) return "n";
  if (key.is_list() && key.list().tuple) {
    std::string out = "t";
    for (const Value& item : key.list().items) {
      std::string part = key_of(item);
      out += std::to_string(part.size()) + ":" + part;
      if (out.size() > 65536) throw TemplateError("tuple too large for a dict's key");
    }
    return out;
  }
  throw TemplateError(std::string("a ") + type_name(key) + " cannot be a dict's key");
}

bool truthy(const Value& v) {
  if (v.is_undefined() || v.is_none()) return false;
  if (v.is_number()) return v.as_double() != 0;
  if (v.is_string()) return v.text().size() > 0;
  if (v.is_list()) return v.list().generator || !v.list().items.empty();
  if (v.is_dict()) return v.dict().is_namespace || !v.dict().items.empty();
  return true;
}

int depth_of(const Value& v) {
  if (v.is_list()) return v.list().depth;
  if (v.is_dict()) return v.dict().depth;
  if (v.is_loop()) return v.loop().items->depth + 1;
  if (v.is_function()) return v.function().depth;
  return 0;
}

namespace {
int check_depth(int depth) {
  if (depth > kMaxNesting)
    throw TemplateError("value nested deeper than " + std::to_string(kMaxNesting));
  return depth;
}

void pay(size_t& steps, size_t cost) {
  if (cost > steps) throw TemplateError("more than 2,000,000 steps");
  steps -= cost;
}
}  // namespace

int depth_above(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, depth_of(item));
  return check_depth(depth + 1);
}

bool equal(const Value& a, const Value& b, size_t& steps) {
  pay(steps, 1);
  if (a.is_number() && b.is_number()) {
    if (!a.is_float() && !b.is_float()) return a.as_int() == b.as_int();
    return a.as_double() == b.as_double();
  }
  if (a.is_string() && b.is_string()) {
    if (a.text().size() != b.text().size()) return false;
    pay(steps, a.text().size() / 256);
    return a.text().bytes == b.text().bytes;
  }
  if (a.is_none() && b.is_none()) return true;
  if (a.is_undefined() && b.is_undefined()) return true;
  if (a.is_list() && b.is_list()) {
    const auto &x = a.list().items, &y = b.list().items;
    if (&x == &y) return true;
    if (a.list().generator || b.list().generator) return false;
    if (a.list().tuple != b.list().tuple || x.size() != y.size()) return false;
    for (size_t i = 0; i < x.size(); ++i) {
      if (!equal(x[i], y[i], steps)) return false;
    }
    return true;
  }
  if (a.is_dict() && b.is_dict()) {
    if (&a.dict() == &b.dict()) return true;
    if (a.dict().is_namespace || b.dict().is_namespace) return false;
    if (a.dict().items.size() != b.dict().items.size()) return false;
    for (const auto& [key, value] : a.dict().items) {
      const Value* other = b.dict().find(key);
      if (!other || !equal(value, *other, steps)) return false;
    }
    return true;
  }
  if (a.is_function() && b.is_function()) return &a.function() == &b.function();
  if (a.is_loop() && b.is_loop()) return &a.loop() == &b.loop();
  return false;
}

bool less(const Value& a, const Value& b, size_t& steps) {
  pay(steps, 1);
  if (a.is_number() && b.is_number()) {
    if (!a.is_float() && !b.is_float()) return a.as_int() < b.as_int();
    return a.as_double() < b.as_double();
  }
  if (a.is_string() && b.is_string()) {
    pay(steps, std::min(a.text().size(), b.text().size()) / 256);
    return a.text().bytes < b.text().bytes;
  }
  if (a.is_list() && b.is_list()) {
    const auto &x = a.list().items, &y = b.list().items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!equal(x[i], y[i], steps)) return less(x[i], y[i], steps);
    }
    return x.size() < y.size();
  }
  throw TemplateError(std::string("cannot order ") + type_name(a) + " and " + type_name(b));
}

const char* type_name(const Value& v) {
  if (v.is_undefined()) return "undefined";
  if (v.is_none()) return "None";
  if (v.is_bool()) return "bool";
  if (v.is_int()) return "int";
  if (v.is_float()) return "float";
  if (v.is_string()) return "str";
  if (v.is_list()) return v.list().generator ? "generator" : v.list().tuple ? "tuple" : "list";
  if (v.is_dict()) return v.dict().is_namespace ? "namespace" : "dict";
  if (v.is_loop()) return "loop";
  return "function";
}

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string text(buffer, end);
  size_t e = text.find('e');
  int exponent = std::stoi(text.substr(e + 1));
  if (exponent < -4 || exponent >= 16)
    return text;  // to_chars writes two exponent digits, as Python
  end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
  text.assign(buffer, end);
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

namespace {

void append_repr(Text& out, const Value& v);

void append_string_repr(Text& out, const Text& text) {
  bool single =
      text.bytes.find('\'') == std::string::npos || text.bytes.find('"') != std::string::npos;
  char quote = single ? '\'' : '"';
  bool plain = true;  // origin of the quotes: scaffold around scaffold
  for (char origin : text.scaffold) plain = plain && origin;
  out.append(std::string_view(&quote, 1), plain);
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text.bytes, pos);
    bool origin = text.scaffold[pos] != 0;
    char buffer[8];
    if (c.code == '\n' || c.code == '\r' || c.code == '\t') {
      out.append(c.code == '\n' ? "\\n" : c.code == '\r' ? "\\r" : "\\t", origin);
    } else if (c.code == '\\' || c.code == static_cast<char32_t>(quote)) {
      out.append("\\", origin);
      out.append(text, pos, pos + 1);
    } else if (c.code < 0x20 || c.code == 0x7F) {
      std::snprintf(buffer, sizeof buffer, "\\x%02x", static_cast<unsigned>(c.code));
      out.append(buffer, origin);
    } else {
      out.append(text, pos, pos + c.size);
    }
    pos += c.size;
  }
  out.append(std::string_view(&quote, 1), plain);
}

void append_repr(Text& out, const Value& v) {
  // Shared containers can unfold to exponential size.
  if (out.size() > kMaxText) throw TemplateError("string of more than 10 MB");
  if (v.is_string()) {
    append_string_repr(out, v.text());
  } else if (v.is_list() && v.list().generator) {
    out.append("<generator>", true);
  } else if (v.is_list()) {
    const List& list = v.list();
    out.append(list.tuple ? "(" : "[", true);
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out.append(", ", true);
      append_repr(out, list.items[i]);
    }
    if (list.tuple && list.items.size() == 1) out.append(",", true);
    out.append(list.tuple ? ")" : "]", true);
  } else if (v.is_dict() && v.dict().is_namespace) {
    out.append("<Namespace>", true);
  } else if (v.is_dict()) {
    out.append("{", true);
    bool first = true;
    for (const auto& [key, value] : v.dict().items) {
      if (!first) out.append(", ", true);
      first = false;
      append_repr(out, key);
      out.append(": ", true);
      append_repr(out, value);
    }
    out.append("}", true);
  } else if (v.is_undefined()) {
    out.append("Undefined", true);
  } else {
    out.append(to_text(v));
  }
}

}  // namespace

Text to_repr(const Value& value) {
  Text out;
  append_repr(out, value);
  return out;
}

Text to_text(const Value& v) {
  if (v.is_string()) return v.text();
  if (v.is_undefined()) return {};
  if (v.is_none()) return Text("None", true);
  if (v.is_bool()) return Text(v.as_bool() ? "True" : "False", !v.content);
  if (v.is_int()) return Text(std::to_string(v.as_int()), !v.content);
  if (v.is_float()) return Text(float_repr(v.as_double()), !v.content);
  if (v.is_function()) return Text("<function " + v.function().name + ">", true);
  if (v.is_loop()) return Text("<loop>", true);
  return to_repr(v);
}

std::shared_ptr<List> iterate(const Value& v) {
  if (v.is_list() && !v.list().generator) return std::make_shared<List>(v.list());
  auto out = std::make_shared<List>();
  if (v.is_undefined()) return out;
  if (v.is_list()) {
    out->depth = v.list().depth;
    out->items = std::exchange(v.list().items, {});
    return out;
  }
  if (v.is_dict() && !v.dict().is_namespace) {
    for (const auto& [key, value] : v.dict().items) out->items.push_back(key);
    return out;
  }
  if (v.is_string()) {
    const Text& text = v.text();
    for (size_t pos = 0; pos < text.size();) {
      size_t size = utf8_decode(text.bytes, pos).size;
      out->items.emplace_back(text.substr(pos, pos + size));
      pos += size;
    }
    return out;
  }
  throw TemplateError(std::string("a ") + type_name(v) + " cannot be iterated");
}

size_t length_of(std::string_view text) {
  size_t count = 0;
  for (size_t pos = 0; pos < text.size(); pos += utf8_decode(text, pos).size) ++count;
  return count;
}

std::vector<size_t> code_offsets(std::string_view text) {
  std::vector<size_t> offsets;
  for (size_t pos = 0; pos < text.size(); pos += utf8_decode(text, pos).size)
    offsets.push_back(pos);
  offsets.push_back(text.size());
  return offsets;
}

bool is_python_space(char32_t code) {
  return unicode::has(code, unicode::kSpace) || (code >= 0x1C && code <= 0x1F);
}

}  // namespace apud::jinja
