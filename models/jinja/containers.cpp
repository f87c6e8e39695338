// Attributes and items of values, methods of lists and dicts, global functions.
#include <algorithm>
#include <ctime>

#include "base/utf8.h"
#include "models/jinja/runtime.h"

namespace apud::jinja {
namespace {

/// Methods that change their object exist in Python but are closed to templates.
bool is_mutator(std::string_view name) {
  static constexpr std::string_view kNames[] = {"append", "extend",     "insert", "pop",
                                                "remove", "clear",      "sort",   "reverse",
                                                "update", "setdefault", "popitem"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

Value pair(Context& context, const Value& first, const Value& second) {
  return make_list(context, {first, second}, true);
}

Value loop_attribute(Context& context, const Value& object, const std::string& name) {
  Loop& loop = object.loop();
  int64_t index = static_cast<int64_t>(loop.index),
          size = static_cast<int64_t>(loop.items->items.size());
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == size;
  if (name == "length") return size;
  if (name == "revindex") return size - index;
  if (name == "revindex0") return size - index - 1;
  if (name == "depth") return loop.depth;
  if (name == "depth0") return loop.depth - 1;
  if (name == "previtem") return index > 0 ? loop.items->items[index - 1] : Value(Undefined{name});
  if (name == "nextitem")
    return index + 1 < size ? loop.items->items[index + 1] : Value(Undefined{name});
  if (name == "cycle") {
    return make_function(name, [index](Arguments& a) {
      if (a.positional.empty()) throw TemplateError("cycle needs an argument");
      return a.positional[index % a.positional.size()];
    });
  }
  if (name == "changed") {
    return make_function(
        name,
        [&context, object](Arguments& a) {
          Loop& state = object.loop();
          bool same = state.changed_called && state.last_changed.size() == a.positional.size() &&
                      std::equal(a.positional.begin(), a.positional.end(),
                                 state.last_changed.begin(), [&](const Value& x, const Value& y) {
                                   return equal(x, y, context.steps_left);
                                 });
          state.changed_called = true;
          state.last_changed = a.positional;
          return Value(!same);
        },
        depth_of(object));
  }
  return Undefined{name};
}

Value range(Context& context, Arguments& a) {
  a.check("range", 3, {});
  int64_t begin = 0, end = 0, step = 1;
  if (a.positional.empty()) throw TemplateError("range needs an argument");
  if (a.positional.size() == 1) {
    end = need_int(a.positional[0], "range");
  } else {
    begin = need_int(a.positional[0], "range");
    end = need_int(a.positional[1], "range");
    if (a.positional.size() == 3) step = need_int(a.positional[2], "range");
  }
  if (step == 0) throw TemplateError("range: step 0");
  std::vector<Value> items;
  // The reference's sandbox allows 100,000 items.
  for (__int128 i = begin; step > 0 ? i < end : i > end; i += step) {
    if (items.size() >= 100'000) throw TemplateError("range of more than 100,000 items");
    context.step();
    items.emplace_back(static_cast<int64_t>(i));
  }
  return make_list(context, std::move(items));
}

Value strftime_now(const Context& context, Arguments& a) {
  if (a.positional.size() != 1) throw TemplateError("strftime_now needs a format");
  const Text& format = need_text(a.positional[0], "strftime_now");
  if (format.size() > 256) throw TemplateError("strftime_now: format of more than 256 bytes");
  std::time_t now = static_cast<std::time_t>(context.now);
  std::tm parts{};
  localtime_r(&now, &parts);
  std::string out(8192, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.bytes.c_str(), &parts));
  return Text(out, true);
}

}  // namespace

Value make_function(std::string name, std::function<Value(Arguments&)> call, int depth) {
  auto function = std::make_shared<Function>();
  function->depth = depth;
  function->name = std::move(name);
  function->call = std::move(call);
  return function;
}

const Text& need_text(const Value& value, std::string_view who) {
  if (!value.is_string()) {
    throw TemplateError(std::string(who) + ": expected a string, got " + type_name(value));
  }
  return value.text();
}

int64_t need_int(const Value& value, std::string_view who) {
  if (!value.is_int() && !value.is_bool()) {
    throw TemplateError(std::string(who) + ": expected an integer, got " + type_name(value));
  }
  return value.as_int();
}

Value make_text(Context& context, Text text) {
  if (text.size() > kMaxText) throw TemplateError("string of more than 10 MB");
  context.charge(2 * text.size() + 64);
  return Value(std::move(text));
}

Value make_list(Context& context, std::vector<Value> items, bool tuple) {
  if (items.size() > kMaxItems) throw TemplateError("list of more than a million items");
  context.charge(items.size() * sizeof(Value) + 64);
  auto list = std::make_shared<List>();
  list->depth = depth_above(items);
  list->items = std::move(items);
  list->tuple = tuple;
  return list;
}

Value make_generator(Context& context, std::vector<Value> items) {
  Value value = make_list(context, std::move(items));
  value.list().generator = true;
  return value;
}

Text join(Context& context, const std::vector<Value>& items, const Text& separator) {
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    context.step();
    if (i > 0) out.append(separator);
    out.append(to_text(items[i]));
    if (out.size() > kMaxText) throw TemplateError("string of more than 10 MB");
  }
  return out;
}

Value container_method(Context& context, const Value& object, const std::string& name) {
  if (is_mutator(name) && (object.is_list() || object.is_dict())) {
    throw TemplateError("'" + name + "' would change a " + type_name(object) +
                        ", which templates may not");
  }
  if (object.is_dict()) {
    if (name == "get") {
      return make_function(
          name,
          [&context, object](Arguments& a) -> Value {
            a.check("get", 2, {"default"});
            if (a.positional.empty()) throw TemplateError("get needs a key");
            if (a.positional[0].is_string()) context.step(1 + a.positional[0].text().size() / 256);
            if (const Value* found = object.dict().find(a.positional[0])) return *found;
            const Value* other = a.get(1, "default");
            return other ? *other : Value(None{});
          },
          depth_of(object));
    }
    if (name == "items" || name == "keys" || name == "values" || name == "copy") {
      return make_function(
          name,
          [&context, object, name](Arguments& a) -> Value {
            a.check(name, 0, {});
            if (name == "copy") return std::make_shared<Dict>(object.dict());
            std::vector<Value> items;
            for (const auto& [key, value] : object.dict().items) {
              context.step();
              items.push_back(name == "items"  ? pair(context, key, value)
                              : name == "keys" ? key
                                               : value);
            }
            return make_list(context, std::move(items));
          },
          depth_of(object));
    }
  }
  if (object.is_list() && !object.list().generator) {
    if (name == "index" || name == "count") {
      return make_function(
          name,
          [&context, object, name](Arguments& a) -> Value {
            if (a.positional.size() != 1) throw TemplateError(name + " needs one argument");
            int64_t count = 0;
            const auto& items = object.list().items;
            context.step(items.size());
            for (size_t i = 0; i < items.size(); ++i) {
              if (!equal(items[i], a.positional[0], context.steps_left)) continue;
              if (name == "index") return static_cast<int64_t>(i);
              ++count;
            }
            if (name == "index") throw TemplateError("index: not in the list");
            return count;
          },
          depth_of(object));
    }
    if (name == "copy") {
      return make_function(
          name,
          [&context, object](Arguments&) {
            return make_list(context, object.list().items, object.list().tuple);
          },
          depth_of(object));
    }
  }
  return Undefined{name};
}

Value get_attribute(Context& context, const Value& object, const std::string& name) {
  if (object.is_undefined()) {
    throw TemplateError("'" + object.undefined_name() + "' is undefined, it has no attribute '" +
                        name + "'");
  }
  if (object.is_loop()) return loop_attribute(context, object, name);
  if (object.is_string()) return string_method(context, object, name);
  if (object.is_dict() && object.dict().is_namespace) {
    const Value* found = object.dict().find(std::string_view(name));
    return found ? *found : Value(Undefined{name});
  }
  Value method = container_method(context, object, name);
  if (!method.is_undefined()) return method;
  if (object.is_dict()) {
    if (const Value* found = object.dict().find(std::string_view(name))) return *found;
  }
  return Undefined{name};
}

Value get_item(Context& context, const Value& object, const Value& key) {
  if (object.is_undefined()) {
    throw TemplateError("'" + object.undefined_name() + "' is undefined, it has no items");
  }
  if (key.is_string()) context.step(1 + key.text().size() / 256);
  if (object.is_dict() && !object.dict().is_namespace) {
    if (!key.is_undefined() && !key.is_list() && !key.is_dict()) {
      if (const Value* found = object.dict().find(key)) return *found;
    }
  } else if (key.is_int() || key.is_bool()) {
    int64_t i = key.as_int();
    if (object.is_list() && !object.list().generator) {
      int64_t size = static_cast<int64_t>(object.list().items.size());
      if (i < 0) i += size;
      if (i >= 0 && i < size) return object.list().items[i];
    } else if (object.is_string()) {
      const Text& text = object.text();
      context.step(1 + text.size() / 256);
      auto offsets = code_offsets(text.bytes);
      int64_t size = static_cast<int64_t>(offsets.size()) - 1;
      if (i < 0) i += size;
      if (i >= 0 && i < size) return make_text(context, text.substr(offsets[i], offsets[i + 1]));
    }
    return Undefined{"item " + std::to_string(key.as_int())};
  }
  if (key.is_string()) {
    const std::string& name = key.text().bytes;
    if (object.is_dict() && is_mutator(name)) return Undefined{name};
    return get_attribute(context, object, name);
  }
  return Undefined{"item"};
}

Value global_function(Context& context, const std::string& name) {
  if (name == "range") {
    return make_function(name, [&context](Arguments& a) { return range(context, a); });
  }
  if (name == "namespace" || name == "dict") {
    return make_function(name, [&context, name](Arguments& a) -> Value {
      auto dict = std::make_shared<Dict>();
      dict->is_namespace = name == "namespace";
      context.charge(256);
      if (dict->is_namespace) context.namespaces.push_back(dict);
      for (const Value& from : a.positional) {
        if (!from.is_dict())
          throw TemplateError(name + ": expected a dict, got " + type_name(from));
        for (const auto& [key, value] : from.dict().items) dict->set(key, value);
      }
      for (const auto& [key, value] : a.named) dict->put(key, value);
      return dict;
    });
  }
  if (name == "raise_exception") {
    return make_function(name, [](Arguments& a) -> Value {
      std::string message = a.positional.empty() ? "" : to_text(a.positional[0]).bytes;
      throw TemplateError("the template refuses: " + message.substr(0, 1000));
    });
  }
  if (name == "strftime_now") {
    return make_function(name, [&context](Arguments& a) { return strftime_now(context, a); });
  }
  return Undefined{name};
}

}  // namespace apud::jinja
