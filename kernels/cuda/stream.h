// Decode's product with quantised weights: y = W x for up to 8 rows of int8 activations.
// Activations are quantised once, by the stage that makes them, and so is the result where another
// such product reads it next. RMS norms ride along: the producer multiplies with the norm's weights
// and leaves sums of squares, the reader scales its results by 1 / rms.
//
// Threads: launchers only enqueue.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/layout.h"
#include "kernels/program.h"

namespace apud::cuda {

/// Rows of activations as int8 in groups of 32, with a scale for each half.
struct QuantRows {
  uint8_t* data = nullptr;   // per row: values 0-15 of each group, values 16-31, then GroupScale
  float* squares = nullptr;  // (rows, 2 groups): of 16 values each before norm weights
  int groups = 0;
  static constexpr size_t row_bytes(int groups) { return size_t{48} * groups; }
};
/// Of a group's halves (values 0-15 and 16-31): value = d * byte; the sum of the bytes.
struct GroupScale {
  float d[2];
  int16_t sum[2];
  uint32_t unused;
};

/// One weight matrix of a stage. Several that read the same x run as one launch.
struct StreamSegment {
  PackedMatrix weight;
  const uint8_t* pair = nullptr;  // gate-up: the up matrix, same type and shape as `weight`
  const float* bias = nullptr;    // (rows)
  const float* pair_bias = nullptr;
  float* out = nullptr;  // (columns, rows) with leading dimension out_ld
  int64_t out_ld = 0;
  int first_tile = 0, tiles = 0;  // among those of its type; set by the launcher
};

struct StreamStage {
  static constexpr int kMaxSegments = 3;
  static constexpr int kMaxColumns = 8;
  QuantRows x;
  int cols = 0;
  int columns = 1;      // rows of activations, any number (run in chunks)
  bool normed = false;  // results are to be divided by the root mean square of x
  float norm_eps = 0;
  bool accumulate = false;  // out += instead of out =, where not paired
  bool paired = false;      // out = activation(W x) * (pair x)
  Activation activation = Activation::kSilu;
  QuantRows next;                    // data null: not wanted. One segment only
  const float* next_norm = nullptr;  // weights of the norm before the next product
  float next_offset = 0;
  int segments = 0;
  // Set by the launcher. Tiles of the first segment's type are for the first blocks, those of the
  // other type, where there is one, for the rest.
  int tiles_a = 0, tiles_b = 0, blocks_a = 0, blocks_b = 0;
  // Of two columns and more: a row has 1 << shift parts, a block `octets` times eight warps, each
  // with a ring of that many slots.
  int shift = 0, octets = 0, ring = 0;
  StreamSegment segment[kMaxSegments];
};

/// A row's bits depend on its x and W alone, not on `columns` or on other rows.
void stream(StreamStage stage, int multiprocessors, const Launch& where);

struct QuantiseArgs {
  const float* x = nullptr;
  int64_t x_ld = 0;
  int rows = 0, cols = 0;
  const float* norm = nullptr;
  float norm_offset = 0;
  QuantRows out;
};
/// What producers do in their last step, as a kernel of its own.
void quantise(const QuantiseArgs& a, const Launch& where);

}  // namespace apud::cuda
