// What expressions can call: attributes and methods of values, filters, tests, functions.
// Everything counts against one budget of steps and bytes.
//
// Threads: a Context belongs to one render.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "models/jinja/value.h"

namespace apud::jinja {

/// Budget of one render. Every node costs a step, every byte of a new string or item of a new list
/// is charged, so time and memory stay bounded whatever the template does.
struct Context {
  int64_t now = 0;  // seconds since the epoch, for strftime_now
  size_t steps_left = 2'000'000;
  size_t bytes_left = 256u << 20;
  std::vector<std::weak_ptr<Dict>> namespaces;  // emptied at the end: they can form cycles

  void step(size_t count = 1) {
    if (count > steps_left) throw TemplateError("more than 2,000,000 steps");
    steps_left -= count;
  }
  void charge(size_t bytes) {
    if (bytes > bytes_left) throw TemplateError("more than 256 MiB of intermediate text");
    bytes_left -= bytes;
  }
};

/// Takes the cost of looking for `pattern` in `text` (worst case: their product).
inline void charge_search(Context& context, const Text& text, const Text& pattern) {
  context.step((1 + text.size() / 256) * (1 + pattern.size() / 64));
}

/// object.name as Jinja resolves it: methods and attributes first, then keys.
Value get_attribute(Context& context, const Value& object, const std::string& name);
/// object[key]: keys and indices first, then attributes. Undefined when there is none.
Value get_item(Context& context, const Value& object, const Value& key);
/// A bound method of a string, list or dict, or undefined (strings.cpp, containers.cpp).
Value string_method(Context& context, const Value& object, const std::string& name);
Value container_method(Context& context, const Value& object, const std::string& name);

Value apply_filter(Context& context, std::string_view name, const Value& input,
                   Arguments& arguments);
bool apply_test(Context& context, std::string_view name, const Value& input, Arguments& arguments);
/// range, namespace, dict, raise_exception, strftime_now, joiner-like helpers; or undefined.
Value global_function(Context& context, const std::string& name);

// Pieces that filters and methods share.
/// `depth`: of the value that the function holds on to.
Value make_function(std::string name, std::function<Value(Arguments&)> call, int depth = 0);
/// Checked: a string argument's text; throws naming `who`.
const Text& need_text(const Value& value, std::string_view who);
int64_t need_int(const Value& value, std::string_view who);
/// Charged copy of a string as a value.
Value make_text(Context& context, Text text);
Value make_list(Context& context, std::vector<Value> items, bool tuple = false);
Value make_generator(Context& context, std::vector<Value> items);
Text strip(const Text& text, const Text* characters, bool left, bool right);
Text replace(const Text& text, const Text& from, const Text& to, int64_t count);
/// Upper and lower case, or title case, code point by code point; the origin follows.
enum class Case { kLower, kUpper, kTitle, kCapitalize, kSwap };
Text change_case(const Text& text, Case how);
Text join(Context& context, const std::vector<Value>& items, const Text& separator);

}  // namespace apud::jinja
