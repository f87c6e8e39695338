// Runs a parsed template. Bounded: steps, bytes, depth and output (runtime.h); a template that
// passes a limit ends with an error that names the line.
//
// Threads: one Interpreter belongs to one render.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "models/jinja/ast.h"
#include "models/jinja/runtime.h"

namespace apud::jinja {

/// Variables of one block; look-ups go on in the parent. Macros keep the scope they were made in.
struct Scope {
  std::unordered_map<std::string, Value> variables;
  std::shared_ptr<Scope> parent;

  const Value* find(const std::string& name) const {
    for (const Scope* scope = this; scope; scope = scope->parent.get()) {
      auto found = scope->variables.find(name);
      if (found != scope->variables.end()) return &found->second;
    }
    return nullptr;
  }
};

class Interpreter {
 public:
  explicit Interpreter(int64_t now) { context_.now = now; }
  ~Interpreter();
  /// The template's output for these variables. Throws TemplateError.
  Text render(const Node& root, std::unordered_map<std::string, Value> variables);

 private:
  using ScopePtr = std::shared_ptr<Scope>;
  enum class Flow { kNext, kBreak, kContinue };

  Flow run(const Node& node, const ScopePtr& scope);
  Flow run_for(const Node& node, const ScopePtr& scope);
  void assign(const Node& target, Value value, const ScopePtr& scope);
  void print(const Value& value);
  Text capture(const Node& body, const ScopePtr& scope);
  Value make_macro(const Node& node, const ScopePtr& scope);
  ScopePtr inner(const ScopePtr& parent);

  Value evaluate(const Node& node, const ScopePtr& scope);
  Value evaluate_node(const Node& node, const ScopePtr& scope);
  Value call(const Node& node, const ScopePtr& scope, const Value* caller);
  Value slice(const Node& node, const ScopePtr& scope);
  Value binary(const std::string& op, const Value& left, const Value& right);
  Value arithmetic(const std::string& op, const Value& left, const Value& right);
  bool compare(const std::string& op, const Value& left, const Value& right);
  Arguments arguments(const Node& node, const ScopePtr& scope);

  Context context_;
  Text* out_ = nullptr;
  const Text* captured_ = nullptr;
  int depth_ = 0;
  std::vector<std::weak_ptr<Scope>>
      macro_scopes_;  // emptied at the end: macros and scopes form cycles
};

}  // namespace apud::jinja
