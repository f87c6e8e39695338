#include "models/jinja/interpreter.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace apud::jinja {
namespace {

/// Nodes that may be open at once, macro calls included; a node's frames take about 1 KB of stack.
constexpr int kMaxDepth = 1000;

/// Adds the line to a message that has none yet.
[[noreturn]] void fail_at(const Node& node, const TemplateError& error) {
  std::string what = error.what();
  if (what.starts_with("line ")) throw error;
  throw TemplateError("line " + std::to_string(node.line) + ": " + what);
}

}  // namespace

Interpreter::~Interpreter() {
  for (auto& weak : context_.namespaces) {
    if (std::shared_ptr<Dict> dict = weak.lock()) dict->items.clear();
  }
  for (auto& weak : macro_scopes_) {
    if (ScopePtr scope = weak.lock()) scope->variables.clear();
  }
}

Text Interpreter::render(const Node& root, std::unordered_map<std::string, Value> variables) {
  Text out;
  out_ = &out;
  auto scope = std::make_shared<Scope>();
  scope->variables = std::move(variables);
  run(root, scope);
  return out;
}

Interpreter::ScopePtr Interpreter::inner(const ScopePtr& parent) {
  context_.charge(sizeof(Scope));
  auto scope = std::make_shared<Scope>();
  scope->parent = parent;
  return scope;
}

void Interpreter::print(const Value& value) {
  if (value.is_string()) {
    out_->append(value.text());
  } else {
    out_->append(to_text(value));
  }
  if (out_->size() > kMaxText) throw TemplateError("output of more than 10 MB");
}

Text Interpreter::capture(const Node& body, const ScopePtr& scope) {
  Text text;
  Text* outer = std::exchange(out_, &text);
  Flow flow = run(body, scope);
  out_ = outer;
  if (flow != Flow::kNext) throw TemplateError("a loop cannot be left out of a set or macro block");
  context_.charge(2 * text.size());
  return text;
}

Interpreter::Flow Interpreter::run(const Node& node, const ScopePtr& scope) {
  context_.step();
  if (++depth_ > kMaxDepth) throw TemplateError("nested deeper than 1000");
  struct Leave {
    int& depth;
    ~Leave() { --depth; }
  } leave{depth_};
  try {
    switch (node.op) {
      case Op::kBlock:
        for (const NodePtr& kid : node.kids) {
          Flow flow = run(*kid, scope);
          if (flow != Flow::kNext) return flow;
        }
        return Flow::kNext;
      case Op::kData:
        print(node.value);
        return Flow::kNext;
      case Op::kPrint:
        print(evaluate(*node.kids[0], scope));
        return Flow::kNext;
      case Op::kIf: {
        size_t i = 0;
        for (; i + 1 < node.kids.size(); i += 2) {
          if (truthy(evaluate(*node.kids[i], scope))) return run(*node.kids[i + 1], scope);
        }
        return i < node.kids.size() ? run(*node.kids[i], scope) : Flow::kNext;
      }
      case Op::kFor:
        return run_for(node, scope);
      case Op::kSet:
        assign(*node.kids[0], evaluate(*node.kids[1], scope), scope);
        return Flow::kNext;
      case Op::kSetBlock:
      case Op::kFilterBlock: {
        bool set = node.op == Op::kSetBlock;
        Text text = capture(*node.kids[set ? 1 : 0], inner(scope));
        const Node* filtered = node.kids[set ? 2 : 1].get();
        Value value;
        if (filtered) {
          const Text* outer = std::exchange(captured_, &text);
          value = evaluate(*filtered, scope);
          captured_ = outer;
        } else {
          value = make_text(context_, std::move(text));
        }
        if (set) {
          assign(*node.kids[0], value, scope);
        } else {
          print(value);
        }
        return Flow::kNext;
      }
      case Op::kMacro:
        scope->variables[node.name] = make_macro(node, scope);
        return Flow::kNext;
      case Op::kCallBlock: {
        Value caller = make_macro(*node.kids[1], scope);
        print(call(*node.kids[0], scope, &caller));
        return Flow::kNext;
      }
      case Op::kWith: {
        ScopePtr inside = inner(scope);
        for (const auto& [name, value] : node.named)
          inside->variables[name] = evaluate(*value, scope);
        return run(*node.kids[0], inside);
      }
      case Op::kBreak:
        return Flow::kBreak;
      case Op::kContinue:
        return Flow::kContinue;
      default:
        APUD_CHECK(false, "statement expected");
    }
  } catch (const TemplateError& error) {
    fail_at(node, error);
  }
}

Interpreter::Flow Interpreter::run_for(const Node& node, const ScopePtr& scope) {
  const Node &target = *node.kids[0], *filter = node.kids[2].get();
  auto items = iterate(evaluate(*node.kids[1], scope));
  context_.charge(items->items.size() * sizeof(Value));
  if (filter) {
    std::vector<Value> kept;
    for (Value& item : items->items) {
      context_.step();
      ScopePtr inside = inner(scope);
      assign(target, item, inside);
      if (truthy(evaluate(*filter, inside))) kept.push_back(std::move(item));
    }
    items->items = std::move(kept);
  }
  if (items->items.empty()) return node.kids[4] ? run(*node.kids[4], scope) : Flow::kNext;
  auto loop = std::make_shared<Loop>();
  loop->items = items;
  for (size_t i = 0; i < items->items.size(); ++i) {
    context_.step();
    loop->index = i;
    ScopePtr inside = inner(scope);
    inside->variables["loop"] = loop;
    assign(target, items->items[i], inside);
    if (run(*node.kids[3], inside) == Flow::kBreak) break;
  }
  return Flow::kNext;
}

void Interpreter::assign(const Node& target, Value value, const ScopePtr& scope) {
  if (target.op == Op::kName) {
    scope->variables[target.name] = std::move(value);
  } else if (target.op == Op::kAttribute) {
    Value object = evaluate(*target.kids[0], scope);
    if (!object.is_dict() || !object.dict().is_namespace) {
      throw TemplateError(std::string("cannot set an attribute of a ") + type_name(object));
    }
    context_.charge(64);
    object.dict().put(target.name, std::move(value));
  } else {
    auto items = iterate(value);
    if (items->items.size() != target.kids.size()) {
      throw TemplateError("expected " + std::to_string(target.kids.size()) + " values, got " +
                          std::to_string(items->items.size()));
    }
    for (size_t i = 0; i < target.kids.size(); ++i) assign(*target.kids[i], items->items[i], scope);
  }
}

Value Interpreter::make_macro(const Node& node, const ScopePtr& scope) {
  macro_scopes_.push_back(scope);
  return make_function(node.name, [this, &node, scope](Arguments& a) -> Value {
    ScopePtr inside = inner(scope);
    if (a.positional.size() > node.named.size()) {
      throw TemplateError("macro '" + node.name + "' takes at most " +
                          std::to_string(node.named.size()) + " arguments, got " +
                          std::to_string(a.positional.size()));
    }
    for (size_t i = 0; i < node.named.size(); ++i) {
      const auto& [name, otherwise] = node.named[i];
      if (const Value* given = a.get(i, name)) {
        inside->variables[name] = *given;
      } else {
        inside->variables[name] = otherwise ? evaluate(*otherwise, inside) : Value(Undefined{name});
      }
    }
    for (const auto& [key, value] : a.named) {
      const std::string& name = key;
      bool known = std::any_of(node.named.begin(), node.named.end(),
                               [&](const auto& parameter) { return parameter.first == name; });
      if (!known && name != "caller")
        throw TemplateError("macro '" + node.name + "' has no argument '" + name + "'");
      if (name == "caller") inside->variables[name] = value;
    }
    return make_text(context_, capture(*node.kids[0], inside));
  });
}

Arguments Interpreter::arguments(const Node& node, const ScopePtr& scope) {
  Arguments result;
  for (size_t i = 1; i < node.kids.size(); ++i)
    result.positional.push_back(evaluate(*node.kids[i], scope));
  for (const auto& [name, value] : node.named)
    result.named.emplace_back(name, evaluate(*value, scope));
  return result;
}

Value Interpreter::call(const Node& node, const ScopePtr& scope, const Value* caller) {
  Value callee = evaluate(*node.kids[0], scope);
  if (!callee.is_function()) {
    std::string name = callee.is_undefined() ? "'" + callee.undefined_name() + "' is undefined"
                                             : std::string("a ") + type_name(callee);
    throw TemplateError(name + ", it cannot be called");
  }
  Arguments args = arguments(node, scope);
  if (caller) args.named.emplace_back("caller", *caller);
  return callee.function().call(args);
}

Value Interpreter::evaluate(const Node& node, const ScopePtr& scope) {
  context_.step();
  if (++depth_ > kMaxDepth) throw TemplateError("nested deeper than 1000");
  struct Leave {
    int& depth;
    ~Leave() { --depth; }
  } leave{depth_};
  try {
    return evaluate_node(node, scope);
  } catch (const TemplateError& error) {
    fail_at(node, error);
  }
}

Value Interpreter::evaluate_node(const Node& node, const ScopePtr& scope) {
  auto kid = [&](size_t i) { return evaluate(*node.kids[i], scope); };
  switch (node.op) {
    case Op::kLiteral:
      return node.value;
    case Op::kName: {
      if (const Value* found = scope->find(node.name)) return *found;
      return global_function(context_, node.name);
    }
    case Op::kCaptured:
      return make_text(context_, *captured_);
    case Op::kList:
    case Op::kTuple: {
      std::vector<Value> items;
      for (size_t i = 0; i < node.kids.size(); ++i) items.push_back(kid(i));
      return make_list(context_, std::move(items), node.op == Op::kTuple);
    }
    case Op::kDict: {
      auto dict = std::make_shared<Dict>();
      context_.charge(64 * node.kids.size());
      for (size_t i = 0; i < node.kids.size(); i += 2) {
        Value key = kid(i);
        if (key.is_string()) context_.charge(key.text().size());
        dict->set(key, kid(i + 1));
      }
      return dict;
    }
    case Op::kAttribute:
      return get_attribute(context_, kid(0), node.name);
    case Op::kItem: {
      Value object = kid(0);
      return get_item(context_, object, kid(1));
    }
    case Op::kSlice:
      return slice(node, scope);
    case Op::kCall:
      return call(node, scope, nullptr);
    case Op::kFilter: {
      Value input = kid(0);
      Arguments args = arguments(node, scope);
      return apply_filter(context_, node.name, input, args);
    }
    case Op::kTest: {
      Value input = kid(0);
      Arguments args = arguments(node, scope);
      return apply_test(context_, node.name, input, args);
    }
    case Op::kNot:
      return !truthy(kid(0));
    case Op::kNegate:
    case Op::kPlus: {
      Value value = kid(0);
      if (!value.is_number())
        throw TemplateError(std::string("no sign before a ") + type_name(value));
      if (node.op == Op::kPlus) return value;
      Value zero(int64_t{0});
      return value.is_float() ? Value(-value.as_double()) : arithmetic("-", zero, value);
    }
    case Op::kAnd: {
      Value left = kid(0);
      return truthy(left) ? kid(1) : left;
    }
    case Op::kOr: {
      Value left = kid(0);
      return truthy(left) ? left : kid(1);
    }
    case Op::kConditional:
      if (truthy(kid(1))) return kid(0);
      return node.kids[2] ? kid(2) : Value(Undefined{"inline if without else"});
    case Op::kCompare: {
      Value left = kid(0);
      for (size_t i = 1; i < node.kids.size(); ++i) {
        Value right = kid(i);
        if (!compare(node.names[i - 1], left, right)) return false;
        left = std::move(right);
      }
      return true;
    }
    case Op::kBinary: {
      Value left = kid(0);
      return binary(node.name, left, kid(1));
    }
    default:
      APUD_CHECK(false, "expression expected");
  }
}

bool Interpreter::compare(const std::string& op, const Value& left, const Value& right) {
  size_t& steps = context_.steps_left;
  if (op == "==") return equal(left, right, steps);
  if (op == "!=") return !equal(left, right, steps);
  if (op == "<") return less(left, right, steps);
  if (op == ">") return less(right, left, steps);
  if (op == "<=") return !less(right, left, steps);
  if (op == ">=") return !less(left, right, steps);
  Arguments args;
  args.positional.push_back(right);
  return apply_test(context_, "in", left, args) == (op == "in");
}

Value Interpreter::slice(const Node& node, const ScopePtr& scope) {
  Value object = evaluate(*node.kids[0], scope);
  auto part = [&](size_t i) -> std::optional<int64_t> {
    if (!node.kids[i]) return std::nullopt;
    Value value = evaluate(*node.kids[i], scope);
    if (value.is_none()) return std::nullopt;
    return need_int(value, "slice");
  };
  auto begin = part(1), end = part(2), step_part = part(3);
  if (object.is_undefined()) throw TemplateError("'" + object.undefined_name() + "' is undefined");
  if (object.is_list() ? object.list().generator : !object.is_string()) return Undefined{"slice"};
  std::vector<size_t> offsets;
  if (object.is_string()) {
    context_.step(1 + object.text().size() / 256);
    offsets = code_offsets(object.text().bytes);
  }
  int64_t size = object.is_string() ? static_cast<int64_t>(offsets.size()) - 1
                                    : static_cast<int64_t>(object.list().items.size());
  int64_t step = step_part.value_or(1);
  if (step == 0) throw TemplateError("slice: step 0");
  // Python's slice.indices.
  auto clip = [&](int64_t i) {
    if (i < 0) i = i < -size ? -1 : i + size;
    return step > 0 ? std::clamp<int64_t>(i, 0, size) : std::clamp<int64_t>(i, -1, size - 1);
  };
  int64_t from = begin ? clip(*begin) : step > 0 ? 0 : size - 1;
  int64_t to = end ? clip(*end) : step > 0 ? size : -1;
  if (object.is_string() && step == 1) {
    if (from >= to) return Text();
    return make_text(context_, object.text().substr(offsets[from], offsets[to]));
  }
  Text text;
  std::vector<Value> items;
  for (__int128 i = from; step > 0 ? i < to : i > to; i += step) {
    context_.step();
    size_t at = static_cast<size_t>(i);
    if (object.is_string()) {
      text.append(object.text(), offsets[at], offsets[at + 1]);
    } else {
      items.push_back(object.list().items[at]);
    }
  }
  if (object.is_string()) return make_text(context_, std::move(text));
  return make_list(context_, std::move(items), object.list().tuple);
}

Value Interpreter::binary(const std::string& op, const Value& left, const Value& right) {
  if (op == "~") {
    Text text = to_text(left);
    text.append(to_text(right));
    return make_text(context_, std::move(text));
  }
  for (const Value* side : {&left, &right}) {
    if (side->is_undefined()) throw TemplateError("'" + side->undefined_name() + "' is undefined");
  }
  if (op == "+" && left.is_string() && right.is_string()) {
    Text text = left.text();
    text.append(right.text());
    return make_text(context_, std::move(text));
  }
  if (op == "+" && left.is_list() && right.is_list()) {
    std::vector<Value> items = left.list().items;
    items.insert(items.end(), right.list().items.begin(), right.list().items.end());
    return make_list(context_, std::move(items), left.list().tuple);
  }
  if (op == "*" && (left.is_string() || right.is_string()) && (left.is_int() || right.is_int())) {
    const Text& unit = left.is_string() ? left.text() : right.text();
    int64_t count = std::max<int64_t>(0, left.is_int() ? left.as_int() : right.as_int());
    if (unit.size() > 0 && count > static_cast<int64_t>(kMaxText / unit.size())) {
      throw TemplateError("string of more than 10 MB");
    }
    Text text;
    for (int64_t i = 0; unit.size() > 0 && i < count; ++i) text.append(unit);
    return make_text(context_, std::move(text));
  }
  if (left.is_number() && right.is_number()) {
    Value result = arithmetic(op, left, right);
    result.content = left.content || right.content;
    return result;
  }
  throw TemplateError(std::string("no '") + op + "' between " + type_name(left) + " and " +
                      type_name(right));
}

Value Interpreter::arithmetic(const std::string& op, const Value& left, const Value& right) {
  bool real = left.is_float() || right.is_float() || op == "/";
  if (op == "**" && !real && right.as_int() < 0) real = true;
  if (real) {
    double a = left.as_double(), b = right.as_double();
    if (b == 0 && (op == "/" || op == "//" || op == "%")) throw TemplateError("division by zero");
    if (op == "+") return a + b;
    if (op == "-") return a - b;
    if (op == "*") return a * b;
    if (op == "/") return a / b;
    if (op == "//") return std::floor(a / b);
    if (op == "%") return a - b * std::floor(a / b);
    return std::pow(a, b);
  }
  int64_t a = left.as_int(), b = right.as_int(), result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    result = 1;
    for (int64_t i = 0; i < b && !overflow && !(a >= -1 && a <= 1 && i > 2); ++i) {
      overflow = __builtin_mul_overflow(result, a, &result);
    }
    if (a == -1) result = b % 2 ? -1 : 1;
  } else {
    if (b == 0) throw TemplateError("division by zero");
    if (b == -1) {
      overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
      if (op == "%") return int64_t{0};
    } else {
      int64_t quotient = a / b, rest = a % b;
      if (rest != 0 && (rest < 0) != (b < 0)) {  // Python rounds towards minus infinity
        --quotient;
        rest += b;
      }
      result = op == "//" ? quotient : rest;
    }
  }
  if (overflow) throw TemplateError("integer beyond 64 bits");
  return result;
}

}  // namespace apud::jinja
