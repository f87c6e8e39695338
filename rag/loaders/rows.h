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

constexpr size_t kLeastNames = 3;  // cells of the first row of a table in a text

class RowWriter {
 public:
  /// A first row of fewer than `least_names` cells names nothing: two columns of a table in a text
  /// are as often names with their values.
  explicit RowWriter(DocumentBuilder& builder, size_t least_names = 2)
      : builder_(builder), least_names_(least_names) {}
  /// The first row of several cells decides: names of columns when its cells are short texts that
  /// differ from each other and no numbers (years may be), else data. Later rows are written as
  /// "name: value; name: value", or "a | b" without names.
  void row(const std::vector<std::string>& cells, const Anchor& at);

 private:
  DocumentBuilder& builder_;
  size_t least_names_;
  std::vector<std::string> names_;
  bool first_ = true;
};

}  // namespace apud
