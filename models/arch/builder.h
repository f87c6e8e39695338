// Puts a Program together: values and weights by name, shapes checked against the file.
//
// Threads: one thread.
#pragma once

#include <string>

#include "models/arch/arch.h"

namespace apud {

class ProgramBuilder {
 public:
  ProgramBuilder(std::string name, const TensorSource& source) : source_(source) {
    program_.name = std::move(name);
  }

  ValueId value(const char* name, int cols, Rows rows = Rows::kTokens);
  /// The tensor `name`, which must have this shape; kBadData naming it otherwise. Asked for twice,
  /// it is one weight.
  WeightId matrix(const std::string& name, int64_t rows, int64_t cols);
  WeightId vector(const std::string& name, int64_t size) { return matrix(name, 1, size); }
  /// kNone when the file has no such tensor.
  WeightId optional_vector(const std::string& name, int64_t size);
  /// A matrix whose stored rows lie in rotary pairs.
  WeightId paired_matrix(const std::string& name, int64_t rows, int64_t cols, int head_dim);
  /// Rows [first, first + rows) of a tensor of `total` rows.
  WeightId row_range(const std::string& name, int64_t total, int64_t first, int64_t rows,
                     int64_t cols);

  void add(Op op) { program_.ops.push_back(std::move(op)); }
  Program& program() { return program_; }
  const TensorSource& source() const { return source_; }
  /// Validates and hands out.
  LoadedProgram finish(ValueId result);

 private:
  WeightView require(const std::string& name, int64_t rows, int64_t cols) const;
  WeightId add_weight(const std::string& name, const WeightView& view);
  const TensorSource& source_;
  Program program_;
  Weights weights_;
  std::map<std::string, WeightId> by_name_;
};

LoadedProgram build_bert(const ArchConfig& config, const TensorSource& source);
/// Pooling, dense layers and normalisation of an encoder; returns the result.
ValueId add_sentence_head(ProgramBuilder& builder, const ArchConfig& config, ValueId x);

}  // namespace apud
