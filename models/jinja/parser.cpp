// Recursive descent over the grammar of Jinja 3 (the parts that chat templates use).
#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "models/jinja/ast.h"
#include "models/jinja/lexer.h"

namespace apud::jinja {
namespace {

/// Limit on the height of the tree: the interpreter and destructors recurse over it.
constexpr int kMaxHeight = 200;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  NodePtr run() {
    NodePtr root = block({});
    if (peek().kind != Token::kEnd) fail("unexpected end tag");
    return root;
  }

 private:
  using Names = std::vector<std::string_view>;

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
  [[noreturn]] void fail(const std::string& what) const {
    const Token& t = peek();
    throw TemplateError("line " + std::to_string(t.line) + ", column " + std::to_string(t.column) +
                        ": " + what);
  }
  void expect_op(std::string_view op) {
    if (!skip_op(op)) fail("expected '" + std::string(op) + "'" + found());
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) fail("expected '" + std::string(name) + "'" + found());
  }
  std::string found() const {
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
  std::string identifier() {
    if (peek().kind != Token::kName) fail("expected a name" + found());
    return take().text;
  }

  /// Recursion in the parser itself (brackets, nested blocks) is bounded as the tree is.
  struct Depth {
    explicit Depth(Parser& p) : parser(p) {
      if (++parser.depth_ > kMaxHeight)
        parser.fail("nested deeper than " + std::to_string(kMaxHeight));
    }
    ~Depth() { --parser.depth_; }
    Parser& parser;
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

  // --- statements ---

  /// Statements up to a tag whose name is in `ends` (left for the caller) or the end of the source.
  NodePtr block(const Names& ends) {
    Depth depth(*this);
    NodePtr body = node(Op::kBlock);
    while (true) {
      switch (peek().kind) {
        case Token::kData: {
          NodePtr data = node(Op::kData);
          data->value = Value::scaffold(take().text);
          add(*body, std::move(data));
          break;
        }
        case Token::kPrintBegin: {
          take();
          add(*body, node(Op::kPrint, tuple_or_expression()));
          end_tag(Token::kPrintEnd);
          break;
        }
        case Token::kTagBegin: {
          if (peek(1).kind != Token::kName) fail("expected the name of a tag");
          const std::string& name = peek(1).text;
          if (std::find(ends.begin(), ends.end(), name) != ends.end()) return body;
          take();
          if (NodePtr n = statement()) add(*body, std::move(n));
          break;
        }
        default:
          if (!ends.empty()) fail("expected '" + std::string(ends.back()) + "'" + found());
          return body;
      }
    }
  }

  void end_tag(Token::Kind kind = Token::kTagEnd) {
    if (peek().kind != kind) fail("expected the end of the tag" + found());
    take();
  }

  /// Enters the tag that ends a block: {% NAME ... ; leaves the position after the name.
  std::string closing() {
    take();
    return take().text;
  }
  void close(std::string_view name) {
    closing();
    if (name == "endmacro" && peek().kind == Token::kName) take();
    end_tag();
  }

  NodePtr statement() {
    const Token at = take();
    const std::string& name = at.text;
    if (name == "if") return if_statement();
    if (name == "for") return for_statement();
    if (name == "set") return set_statement();
    if (name == "macro") return macro(identifier());
    if (name == "call") return call_block();
    if (name == "filter") return filter_block();
    if (name == "with") return with_statement();
    if (name == "generation") {
      end_tag();
      NodePtr body = block({"endgeneration"});
      close("endgeneration");
      return node(Op::kWith, std::move(body));  // a scope of its own, nothing else
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail("'" + name + "' outside a loop");
      end_tag();
      return node(name == "break" ? Op::kBreak : Op::kContinue);
    }
    fail("unknown tag '" + printable(name, true) + "'");
  }

  NodePtr if_statement() {
    NodePtr n = node(Op::kIf);
    add(*n, tuple_or_expression());
    end_tag();
    while (true) {
      add(*n, block({"elif", "else", "endif"}));
      std::string name = closing();
      if (name == "elif") {
        add(*n, tuple_or_expression());
        end_tag();
      } else if (name == "else") {
        end_tag();
        add(*n, block({"endif"}));
        close("endif");
        return n;
      } else {
        end_tag();
        return n;
      }
    }
  }

  NodePtr for_statement() {
    NodePtr n = node(Op::kFor);
    add(*n, target());
    expect_name("in");
    add(*n, tuple_or_expression(false));
    add(*n, skip_name("if") ? expression() : nullptr);
    if (is_name("recursive")) fail("recursive loops are not supported");
    end_tag();
    ++loops_;
    add(*n, block({"else", "endfor"}));
    --loops_;
    if (closing() == "else") {
      end_tag();
      add(*n, block({"endfor"}));
      close("endfor");
    } else {
      end_tag();
      add(*n, nullptr);
    }
    return n;
  }

  /// A name, a.b of a namespace, or a tuple of names.
  NodePtr target(bool attribute = false) {
    auto one = [&]() -> NodePtr {
      if (skip_op("(")) {
        NodePtr inner = target();
        expect_op(")");
        return inner;
      }
      NodePtr name = named_node(Op::kName, identifier());
      if (attribute && skip_op(".")) {
        NodePtr n = node(Op::kAttribute, std::move(name));
        n->name = identifier();
        return n;
      }
      return name;
    };
    Depth depth(*this);
    NodePtr first = one();
    if (!is_op(",")) return first;
    NodePtr tuple = node(Op::kTuple, std::move(first));
    while (skip_op(",")) {
      if (is_name("in") || is_op("=") || is_op(")")) break;
      add(*tuple, one());
    }
    return tuple;
  }

  NodePtr set_statement() {
    NodePtr to = target(true);
    if (skip_op("=")) {
      NodePtr n = node(Op::kSet, std::move(to), tuple_or_expression());
      end_tag();
      return n;
    }
    NodePtr filtered = is_op("|") ? filters(node(Op::kCaptured)) : nullptr;
    end_tag();
    NodePtr body = block({"endset"});
    close("endset");
    return node(Op::kSetBlock, std::move(to), std::move(body), std::move(filtered));
  }

  NodePtr macro(std::string name, std::string_view end = "endmacro") {
    NodePtr n = named_node(Op::kMacro, std::move(name));
    if (end == "endmacro" || is_op("(")) {
      expect_op("(");
      while (!is_op(")")) {
        std::string parameter = identifier();
        add_named(*n, parameter, skip_op("=") ? expression() : nullptr);
        if (!is_op(")")) expect_op(",");
      }
      expect_op(")");
    }
    if (end == "endcall") add_call_target(*n);
    end_tag();
    int outer = std::exchange(loops_, 0);
    add(*n, block({end}));
    loops_ = outer;
    close(end);
    return n;
  }

  NodePtr call_block() {
    pending_call_ = nullptr;
    NodePtr body = macro("caller", "endcall");
    NodePtr call = std::move(pending_call_);
    if (!call || call->op != Op::kCall) fail("a call block needs a call");
    return node(Op::kCallBlock, std::move(call), std::move(body));
  }
  void add_call_target(Node&) { pending_call_ = expression(); }

  NodePtr filter_block() {
    NodePtr input = node(Op::kCaptured);
    NodePtr filtered = filter_after_bar(std::move(input));
    filtered = filters(std::move(filtered));
    end_tag();
    NodePtr body = block({"endfilter"});
    close("endfilter");
    return node(Op::kFilterBlock, std::move(body), std::move(filtered));
  }

  NodePtr with_statement() {
    NodePtr n = node(Op::kWith);
    while (peek().kind == Token::kName) {
      std::string name = identifier();
      expect_op("=");
      add_named(*n, name, expression());
      if (!skip_op(",")) break;
    }
    end_tag();
    add(*n, block({"endwith"}));
    close("endwith");
    return n;
  }

  // --- expressions, weakest binding first ---

  NodePtr tuple_or_expression(bool conditional = true) {
    NodePtr first = conditional ? expression() : or_expression();
    if (!is_op(",")) return first;
    NodePtr tuple = node(Op::kTuple, std::move(first));
    while (skip_op(",")) {
      if (peek().kind == Token::kTagEnd || peek().kind == Token::kPrintEnd || is_op(")")) break;
      add(*tuple, conditional ? expression() : or_expression());
    }
    return tuple;
  }

  NodePtr expression() {
    Depth depth(*this);
    NodePtr value = or_expression();
    while (skip_name("if")) {
      NodePtr condition = or_expression();
      NodePtr other = skip_name("else") ? expression() : nullptr;
      value = node(Op::kConditional, std::move(value), std::move(condition), std::move(other));
    }
    return value;
  }

  NodePtr or_expression() {
    NodePtr left = and_expression();
    while (skip_name("or")) left = node(Op::kOr, std::move(left), and_expression());
    return left;
  }

  NodePtr and_expression() {
    NodePtr left = not_expression();
    while (skip_name("and")) left = node(Op::kAnd, std::move(left), not_expression());
    return left;
  }

  NodePtr not_expression() {
    Depth depth(*this);
    if (skip_name("not")) return node(Op::kNot, not_expression());
    return comparison();
  }

  NodePtr comparison() {
    static constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<",
                                                                   "<=", ">",  ">="};
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

  NodePtr binary(std::string op, NodePtr left, NodePtr right) {
    NodePtr n = node(Op::kBinary, std::move(left), std::move(right));
    n->name = std::move(op);
    return n;
  }

  NodePtr sum() {
    NodePtr left = concatenation();
    while (is_op("+") || is_op("-")) {
      std::string op = take().text;
      left = binary(op, std::move(left), concatenation());
    }
    return left;
  }

  NodePtr concatenation() {
    NodePtr left = product();
    while (skip_op("~")) left = binary("~", std::move(left), product());
    return left;
  }

  NodePtr product() {
    NodePtr left = power();
    while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
      std::string op = take().text;
      left = binary(op, std::move(left), power());
    }
    return left;
  }

  NodePtr power() {
    NodePtr left = unary();
    while (skip_op("**")) left = binary("**", std::move(left), unary());
    return left;
  }

  NodePtr unary(bool with_filters = true) {
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

  NodePtr primary() {
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

  int64_t integer(const std::string& digits) {
    try {
      return std::stoll(digits);
    } catch (const std::out_of_range&) {
      fail("integer beyond 64 bits");
    }
  }

  NodePtr parenthesis() {
    expect_op("(");
    if (skip_op(")")) return node(Op::kTuple);
    NodePtr inner = tuple_or_expression();
    expect_op(")");
    return inner;
  }

  NodePtr list() {
    expect_op("[");
    NodePtr n = node(Op::kList);
    while (!is_op("]")) {
      add(*n, expression());
      if (!is_op("]")) expect_op(",");
    }
    expect_op("]");
    return n;
  }

  NodePtr dict() {
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

  NodePtr postfix(NodePtr n) {
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

  NodePtr subscript(NodePtr object) {
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

  void arguments(Node& n) {
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

  NodePtr call(NodePtr callee) {
    NodePtr n = node(Op::kCall, std::move(callee));
    arguments(*n);
    return n;
  }

  NodePtr filter_after_bar(NodePtr input) {
    NodePtr n = node(Op::kFilter, std::move(input));
    n->name = identifier();
    if (is_op("(")) arguments(*n);
    return n;
  }

  NodePtr filters(NodePtr n) {
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

  NodePtr test(NodePtr input) {
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

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
  NodePtr pending_call_;
};

}  // namespace

NodePtr parse(std::string_view source) { return Parser(lex(source)).run(); }

}  // namespace apud::jinja
