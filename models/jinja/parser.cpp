// Recursive descent over the statements of Jinja 3 (the parts that chat templates use).
#include <algorithm>

#include "base/utf8.h"
#include "models/jinja/ast.h"
#include "models/jinja/expression_parser.h"

namespace apud::jinja {
namespace {

class Parser : private ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  NodePtr run() {
    NodePtr root = block({});
    if (peek().kind != Token::kEnd) fail("unexpected end tag");
    return root;
  }

 private:
  using Names = std::vector<std::string_view>;

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

  int loops_ = 0;
  NodePtr pending_call_;
};

}  // namespace

NodePtr parse(std::string_view source) { return Parser(lex(source)).run(); }

}  // namespace apud::jinja
