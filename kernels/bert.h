// The ops of a BERT encoder up to its pooling: those of files (models/arch/encoder.cpp) and those
// with random weights, which benchmarks and device tests run in their place. One list for both, so
// that a measured plan is the plan that models run.
//
// Threads: pure functions.
#pragma once

#include <functional>
#include <string>

#include "kernels/program.h"

namespace apud {

struct BertShape {
  int vocab = 0, width = 0, ffn = 0, layers = 0, heads = 0, head_dim = 0;
  int position_rows = 0, position_offset = 0, type_rows = 1;
  float norm_eps = 1e-12f, attention_scale = 0;
  Activation activation = Activation::kGeluErf;
};
enum class BertWeight : uint8_t { kTable, kMatrix, kBias, kNormWeight, kNormBias };
/// Makes or finds a weight of this shape; `name` is the one in files, without their prefix.
using BertWeightFn =
    std::function<WeightId(BertWeight kind, const std::string& name, int64_t rows, int64_t cols)>;

/// Appends values and ops to `program`; returns the value with the last layer's rows.
ValueId add_bert(Program& program, const BertShape& shape, const BertWeightFn& weight);

}  // namespace apud
