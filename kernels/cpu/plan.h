// Compiles a Program into the stages that the CPU executor runs with one barrier after each:
// row-wise work (fused per row), linear layers that share a stage when independent, attention.
//
// Threads: immutable after construction.
#pragma once

#include <optional>
#include <variant>
#include <vector>

#include "kernels/cpu/packed.h"
#include "kernels/program.h"

namespace apud::cpu {

/// How `program`'s matrix is held: an encoder's F32 and F16 as 16-bit integers; on the path with
/// bf16 `tiles`, the formats of tile_format and an encoder's F32 as their rows, but for a matrix
/// that only rows of outputs meet: these are one or few a step, and one row reads the other packing
/// faster.
Packing packing_of(const Program& program, const Weights& weights, WeightId matrix, bool tiles);

/// Row-wise: quantises a row of x for the linear layers that read it. Two planes: the second holds
/// what the first left over, quantised the same way, so that the sum of both products has the
/// precision of about 15 bits.
struct QuantizeOp {
  ValueId x = kNone;
  ActKind kind = ActKind::kBlock32;
  int buffer = kNone;
  int planes = 1;
};
/// Row-wise: cosines and sines of a token's position, for rotary table `table`.
struct TrigOp {
  int table = 0;
};
/// Row-wise rotary with the table that it uses.
struct PlannedRotary {
  RotaryOp op;
  int table = kNone;
};
using RowOp = std::variant<EmbedOp, NormOp, PlannedRotary, ActivationOp, AddOp, SelectOp, PoolOp,
                           SoftcapOp, L2NormalizeOp, QuantizeOp, TrigOp>;

struct PlannedLinear {
  LinearOp op;
  int act_buffer = kNone;  // quantised weights
  int act_planes = 1;      // of a row of the buffer; the products of all are added
};

/// The linear stage's one layer, or its two (gate, up), are activated and rounded on the spot, as
/// the next layers read them.
struct FusedActivation {
  Activation kind = Activation::kSilu;
  ValueId out = kNone;
  int buffer = kNone;  // of quantised activations
};

enum class StageKind : uint8_t { kRows, kLinear, kGatherKv, kAttention };

struct Stage {
  StageKind kind = StageKind::kRows;
  Rows rows = Rows::kTokens;                  // of kRows and kLinear
  std::vector<RowOp> row_ops;                 // kRows
  std::vector<PlannedLinear> linears;         // kLinear
  std::optional<FusedActivation> activation;  // kLinear
  AttentionOp attention;                      // kGatherKv (encoders), kAttention
};

struct Plan {
  std::vector<Stage> stages;
  /// Buffer of each value; values whose lives do not overlap share one. kNone: the result.
  std::vector<int> slot_of_value;
  std::vector<int64_t> slot_cols;       // floats per row, by row_stride
  std::vector<size_t> act_strides;      // bytes per row of each buffer of quantised activations
  std::vector<const Rotary*> rotaries;  // one per distinct table
  int64_t trig_cols = 0;                // largest half of a table
};

/// `program` must outlive the plan and be valid. `tiles`: as for packing_of.
Plan make_plan(const Program& program, const Weights& weights, bool tiles);

}  // namespace apud::cpu
