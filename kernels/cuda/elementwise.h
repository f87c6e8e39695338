// The ops that only move or map values, and the norms.
//
// Threads: launchers only enqueue.
#pragma once

#include "kernels/cuda/batch.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/repack.h"

namespace apud::cuda {

/// out = or += scale * table[index + offset], summed over the tables, which are of one type.
inline constexpr int kEmbedTables = 3;
struct EmbedTable {
  PackedMatrix matrix;
  IndexSource index = IndexSource::kToken;
  int offset = 0;
  float scale = 1;
};
struct EmbedArgs {
  EmbedTable table[kEmbedTables];
  int tables = 0;
  WeightType type = WeightType::kF32;
  bool accumulate = false;
  Matrix out;
  int rows = 0;
  BatchView batch;
  Half16 half16 = Half16::kFp16;
};
void embed(const EmbedArgs& a, const Launch& where);

struct NormArgs {
  Matrix x;
  Matrix branch;         // added to x first; data null: none. The sum itself is not kept
  float* out = nullptr;  // null: not wanted
  int64_t out_ld = 0;
  void* half_out = nullptr;  // null: not wanted
  int64_t half_ld = 0;
  float* add_to = nullptr;  // add_to += the result
  int64_t add_ld = 0;
  const float* weight = nullptr;
  const float* bias = nullptr;
  NormKind kind = NormKind::kRms;
  float eps = 0, offset = 0;
  int rows = 0, cols = 0;
  Half16 half16 = Half16::kFp16;
};
void norm(const NormArgs& a, const Launch& where);

/// out = activation(gate) * up; up.data may be null. Types as the matrices say.
void activation(Matrix gate, Matrix up, Matrix out, Activation kind, int rows, int cols,
                Half16 half16, const Launch& where);
/// Float to 16 bits.
void convert(const float* x, int64_t x_ld, void* out, int64_t out_ld, int rows, int cols,
             Half16 half16, const Launch& where);
/// 16 bits to float.
void widen(const void* x, int64_t x_ld, float* out, int64_t out_ld, int rows, int cols,
           Half16 half16, const Launch& where);
/// out += x.
void add(const float* x, int64_t x_ld, float* out, int64_t out_ld, int rows, int cols,
         const Launch& where);
/// Rows batch.output_rows[first ..] of x.
void select_rows(const float* x, int64_t x_ld, float* out, int64_t out_ld, int first, int rows,
                 int cols, const BatchView& batch, const Launch& where);
void pool(const Matrix& x, Half16 half16, float* out, int64_t out_ld, PoolKind kind, int sequences,
          int cols, const BatchView& batch, const Launch& where);
void softcap(float* x, int64_t ld, float cap, int rows, int cols, const Launch& where);
void l2_normalize(float* x, int64_t ld, int rows, int cols, const Launch& where);

}  // namespace apud::cuda
