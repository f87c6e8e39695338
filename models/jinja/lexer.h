// Tokens of a template source: text between tags, and what stands inside tags. White space control
// follows trim_blocks and lstrip_blocks, which chat templates are written for.
//
// Threads: free function, re-entrant.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace apud::jinja {

struct Token {
  enum Kind {
    kData,
    kPrintBegin,
    kPrintEnd,
    kTagBegin,
    kTagEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind = kEnd;
  std::string text;  // data, name, decoded string, digits or operator
  uint32_t line = 1, column = 1;
};

/// Throws TemplateError (value.h) with line and column in its text.
std::vector<Token> lex(std::string_view source);

}  // namespace apud::jinja
