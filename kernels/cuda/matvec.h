// Decode's linear stage with float weights (quantised ones: stream.h): y = W x for up to 8 rows of
// activations, with the norm of x in its prologue and bias, residual or gated activation in its
// epilogue.
//
// Threads: launchers only enqueue.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/layout.h"
#include "kernels/program.h"

namespace apud::cuda {

/// One weight matrix of a stage. Several that read the same x run as one launch.
struct MatvecSegment {
  PackedMatrix weight;
  const uint8_t* pair = nullptr;  // gate-up: the up matrix, same type and shape as `weight`
  const float* bias = nullptr;    // (rows)
  const float* pair_bias = nullptr;
  float* out = nullptr;  // (columns, rows) with leading dimension out_ld
  int64_t out_ld = 0;
  int first_cta = 0, ctas = 0;  // set by the launcher
};

struct MatvecStage {
  static constexpr int kMaxSegments = 3;
  static constexpr int kMaxColumns = 8;
  const float* x = nullptr;  // (columns, cols), leading dimension x_ld (multiple of 4)
  int64_t x_ld = 0;
  int cols = 0;
  int columns = 1;                     // rows of activations, any number (run in chunks)
  const float* norm_weight = nullptr;  // RMS norm of x first; null: none
  float norm_eps = 0, norm_offset = 0;
  bool accumulate = false;  // out += instead of out =
  bool paired = false;      // out = activation(W x) * (pair x)
  Activation activation = Activation::kSilu;
  int segments = 0;
  int k_split = 1;  // set by the launcher
  MatvecSegment segment[kMaxSegments];
};

/// A row's bits depend on its x and W alone, not on `columns` or on other rows.
void matvec(MatvecStage stage, int multiprocessors, const Launch& where);

}  // namespace apud::cuda
