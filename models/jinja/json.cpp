// JSON in and out of templates. The reader is bounded in depth; the writer spells everything as
// Python's json.dumps does.
#include "models/tokenizers/json.h"

#include <algorithm>
#include <cmath>

#include "base/utf8.h"
#include "models/jinja/value.h"

namespace apud::jinja {
namespace {

class Writer {
 public:
  explicit Writer(const JsonStyle& style) : style_(style) {}

  void write(const Value& v, int depth) {
    if (out.size() > kMaxText) throw TemplateError("tojson: more than 10 MB");
    if (v.is_string()) {
      string(v.text());
    } else if (v.is_none()) {
      out.append("null", true);
    } else if (v.is_bool()) {
      out.append(v.as_bool() ? "true" : "false", !v.content);
    } else if (v.is_float() && !std::isfinite(v.as_double())) {
      double d = v.as_double();
      out.append(std::isnan(d) ? "NaN" : d > 0 ? "Infinity" : "-Infinity", !v.content);
    } else if (v.is_number()) {
      out.append(to_text(v));
    } else if (v.is_list() && !v.list().generator) {
      array(v.list(), depth);
    } else if (v.is_dict() && !v.dict().is_namespace) {
      object(v.dict(), depth);
    } else {
      throw TemplateError(std::string("tojson: a ") + type_name(v) + " has no JSON form");
    }
  }

  Text out;

 private:
  void line(int depth) {
    if (style_.indent < 0) return;
    out.append("\n" + std::string(static_cast<size_t>(style_.indent) * depth, ' '), true);
  }

  void separator() { out.append(style_.item_separator, true); }

  void array(const List& list, int depth) {
    out.append("[", true);
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) separator();
      line(depth + 1);
      write(list.items[i], depth + 1);
    }
    if (!list.items.empty()) line(depth);
    out.append("]", true);
  }

  void object(const Dict& dict, int depth) {
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (style_.sort_keys) {
      size_t steps = 2'000'000;
      std::stable_sort(items.begin(), items.end(),
                       [&](auto* a, auto* b) { return less(a->first, b->first, steps); });
    }
    out.append("{", true);
    bool first = true;
    for (const auto* item : items) {
      if (!first) separator();
      first = false;
      line(depth + 1);
      if (item->first.is_string()) {
        string(item->first.text());
      } else {
        out.append("\"", true);
        write(item->first, depth + 1);
        out.append("\"", true);
      }
      out.append(style_.key_separator, true);
      write(item->second, depth + 1);
    }
    if (!items.empty()) line(depth);
    out.append("}", true);
  }

  void string(const Text& text) {
    out.append("\"", true);
    for (size_t pos = 0; pos < text.size();) {
      Utf8Char c = utf8_decode(text.bytes, pos);
      bool origin = text.scaffold[pos] != 0;
      switch (c.code) {
        case '"':
          out.append("\\\"", origin);
          break;
        case '\\':
          out.append("\\\\", origin);
          break;
        case '\n':
          out.append("\\n", origin);
          break;
        case '\r':
          out.append("\\r", origin);
          break;
        case '\t':
          out.append("\\t", origin);
          break;
        case '\b':
          out.append("\\b", origin);
          break;
        case '\f':
          out.append("\\f", origin);
          break;
        default:
          if (c.code < 0x20 || (style_.ensure_ascii && c.code > 0x7E)) {
            escape(c.code, origin);
          } else {
            out.append(text, pos, pos + c.size);
          }
      }
      pos += c.size;
    }
    out.append("\"", true);
  }

  void escape(char32_t code, bool origin) {
    char buffer[16];
    if (code >= 0x10000) {
      code -= 0x10000;
      std::snprintf(buffer, sizeof buffer, "\\u%04x\\u%04x",
                    static_cast<unsigned>(0xD800 + (code >> 10)),
                    static_cast<unsigned>(0xDC00 + (code & 0x3FF)));
    } else {
      std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(code));
    }
    out.append(buffer, origin);
  }

  const JsonStyle& style_;
};

/// Builds values straight from the parser's events: the library's ordered objects would make a
/// large one quadratic. Callers have checked the depth.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return put(None{}); }
  bool boolean(bool v) override { return put(from_content(v)); }
  bool number_integer(number_integer_t v) override { return put(from_content(int64_t{v})); }
  bool number_unsigned(number_unsigned_t v) override {
    return put(v <= INT64_MAX ? from_content(static_cast<int64_t>(v))
                              : from_content(static_cast<double>(v)));
  }
  bool number_float(number_float_t v, const string_t&) override { return put(from_content(v)); }
  bool string(string_t& v) override { return put(Text(v, false)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(std::make_shared<Dict>()); }
  bool key(string_t& v) override {
    keys_.back() = Text(v, false);
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(std::make_shared<List>()); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error_at = position;
    return false;
  }

  Value root;
  std::size_t error_at = 0;

 private:
  template <class T>
  static Value from_content(T v) {
    Value value(v);
    value.content = true;
    return value;
  }
  bool put(Value value) {
    if (open_.empty()) {
      root = std::move(value);
    } else if (open_.back().is_list()) {
      open_.back().list().items.push_back(std::move(value));
    } else {
      open_.back().dict().set(keys_.back(), std::move(value));
    }
    return true;
  }
  bool open(const Value& value) {
    put(value);
    open_.push_back(value);
    keys_.emplace_back();
    return true;
  }
  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }
  std::vector<Value> open_;  // containers being filled, shared with their parents
  std::vector<Value> keys_;  // key waiting for its value, one for each of open_
};

}  // namespace

Text to_json(const Value& value, const JsonStyle& style) {
  Writer writer(style);
  writer.write(value, 0);
  return std::move(writer.out);
}

Value from_json(std::string_view json, const std::string& what) {
  check_json_depth(json, what);
  Builder builder;
  if (!nlohmann::json::sax_parse(json, &builder)) {
    throw Error(ErrorKind::kBadData,
                what + ": byte " + std::to_string(builder.error_at) + ": not valid JSON");
  }
  return builder.root;
}

}  // namespace apud::jinja
