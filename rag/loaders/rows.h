// Rows of tables whose columns have names: every row repeats them, so that a chunk of rows can be
// understood without the first one. Private to rag.
//
// Threads: one at a time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "rag/loaders/builder.h"

namespace apud {

class RowWriter {
 public:
  explicit RowWriter(DocumentBuilder& builder) : builder_(builder) {}
  /// The first row decides: names of columns when all its cells are short texts that differ from
  /// each other and no numbers, else data. Later rows are written as "name: value; name: value", or
  /// "a | b" without names. Empty cells are left out.
  void row(const std::vector<std::string>& cells, int line, std::string_view member = {});
  /// A new table begins.
  void reset();

 private:
  DocumentBuilder& builder_;
  std::vector<std::string> names_;
  bool first_ = true;
};

}  // namespace apud
