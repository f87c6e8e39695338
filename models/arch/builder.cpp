#include "models/arch/builder.h"

#include <fmt/format.h>

#include "base/error.h"

namespace apud {

ValueId ProgramBuilder::value(const char* name, int cols, Rows rows) {
  program_.values.push_back({name, rows, cols});
  return static_cast<ValueId>(program_.values.size()) - 1;
}

WeightView ProgramBuilder::require(const std::string& name, int64_t rows, int64_t cols) const {
  auto view = source_.find(name);
  if (!view) {
    throw Error(ErrorKind::kBadData, fmt::format("{}: tensor {} is missing", source_.name(), name),
                "the file is damaged, or its architecture differs from what it says");
  }
  if (view->rows != rows || view->cols != cols) {
    throw Error(ErrorKind::kBadData,
                fmt::format("{}: tensor {} has shape ({}, {}), the configuration needs ({}, {})",
                            source_.name(), name, view->rows, view->cols, rows, cols),
                "the file is damaged, or its architecture differs from what it says");
  }
  return *view;
}

WeightId ProgramBuilder::add_weight(const std::string& name, const WeightView& view) {
  auto [it, added] = by_name_.emplace(name, static_cast<WeightId>(weights_.size()));
  if (added) {
    program_.weights.push_back({name, view.rows, view.cols});
    weights_.push_back(view);
  }
  return it->second;
}

WeightId ProgramBuilder::matrix(const std::string& name, int64_t rows, int64_t cols) {
  return add_weight(name, require(name, rows, cols));
}

WeightId ProgramBuilder::optional_vector(const std::string& name, int64_t size) {
  return source_.find(name) ? vector(name, size) : kNone;
}

WeightId ProgramBuilder::paired_matrix(const std::string& name, int64_t rows, int64_t cols,
                                       int head_dim) {
  WeightView view = require(name, rows, cols);
  view.order = RowOrder::kRotaryPairs;
  view.head_dim = head_dim;
  return add_weight(name, view);
}

WeightId ProgramBuilder::row_range(const std::string& name, int64_t total, int64_t first,
                                   int64_t rows, int64_t cols) {
  WeightView view = require(name, total, cols);
  view.data = view.row(first);
  view.rows = rows;
  return add_weight(fmt::format("{}[{}:{}]", name, first, first + rows), view);
}

LoadedProgram ProgramBuilder::finish(ValueId result) {
  program_.result = result;
  validate_program(program_, weights_);
  return {std::move(program_), std::move(weights_)};
}

}  // namespace apud
