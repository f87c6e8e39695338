// Syntax tree of a template. One node type with an operation: the interpreter switches on it.
//
// Threads: immutable after parsing.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/jinja/value.h"

namespace apud::jinja {

enum class Op {
  // Statements; kids in this order.
  kBlock,        // statements
  kData,         // value: the text
  kPrint,        // expression
  kIf,           // condition, block, condition, block, ..., optionally the else block
  kFor,          // target, iterable, filter or null, body, else block or null
  kSet,          // target, expression
  kSetBlock,     // target, body, filtered expression or null (kCaptured inside)
  kMacro,        // body; name; named: parameters with default or null
  kCallBlock,    // call expression, macro
  kFilterBlock,  // body, filtered expression (kCaptured inside)
  kWith,         // body; named: variables
  kBreak,
  kContinue,
  // Expressions.
  kLiteral,    // value
  kName,       // name
  kCaptured,   // text of the enclosing set or filter block
  kList,       // items
  kTuple,      // items
  kDict,       // key, value, key, value, ...
  kAttribute,  // object; name
  kItem,       // object, index
  kSlice,      // object, begin or null, end or null, step or null
  kCall,       // callee, positional...; named
  kFilter,     // input, positional...; name; named
  kTest,       // input, positional...; name; named
  kNot,
  kNegate,
  kPlus,
  kAnd,
  kOr,
  kConditional,  // value, condition, other or null
  kCompare,      // first, then operands; names: operators
  kBinary,       // left, right; name: operator
};

struct Node;
using NodePtr = std::unique_ptr<Node>;

struct Node {
  Op op;
  uint32_t line = 0;
  std::string name;
  Value value;
  std::vector<NodePtr> kids;
  std::vector<std::pair<std::string, NodePtr>> named;
  std::vector<std::string> names;  // kCompare: operators
  int height = 1;                  // of the tree below, itself included
};

/// Parses a template; throws TemplateError with line and column. Unknown tags are refused by name
/// here; unknown filters and tests where they are used, so that a branch never taken does no harm.
NodePtr parse(std::string_view source);

/// Whether the interpreter knows a filter or test of that name (filters.cpp, predicates.cpp).
bool is_filter(std::string_view name);
bool is_test(std::string_view name);

}  // namespace apud::jinja
