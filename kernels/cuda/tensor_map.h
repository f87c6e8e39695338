// Descriptions of tensors for Hopper's copy engine.
//
// Threads: any.
#pragma once

#include <cuda.h>

#include "kernels/cuda/batch.h"

namespace apud::cuda {

/// Whether the device has wgmma and the driver the encoder: the H100 and H200.
bool tensor_copies();

/// Whether the engine takes a matrix of 16-bit values that lies there, rows `ld` values apart (so
/// do 16-byte loads).
inline bool copies_take(const void* data, int64_t ld) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && ld % 8 == 0;
}

/// Boxes of a tensor of 16-bit values, rows of a box swizzled over row_bytes (128 or 64). Sizes and
/// box in values, strides (of all dimensions but the first) in bytes. `promote`: L2 fetches 256
/// bytes at a time; without, what comes from memory once comes 7 % faster. False where the driver
/// refuses. PRECOND: tensor_copies().
bool make_map(CUtensorMap* map, bool bf16, int rank, const void* base, const cuuint64_t* sizes,
              const cuuint64_t* strides, const cuuint32_t* box, int row_bytes, bool promote = true);
/// Boxes of box_rows rows and box_cols columns of a matrix.
bool make_matrix_map(CUtensorMap* map, bool bf16, const Matrix& m, int cols, int rows, int box_cols,
                     int box_rows);

}  // namespace apud::cuda
