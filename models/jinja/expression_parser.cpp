#include "models/jinja/expression_parser.h"

#include <array>

#include "base/utf8.h"

namespace apud::jinja {

void ExpressionParser::fail(const std::string& what) const {
  const Token& t = peek();
  throw TemplateError("line " + std::to_string(t.line) + ", column " + std::to_string(t.column) +
                      ": " + what);
}

std::string ExpressionParser::found() const {
  const Token& t = peek();
  switch (t.kind) {
    case Token::kName:
    case Token::kOperator:
    case Token::kInteger:
    case Token::kFloat:
      return ", found '" + printable(t.text, true) + "'";
    case Token::kString:
      return ", found a string";
    case Token::kEnd:
      return ", found the end of the template";
    default:
      return ", found the end of the tag";
  }
}

NodePtr ExpressionParser::tuple_or_expression(bool conditional) {
  NodePtr first = conditional ? expression() : or_expression();
  if (!is_op(",")) return first;
  NodePtr tuple = node(Op::kTuple, std::move(first));
  while (skip_op(",")) {
    if (peek().kind == Token::kTagEnd || peek().kind == Token::kPrintEnd || is_op(")")) break;
    add(*tuple, conditional ? expression() : or_expression());
  }
  return tuple;
}

NodePtr ExpressionParser::expression() {
  Depth depth(*this);
  NodePtr value = or_expression();
  while (skip_name("if")) {
    NodePtr condition = or_expression();
    NodePtr other = skip_name("else") ? expression() : nullptr;
    value = node(Op::kConditional, std::move(value), std::move(condition), std::move(other));
  }
  return value;
}

NodePtr ExpressionParser::or_expression() {
  NodePtr left = and_expression();
  while (skip_name("or")) left = node(Op::kOr, std::move(left), and_expression());
  return left;
}

NodePtr ExpressionParser::and_expression() {
  NodePtr left = not_expression();
  while (skip_name("and")) left = node(Op::kAnd, std::move(left), not_expression());
  return left;
}

NodePtr ExpressionParser::not_expression() {
  Depth depth(*this);
  if (skip_name("not")) return node(Op::kNot, not_expression());
  return comparison();
}

NodePtr ExpressionParser::comparison() {
  static constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<", "<=", ">", ">="};
  NodePtr first = sum();
  NodePtr chain;
  while (true) {
    std::string op;
    if (peek().kind == Token::kOperator &&
        std::find(kOperators.begin(), kOperators.end(), peek().text) != kOperators.end()) {
      op = take().text;
    } else if (is_name("in")) {
      op = take().text;
    } else if (is_name("not") && is_name("in", 1)) {
      at_ += 2;
      op = "not in";
    } else {
      break;
    }
    if (!chain) chain = node(Op::kCompare, std::move(first));
    add(*chain, sum());
    chain->names.push_back(op);
  }
  return chain ? std::move(chain) : std::move(first);
}

NodePtr ExpressionParser::binary(std::string op, NodePtr left, NodePtr right) {
  NodePtr n = node(Op::kBinary, std::move(left), std::move(right));
  n->name = std::move(op);
  return n;
}

NodePtr ExpressionParser::sum() {
  NodePtr left = concatenation();
  while (is_op("+") || is_op("-")) {
    std::string op = take().text;
    left = binary(op, std::move(left), concatenation());
  }
  return left;
}

NodePtr ExpressionParser::concatenation() {
  NodePtr left = product();
  while (skip_op("~")) left = binary("~", std::move(left), product());
  return left;
}

NodePtr ExpressionParser::product() {
  NodePtr left = power();
  while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
    std::string op = take().text;
    left = binary(op, std::move(left), power());
  }
  return left;
}

NodePtr ExpressionParser::power() {
  NodePtr left = unary();
  while (skip_op("**")) left = binary("**", std::move(left), unary());
  return left;
}

NodePtr ExpressionParser::unary(bool with_filters) {
  Depth depth(*this);
  NodePtr n;
  if (skip_op("-")) {
    n = node(Op::kNegate, unary(false));
  } else if (skip_op("+")) {
    n = node(Op::kPlus, unary(false));
  } else {
    n = primary();
  }
  n = postfix(std::move(n));
  return with_filters ? filters(std::move(n)) : std::move(n);
}

NodePtr ExpressionParser::primary() {
  const Token t = peek();
  switch (t.kind) {
    case Token::kName: {
      take();
      if (t.text == "true" || t.text == "True") return literal(true);
      if (t.text == "false" || t.text == "False") return literal(false);
      if (t.text == "none" || t.text == "None") return literal(None{});
      return named_node(Op::kName, t.text);
    }
    case Token::kString: {
      std::string text;
      while (peek().kind == Token::kString) text += take().text;
      return literal(Value::scaffold(text));
    }
    case Token::kInteger: {
      take();
      return literal(integer(t.text));
    }
    case Token::kFloat:
      take();
      try {
        return literal(std::stod(t.text));
      } catch (const std::out_of_range&) {
        fail("number out of range");
      }
    case Token::kOperator:
      if (t.text == "(") return parenthesis();
      if (t.text == "[") return list();
      if (t.text == "{") return dict();
      break;
    default:
      break;
  }
  fail("expected an expression" + found());
}

int64_t ExpressionParser::integer(const std::string& digits) {
  try {
    return std::stoll(digits);
  } catch (const std::out_of_range&) {
    fail("integer beyond 64 bits");
  }
}

NodePtr ExpressionParser::parenthesis() {
  expect_op("(");
  if (skip_op(")")) return node(Op::kTuple);
  NodePtr inner = tuple_or_expression();
  expect_op(")");
  return inner;
}

NodePtr ExpressionParser::list() {
  expect_op("[");
  NodePtr n = node(Op::kList);
  while (!is_op("]")) {
    add(*n, expression());
    if (!is_op("]")) expect_op(",");
  }
  expect_op("]");
  return n;
}

NodePtr ExpressionParser::dict() {
  expect_op("{");
  NodePtr n = node(Op::kDict);
  while (!is_op("}")) {
    add(*n, expression());
    expect_op(":");
    add(*n, expression());
    if (!is_op("}")) expect_op(",");
  }
  expect_op("}");
  return n;
}

NodePtr ExpressionParser::postfix(NodePtr n) {
  while (true) {
    if (skip_op(".")) {
      if (peek().kind == Token::kInteger) {
        n = node(Op::kItem, std::move(n), literal(integer(take().text)));
      } else {
        n = node(Op::kAttribute, std::move(n));
        n->name = identifier();
      }
    } else if (is_op("[")) {
      n = subscript(std::move(n));
    } else if (is_op("(")) {
      n = call(std::move(n));
    } else {
      return n;
    }
  }
}

NodePtr ExpressionParser::subscript(NodePtr object) {
  expect_op("[");
  NodePtr part[3];
  int colons = 0;
  while (!is_op("]")) {
    if (skip_op(":")) {
      if (++colons > 2) fail("a slice has at most three parts");
    } else {
      if (part[colons]) fail("expected ':' or ']'" + found());
      part[colons] = expression();
    }
  }
  expect_op("]");
  if (colons == 0) {
    if (!part[0]) fail("expected an index");
    return node(Op::kItem, std::move(object), std::move(part[0]));
  }
  return node(Op::kSlice, std::move(object), std::move(part[0]), std::move(part[1]),
              std::move(part[2]));
}

void ExpressionParser::arguments(Node& n) {
  expect_op("(");
  while (!is_op(")")) {
    if (is_op("*") || is_op("**")) fail("* and ** arguments are not supported");
    if (peek().kind == Token::kName && is_op("=", 1)) {
      std::string name = identifier();
      take();
      add_named(n, name, expression());
    } else {
      if (!n.named.empty()) fail("a positional argument after a named one");
      add(n, expression());
    }
    if (!is_op(")")) expect_op(",");
  }
  expect_op(")");
}

NodePtr ExpressionParser::call(NodePtr callee) {
  NodePtr n = node(Op::kCall, std::move(callee));
  arguments(*n);
  return n;
}

NodePtr ExpressionParser::filter_after_bar(NodePtr input) {
  NodePtr n = node(Op::kFilter, std::move(input));
  n->name = identifier();
  if (is_op("(")) arguments(*n);
  return n;
}

NodePtr ExpressionParser::filters(NodePtr n) {
  while (true) {
    if (skip_op("|")) {
      n = filter_after_bar(std::move(n));
    } else if (is_name("is")) {
      take();
      n = test(std::move(n));
    } else if (is_op("(")) {
      n = call(std::move(n));
    } else {
      return n;
    }
  }
}

NodePtr ExpressionParser::test(NodePtr input) {
  bool negated = skip_name("not");
  NodePtr n = node(Op::kTest, std::move(input));
  n->name = identifier();
  if (is_op("(")) {
    arguments(*n);
  } else {
    const Token& t = peek();
    bool starts =
        t.kind == Token::kString || t.kind == Token::kInteger || t.kind == Token::kFloat ||
        is_op("[") || is_op("{") ||
        (t.kind == Token::kName && t.text != "else" && t.text != "or" && t.text != "and" &&
         t.text != "is" && t.text != "if" && t.text != "in" && t.text != "not");
    if (starts) add(*n, postfix(primary()));
  }
  return negated ? node(Op::kNot, std::move(n)) : std::move(n);
}

}  // namespace apud::jinja
