// Tokens and expressions of the template parser; its statements are in parser.cpp.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/jinja/ast.h"
#include "models/jinja/lexer.h"

namespace apud::jinja {

/// Limit on the height of the tree: the interpreter and destructors recurse over it.
inline constexpr int kMaxHeight = 200;

/// Recursive descent over the expressions of Jinja 3 (the parts that chat templates use).
class ExpressionParser {
 protected:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& take() { return tokens_[std::min(at_++, tokens_.size() - 1)]; }
  bool is_op(std::string_view op, size_t ahead = 0) const {
    return peek(ahead).kind == Token::kOperator && peek(ahead).text == op;
  }
  bool is_name(std::string_view name, size_t ahead = 0) const {
    return peek(ahead).kind == Token::kName && peek(ahead).text == name;
  }
  bool skip_op(std::string_view op) {
    if (!is_op(op)) return false;
    ++at_;
    return true;
  }
  bool skip_name(std::string_view name) {
    if (!is_name(name)) return false;
    ++at_;
    return true;
  }
  /// Throws TemplateError that names the present line and column.
  [[noreturn]] void fail(const std::string& what) const;
  void expect_op(std::string_view op) {
    if (!skip_op(op)) fail("expected '" + std::string(op) + "'" + found());
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) fail("expected '" + std::string(name) + "'" + found());
  }
  std::string found() const;
  std::string identifier() {
    if (peek().kind != Token::kName) fail("expected a name" + found());
    return take().text;
  }

  /// Recursion in the parser itself (brackets, nested blocks) is bounded as the tree is.
  struct Depth {
    explicit Depth(ExpressionParser& p) : parser(p) {
      if (++parser.depth_ > kMaxHeight)
        parser.fail("nested deeper than " + std::to_string(kMaxHeight));
    }
    ~Depth() { --parser.depth_; }
    ExpressionParser& parser;
  };

  template <class... Kids>
  NodePtr node(Op op, Kids... kids) {
    auto n = std::make_unique<Node>();
    n->op = op;
    n->line = peek().line;
    (add(*n, std::move(kids)), ...);
    return n;
  }
  NodePtr named_node(Op op, std::string name) {
    NodePtr n = node(op);
    n->name = std::move(name);
    return n;
  }
  NodePtr literal(Value value) {
    NodePtr n = node(Op::kLiteral);
    n->value = std::move(value);
    return n;
  }
  void grow(Node& parent, const Node* kid) {
    if (!kid) return;
    parent.height = std::max(parent.height, kid->height + 1);
    if (parent.height > kMaxHeight) fail("nested deeper than " + std::to_string(kMaxHeight));
  }
  void add(Node& parent, NodePtr kid) {
    grow(parent, kid.get());
    parent.kids.push_back(std::move(kid));
  }
  void add_named(Node& parent, std::string name, NodePtr kid) {
    grow(parent, kid.get());
    parent.named.emplace_back(std::move(name), std::move(kid));
  }

  // Expressions, weakest binding first. `conditional`: a if b else c is one, too.
  NodePtr tuple_or_expression(bool conditional = true);
  NodePtr expression();
  NodePtr filter_after_bar(NodePtr input);
  NodePtr filters(NodePtr n);

 private:
  NodePtr or_expression();
  NodePtr and_expression();
  NodePtr not_expression();
  NodePtr comparison();
  NodePtr binary(std::string op, NodePtr left, NodePtr right);
  NodePtr sum();
  NodePtr concatenation();
  NodePtr product();
  NodePtr power();
  NodePtr unary(bool with_filters = true);
  NodePtr primary();
  int64_t integer(const std::string& digits);
  NodePtr parenthesis();
  NodePtr list();
  NodePtr dict();
  NodePtr postfix(NodePtr n);
  NodePtr subscript(NodePtr object);
  void arguments(Node& n);
  NodePtr call(NodePtr callee);
  NodePtr test(NodePtr input);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace apud::jinja
