// What the HTML child and its parent say to each other. The parent trusts nothing of it: every
// length is checked. Private to rag.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "rag/document.h"

namespace apud {

/// Name of the child function ("html").
const char* html_child_name();

struct WireWriter {
  std::string buffer;
  void number(uint32_t value) {
    buffer.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void bytes(std::string_view text) {
    number(static_cast<uint32_t>(text.size()));
    buffer.append(text);
  }
  void block(BlockKind kind, int level, int line, std::string_view text) {
    number(1);
    number(static_cast<uint32_t>(kind));
    number(static_cast<uint32_t>(level));
    number(static_cast<uint32_t>(line));
    bytes(text);
  }
  void end_page(std::string_view title, int hidden) {
    number(2);
    number(static_cast<uint32_t>(hidden));
    bytes(title);
  }
};

struct WireReader {
  explicit WireReader(std::string_view text) : rest(text) {}
  std::string_view rest;
  bool number(uint32_t& value) {
    if (rest.size() < sizeof value) return false;
    std::memcpy(&value, rest.data(), sizeof value);
    rest.remove_prefix(sizeof value);
    return true;
  }
  bool bytes(std::string_view& text) {
    uint32_t size = 0;
    if (!number(size) || size > rest.size()) return false;
    text = rest.substr(0, size);
    rest.remove_prefix(size);
    return true;
  }
};

}  // namespace apud
