// The tests behind `is`.
#include <unordered_map>

#include "base/utf8.h"
#include "models/jinja/ast.h"
#include "models/jinja/runtime.h"

namespace apud::jinja {
namespace {

using Test = bool (*)(const Value&, const Value*, Context&);

const Value& operand(const Value* value) {
  if (!value) throw TemplateError("this test needs an operand");
  return *value;
}

int64_t whole(const Value& v) {
  if (!v.is_int() && !v.is_bool()) throw TemplateError("this test needs an integer");
  return v.as_int();
}

bool contains(Context& context, const Value& container, const Value& item) {
  if (container.is_string()) {
    charge_search(context, container.text(), need_text(item, "in"));
    return container.text().bytes.find(item.text().bytes) != std::string::npos;
  }
  if (container.is_dict()) return container.dict().find(item) != nullptr;
  auto all = iterate(container);
  for (const Value& other : all->items) {
    if (equal(item, other, context.steps_left)) return true;
  }
  return false;
}

bool iterable(const Value& v) {
  return v.is_string() || v.is_list() || v.is_undefined() ||
         (v.is_dict() && !v.dict().is_namespace);
}

const std::unordered_map<std::string_view, Test>& predicates() {
  static constexpr Test kEqual = [](const Value& v, const Value* o, Context& c) {
    return equal(v, operand(o), c.steps_left);
  };
  static constexpr Test kUnequal = [](const Value& v, const Value* o, Context& c) {
    return !equal(v, operand(o), c.steps_left);
  };
  static constexpr Test kLess = [](const Value& v, const Value* o, Context& c) {
    return less(v, operand(o), c.steps_left);
  };
  static constexpr Test kGreater = [](const Value& v, const Value* o, Context& c) {
    return less(operand(o), v, c.steps_left);
  };
  static constexpr Test kAtMost = [](const Value& v, const Value* o, Context& c) {
    return !less(operand(o), v, c.steps_left);
  };
  static constexpr Test kAtLeast = [](const Value& v, const Value* o, Context& c) {
    return !less(v, operand(o), c.steps_left);
  };
  static const std::unordered_map<std::string_view, Test> table = {
      {"defined", [](const Value& v, const Value*, Context&) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v, const Value*, Context&) { return v.is_undefined(); }},
      {"none", [](const Value& v, const Value*, Context&) { return v.is_none(); }},
      {"boolean", [](const Value& v, const Value*, Context&) { return v.is_bool(); }},
      {"true", [](const Value& v, const Value*, Context&) { return v.is_bool() && v.as_bool(); }},
      {"false", [](const Value& v, const Value*, Context&) { return v.is_bool() && !v.as_bool(); }},
      {"integer", [](const Value& v, const Value*, Context&) { return v.is_int(); }},
      {"float", [](const Value& v, const Value*, Context&) { return v.is_float(); }},
      {"number", [](const Value& v, const Value*, Context&) { return v.is_number(); }},
      {"string", [](const Value& v, const Value*, Context&) { return v.is_string(); }},
      {"mapping", [](const Value& v, const Value*,
                     Context&) { return v.is_dict() && !v.dict().is_namespace; }},
      {"iterable", [](const Value& v, const Value*, Context&) { return iterable(v); }},
      {"sequence", [](const Value& v, const Value*,
                      Context&) { return iterable(v) && !(v.is_list() && v.list().generator); }},
      {"callable",
       [](const Value& v, const Value*, Context&) { return v.is_function() || v.is_undefined(); }},
      {"odd", [](const Value& v, const Value*, Context&) { return whole(v) % 2 != 0; }},
      {"even", [](const Value& v, const Value*, Context&) { return whole(v) % 2 == 0; }},
      {"divisibleby",
       [](const Value& v, const Value* o, Context&) {
         int64_t by = whole(operand(o));
         if (by == 0) throw TemplateError("divisibleby: 0");
         return by == -1 || whole(v) % by == 0;
       }},
      {"lower",
       [](const Value& v, const Value*, Context&) {
         Text t = to_text(v);
         return change_case(t, Case::kLower).bytes == t.bytes &&
                change_case(t, Case::kUpper).bytes != t.bytes;
       }},
      {"upper",
       [](const Value& v, const Value*, Context&) {
         Text t = to_text(v);
         return change_case(t, Case::kUpper).bytes == t.bytes &&
                change_case(t, Case::kLower).bytes != t.bytes;
       }},
      {"filter", [](const Value& v, const Value*,
                    Context&) { return v.is_string() && is_filter(v.text().bytes); }},
      {"test", [](const Value& v, const Value*,
                  Context&) { return v.is_string() && is_test(v.text().bytes); }},
      {"sameas",
       [](const Value& v, const Value* o, Context& c) {
         const Value& other = operand(o);
         return std::string_view(type_name(v)) == type_name(other) && equal(v, other, c.steps_left);
       }},
      {"in", [](const Value& v, const Value* o, Context& c) { return contains(c, operand(o), v); }},
      {"contains",
       [](const Value& v, const Value* o, Context& c) { return contains(c, v, operand(o)); }},
      {"eq", kEqual},
      {"equalto", kEqual},
      {"==", kEqual},
      {"ne", kUnequal},
      {"!=", kUnequal},
      {"lt", kLess},
      {"lessthan", kLess},
      {"<", kLess},
      {"gt", kGreater},
      {"greaterthan", kGreater},
      {">", kGreater},
      {"le", kAtMost},
      {"<=", kAtMost},
      {"ge", kAtLeast},
      {">=", kAtLeast},
  };
  return table;
}

}  // namespace

bool is_test(std::string_view name) { return predicates().count(name) > 0; }

bool apply_test(Context& context, std::string_view name, const Value& input, Arguments& arguments) {
  context.step(1 + (input.is_string() ? input.text().size() / 256 : 0));
  auto predicate = predicates().find(name);
  if (predicate == predicates().end())
    throw TemplateError("unknown test '" + printable(name, true) + "'");
  return predicate->second(input, arguments.positional.empty() ? nullptr : &arguments.positional[0],
                           context);
}

}  // namespace apud::jinja
