// Turning GGUF blocks into packed rows on the device, and packed rows into plain values.
//
// Threads: launchers only enqueue on the given stream.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/layout.h"

namespace apud::cuda {

struct RepackJob {
  const uint8_t* raw = nullptr;  // device: stored rows [first_row, first_row + rows) in file blocks
  int first_row = 0;             // stored row of raw's first
  int rows = 0;
  RowOrder order = RowOrder::kPlain;  // stored row -> row of `to`
  int head_dim = 0;
  uint8_t* to = nullptr;  // whole packed matrix
  WeightType type = WeightType::kF32;
  int cols = 0;
  PackedShape shape;
};
void repack(const RepackJob& job, cudaStream_t stream);

enum class Half16 : uint8_t { kFp16, kBf16 };
/// Rows [first, first + rows) as 16-bit floats, row-major with leading dimension `ld` values.
void unpack_h16(const PackedMatrix& m, int first, int rows, Half16 type, void* out, int64_t ld,
                cudaStream_t stream);
/// The same as floats: exactly the file's values.
void unpack_f32(const PackedMatrix& m, int first, int rows, float* out, int64_t ld,
                cudaStream_t stream);

}  // namespace apud::cuda
