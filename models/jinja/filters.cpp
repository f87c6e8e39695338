#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "base/utf8.h"
#include "models/jinja/ast.h"
#include "models/jinja/runtime.h"

namespace apud::jinja {
namespace {

using Filter = Value (*)(Context&, const Value&, Arguments&);

bool flag(const Arguments& a, size_t position, std::string_view name, bool otherwise) {
  const Value* value = a.get(position, name);
  return value ? truthy(*value) : otherwise;
}

/// What map, sort and their like look at: value, or value.a.b for an attribute path.
Value attribute_of(Context& context, const Value& value, const Value& path) {
  if (path.is_int()) return get_item(context, value, path);
  Value current = value;
  const std::string& names = need_text(path, "attribute").bytes;
  for (size_t begin = 0; begin <= names.size();) {
    size_t end = std::min(names.find('.', begin), names.size());
    std::string name = names.substr(begin, end - begin);
    bool digits =
        !name.empty() && name.size() < 10 &&
        std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
    current =
        get_item(context, current,
                 digits ? Value(static_cast<int64_t>(std::stoi(name))) : Value::scaffold(name));
    begin = end + 1;
  }
  return current;
}

Value lower_for_order(Context& context, const Value& value) {
  return value.is_string() ? make_text(context, change_case(value.text(), Case::kLower)) : value;
}

Value length(Context& context, const Value& v, Arguments&) {
  if (v.is_string()) {
    context.step(1 + v.text().size() / 256);
    return static_cast<int64_t>(length_of(v.text().bytes));
  }
  if (v.is_list() && !v.list().generator) return static_cast<int64_t>(v.list().items.size());
  if (v.is_dict() && !v.dict().is_namespace) return static_cast<int64_t>(v.dict().items.size());
  if (v.is_loop()) return static_cast<int64_t>(v.loop().items->items.size());
  if (v.is_undefined()) return int64_t{0};
  throw TemplateError(std::string("a ") + type_name(v) + " has no length");
}

Value default_value(Context&, const Value& v, Arguments& a) {
  a.check("default", 2, {"default_value", "boolean"});
  if (v.is_undefined() || (flag(a, 1, "boolean", false) && !truthy(v))) {
    const Value* other = a.get(0, "default_value");
    return other ? *other : Value(Text());
  }
  return v;
}

Value tojson(Context& context, const Value& v, Arguments& a) {
  a.check("tojson", 4, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = flag(a, 0, "ensure_ascii", false);
  style.sort_keys = flag(a, 3, "sort_keys", false);
  if (const Value* indent = a.get(1, "indent"); indent && !indent->is_none()) {
    style.indent = static_cast<int>(std::clamp<int64_t>(need_int(*indent, "tojson"), 0, 64));
    style.item_separator = ",";
  }
  if (const Value* separators = a.get(2, "separators"); separators && !separators->is_none()) {
    if (!separators->is_list() || separators->list().items.size() != 2) {
      throw TemplateError("tojson: separators must be two strings");
    }
    style.item_separator = need_text(separators->list().items[0], "tojson").bytes;
    style.key_separator = need_text(separators->list().items[1], "tojson").bytes;
  }
  return make_text(context, to_json(v, style));
}

Value join_filter(Context& context, const Value& v, Arguments& a) {
  a.check("join", 2, {"d", "attribute"});
  const Value* separator = a.get(0, "d");
  std::vector<Value> items = iterate(v)->items;
  if (const Value* path = a.get(1, "attribute"); path && !path->is_none()) {
    for (Value& item : items) item = attribute_of(context, item, *path);
  }
  return make_text(context, join(context, items, separator ? to_text(*separator) : Text()));
}

Value indent(Context& context, const Value& v, Arguments& a) {
  a.check("indent", 3, {"width", "first", "blank"});
  Text by(std::string(4, ' '), true);
  if (const Value* width = a.get(0, "width")) {
    by = width->is_string()
             ? width->text()
             : Text(std::string(std::clamp<int64_t>(need_int(*width, "indent"), 0, 1000), ' '),
                    true);
  }
  bool first = flag(a, 1, "first", false), blank = flag(a, 2, "blank", false);
  const Text& text = need_text(v, "indent");
  Text out;
  for (size_t pos = 0, line = 0; pos <= text.size(); ++line) {
    context.step();
    size_t end = std::min(text.bytes.find('\n', pos), text.size());
    if (line == 0 ? first : (blank || end > pos)) out.append(by);
    out.append(text, pos, std::min(end + 1, text.size()));
    if (out.size() > kMaxText) throw TemplateError("string of more than 10 MB");
    if (end == text.size()) break;
    pos = end + 1;
  }
  return make_text(context, std::move(out));
}

Value to_int(Context&, const Value& v, Arguments& a) {
  a.check("int", 2, {"default", "base"});
  const Value* other = a.get(0, "default");
  Value result = other ? *other : Value(int64_t{0});
  double number = 0;
  bool content = v.content;
  if (v.is_int() || v.is_bool()) {
    result = v.as_int();
  } else if (v.is_float() || v.is_string()) {
    if (v.is_float()) {
      number = v.as_double();
    } else {
      Text trimmed = strip(v.text(), nullptr, true, true);
      content = trimmed.scaffold.find('\0') != std::string::npos;
      const char *begin = trimmed.bytes.data(), *end = begin + trimmed.size();
      if (begin != end && *begin == '+') ++begin;
      int64_t whole;
      auto parsed = std::from_chars(begin, end, whole);
      if (parsed.ec == std::errc() && parsed.ptr == end && begin != end) {
        Value exact = whole;
        exact.content = content;
        return exact;
      }
      auto real = std::from_chars(begin, end, number);
      if (real.ec != std::errc() || real.ptr != end || begin == end) return result;
    }
    if (!std::isfinite(number) || std::abs(number) >= 9.2e18) return result;
    result = static_cast<int64_t>(number);
  }
  result.content = content;
  return result;
}

Value to_float(Context&, const Value& v, Arguments& a) {
  const Value* other = a.get(0, "default");
  Value result = other ? *other : Value(0.0);
  if (v.is_number()) {
    result = v.as_double();
    result.content = v.content;
  } else if (v.is_string()) {
    Text trimmed = strip(v.text(), nullptr, true, true);
    double number;
    auto real =
        std::from_chars(trimmed.bytes.data(), trimmed.bytes.data() + trimmed.size(), number);
    if (real.ec == std::errc() && real.ptr == trimmed.bytes.data() + trimmed.size()) {
      result = number;
      result.content = true;
    }
  }
  return result;
}

Value map(Context& context, const Value& v, Arguments& a) {
  // The reference looks at the sequence only when it is true: none gives nothing.
  std::vector<Value> items;
  if (truthy(v)) items = iterate(v)->items;
  if (const Value* path = a.get(SIZE_MAX, "attribute")) {
    const Value* other = a.get(SIZE_MAX, "default");
    for (Value& item : items) {
      context.step();
      item = attribute_of(context, item, *path);
      if (item.is_undefined() && other) item = *other;
    }
    return make_generator(context, std::move(items));
  }
  if (a.positional.empty()) throw TemplateError("map needs a filter or an attribute");
  std::string name = need_text(a.positional[0], "map").bytes;
  if (!is_filter(name)) throw TemplateError("map: unknown filter '" + name + "'");
  Arguments rest;
  rest.positional.assign(a.positional.begin() + 1, a.positional.end());
  rest.named = a.named;
  for (Value& item : items) item = apply_filter(context, name, item, rest);
  return make_generator(context, std::move(items));
}

/// select, reject (kAttribute false) and selectattr, rejectattr.
template <bool kKeep, bool kAttribute>
Value select(Context& context, const Value& v, Arguments& a) {
  size_t skip = kAttribute ? 1 : 0;
  if (a.positional.size() < skip) throw TemplateError("selectattr needs an attribute");
  Arguments rest;
  std::string name;
  if (a.positional.size() > skip) {
    name = need_text(a.positional[skip], "select").bytes;
    if (!is_test(name)) throw TemplateError("select: unknown test '" + name + "'");
    rest.positional.assign(a.positional.begin() + skip + 1, a.positional.end());
  }
  std::vector<Value> kept;
  auto all = truthy(v) ? iterate(v) : std::make_shared<List>();
  for (const Value& item : all->items) {
    context.step();
    Value looked_at = kAttribute ? attribute_of(context, item, a.positional[0]) : item;
    bool good = name.empty() ? truthy(looked_at) : apply_test(context, name, looked_at, rest);
    if (good == kKeep) kept.push_back(item);
  }
  return make_generator(context, std::move(kept));
}

/// The second of each pair, by the first.
Value ordered(Context& context, std::vector<std::pair<Value, Value>> keyed, bool reverse) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& x, const auto& y) {
    return reverse ? less(y.first, x.first, context.steps_left)
                   : less(x.first, y.first, context.steps_left);
  });
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return make_list(context, std::move(items));
}

Value sort(Context& context, const Value& v, Arguments& a) {
  a.check("sort", 3, {"reverse", "case_sensitive", "attribute"});
  const Value* path = a.get(2, "attribute");
  bool exact = flag(a, 1, "case_sensitive", false), reverse = flag(a, 0, "reverse", false);
  std::vector<std::pair<Value, Value>> keyed;
  auto all = iterate(v);
  for (const Value& item : all->items) {
    context.step(16);
    Value key = path && !path->is_none() ? attribute_of(context, item, *path) : item;
    keyed.emplace_back(exact ? key : lower_for_order(context, key), item);
  }
  return ordered(context, std::move(keyed), reverse);
}

Value dictsort(Context& context, const Value& v, Arguments& a) {
  a.check("dictsort", 3, {"case_sensitive", "by", "reverse"});
  if (!v.is_dict())
    throw TemplateError(std::string("dictsort: expected a dict, got ") + type_name(v));
  const Value* by = a.get(1, "by");
  bool by_value = by && need_text(*by, "dictsort").bytes == "value";
  bool exact = flag(a, 0, "case_sensitive", false), reverse = flag(a, 2, "reverse", false);
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : v.dict().items) {
    context.step(16);
    const Value& looked_at = by_value ? value : key;
    keyed.emplace_back(exact ? looked_at : lower_for_order(context, looked_at),
                       make_list(context, {key, value}, true));
  }
  return ordered(context, std::move(keyed), reverse);
}

Value unique(Context& context, const Value& v, Arguments& a) {
  const Value* path = a.get(1, "attribute");
  bool exact = flag(a, 0, "case_sensitive", false);
  std::vector<Value> kept;
  Dict seen;
  auto all = iterate(v);
  for (const Value& item : all->items) {
    context.step();
    Value key = path && !path->is_none() ? attribute_of(context, item, *path) : item;
    if (!exact) key = lower_for_order(context, key);
    if (key.is_string()) context.charge(64 + key.text().size());
    if (seen.find(key)) continue;
    seen.set(key, true);
    kept.push_back(item);
  }
  return make_generator(context, std::move(kept));
}

template <bool kLargest>
Value extreme(Context& context, const Value& v, Arguments&) {
  auto items = iterate(v);
  context.step(items->items.size());
  if (items->items.empty()) return Undefined{"item of an empty list"};
  const Value* best = &items->items[0];
  for (const Value& item : items->items) {
    if (kLargest ? less(*best, item, context.steps_left) : less(item, *best, context.steps_left))
      best = &item;
  }
  return *best;
}

Value items_of(Context& context, const Value& v, Arguments&) {
  if (v.is_undefined()) return make_generator(context, {});
  if (!v.is_dict()) throw TemplateError(std::string("items: expected a dict, got ") + type_name(v));
  Arguments none;
  return make_generator(
      context, iterate(container_method(context, v, "items").function().call(none))->items);
}

Value round_filter(Context&, const Value& v, Arguments& a) {
  if (!v.is_number()) throw TemplateError("round: expected a number");
  const Value* digits = a.get(0, "precision");
  const Value* method = a.get(1, "method");
  double scale = std::pow(
      10.0,
      static_cast<double>(digits ? std::clamp<int64_t>(need_int(*digits, "round"), -15, 15) : 0));
  std::string how = method ? need_text(*method, "round").bytes : "common";
  double x = v.as_double() * scale;
  Value result = (how == "ceil"    ? std::ceil(x)
                  : how == "floor" ? std::floor(x)
                                   : std::nearbyint(x)) /
                 scale;
  result.content = v.content;
  return result;
}

Value reverse(Context& context, const Value& v, Arguments&) {
  auto items = iterate(v);
  context.step(items->items.size());
  std::reverse(items->items.begin(), items->items.end());
  if (v.is_string()) return make_text(context, join(context, items->items, Text()));
  return make_generator(context, std::move(items->items));
}

Value batch(Context& context, const Value& v, Arguments& a) {
  const Value* count = a.get(0, "linecount");
  int64_t size = count ? need_int(*count, "batch") : 0;
  if (size < 1) throw TemplateError("batch: needs a positive count");
  const Value* fill = a.get(1, "fill_with");
  std::vector<Value> rows, row;
  auto all = iterate(v);
  for (const Value& item : all->items) {
    if (static_cast<int64_t>(row.size()) == size)
      rows.push_back(make_list(context, std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (fill && !fill->is_none() && size <= static_cast<int64_t>(kMaxItems))
      row.resize(size, *fill);
    rows.push_back(make_list(context, std::move(row)));
  }
  return make_generator(context, std::move(rows));
}

Value sum(Context& context, const Value& v, Arguments& a) {
  const Value* path = a.get(0, "attribute");
  const Value* start = a.get(1, "start");
  Value total = start ? *start : Value(int64_t{0});
  auto all = iterate(v);
  for (Value item : all->items) {
    context.step();
    if (path && !path->is_none()) item = attribute_of(context, item, *path);
    if (!item.is_number() || !total.is_number()) throw TemplateError("sum: expected numbers");
    bool content = total.content || item.content;
    int64_t whole;
    if (item.is_float() || total.is_float()) {
      total = total.as_double() + item.as_double();
    } else if (__builtin_add_overflow(total.as_int(), item.as_int(), &whole)) {
      throw TemplateError("sum: beyond 64 bits");
    } else {
      total = whole;
    }
    total.content = content;
  }
  return total;
}

template <Case kHow>
Value case_filter(Context& context, const Value& v, Arguments&) {
  return make_text(context, change_case(to_text(v), kHow));
}

Value as_text(Context& context, const Value& v, Arguments&) {
  return make_text(context, to_text(v));
}

const std::unordered_map<std::string_view, Filter>& filters() {
  static const std::unordered_map<std::string_view, Filter> table = {
      {"length", length},
      {"count", length},
      {"default", default_value},
      {"d", default_value},
      {"tojson", tojson},
      {"join", join_filter},
      {"indent", indent},
      {"int", to_int},
      {"float", to_float},
      {"map", map},
      {"select", select<true, false>},
      {"reject", select<false, false>},
      {"selectattr", select<true, true>},
      {"rejectattr", select<false, true>},
      {"sort", sort},
      {"dictsort", dictsort},
      {"unique", unique},
      {"min", extreme<false>},
      {"max", extreme<true>},
      {"items", items_of},
      {"round", round_filter},
      {"reverse", reverse},
      {"batch", batch},
      {"sum", sum},
      {"upper", case_filter<Case::kUpper>},
      {"lower", case_filter<Case::kLower>},
      {"title", case_filter<Case::kTitle>},
      {"capitalize", case_filter<Case::kCapitalize>},
      {"string", as_text},
      {"safe", as_text},
      {"list",
       [](Context& c, const Value& v, Arguments&) { return make_list(c, iterate(v)->items); }},
      {"trim",
       [](Context& c, const Value& v, Arguments& a) {
         a.check("trim", 1, {"chars"});
         const Value* set = a.get(0, "chars");
         return make_text(
             c, strip(to_text(v), set && !set->is_none() ? &need_text(*set, "trim") : nullptr, true,
                      true));
       }},
      {"replace",
       [](Context& c, const Value& v, Arguments& a) {
         a.check("replace", 3, {"old", "new", "count"});
         const Value *from = a.get(0, "old"), *to = a.get(1, "new"), *count = a.get(2, "count");
         if (!from || !to) throw TemplateError("replace needs two arguments");
         if (v.is_string() && from->is_string()) charge_search(c, v.text(), from->text());
         return make_text(c,
                          replace(to_text(v), to_text(*from), to_text(*to),
                                  count && !count->is_none() ? need_int(*count, "replace") : -1));
       }},
      {"first",
       [](Context&, const Value& v, Arguments&) {
         auto items = iterate(v);
         return items->items.empty() ? Value(Undefined{"first item"}) : items->items.front();
       }},
      {"last",
       [](Context&, const Value& v, Arguments&) {
         if (v.is_list() && v.list().generator)
           throw TemplateError("last: a generator cannot be reversed");
         auto items = iterate(v);
         return items->items.empty() ? Value(Undefined{"last item"}) : items->items.back();
       }},
      {"abs",
       [](Context&, const Value& v, Arguments&) {
         if (!v.is_number()) throw TemplateError("abs: expected a number");
         if (v.is_float()) return Value(std::abs(v.as_double()));
         return v.as_int() < 0 && v.as_int() != INT64_MIN ? Value(-v.as_int()) : Value(v.as_int());
       }},
      {"attr",
       [](Context& c, const Value& v, Arguments& a) {
         if (a.positional.size() != 1) throw TemplateError("attr needs a name");
         return get_attribute(c, v, need_text(a.positional[0], "attr").bytes);
       }},
  };
  return table;
}

}  // namespace

bool is_filter(std::string_view name) { return filters().count(name) > 0; }

Value apply_filter(Context& context, std::string_view name, const Value& input,
                   Arguments& arguments) {
  context.step(1 + (input.is_string() ? input.text().size() / 256 : 0));
  auto filter = filters().find(name);
  if (filter == filters().end())
    throw TemplateError("unknown filter '" + printable(name, true) + "'");
  return filter->second(context, input, arguments);
}

}  // namespace apud::jinja
