// A step's batch as kernels see it, and where KV pages lie.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace apud::cuda {

/// Device arrays at fixed places, so that captured graphs stay valid from step to step.
struct BatchView {
  const int32_t* tokens = nullptr;       // (T)
  const int32_t* positions = nullptr;    // (T) of each row in its sequence
  const int32_t* first = nullptr;        // (S)
  const int32_t* count = nullptr;        // (S)
  const int32_t* position = nullptr;     // (S) tokens cached before this step
  const int32_t* output_rows = nullptr;  // (R)
  const int32_t* page_offset =
      nullptr;                         // (groups, capacity): start of a sequence's pages in `pages`
  const int32_t* row_pages = nullptr;  // (groups, tokens): the same by row, one load less
  const int32_t* pages = nullptr;
  const int32_t* tiles = nullptr;  // (2 * tiles): sequence, first row of a prefill query tile
  int capacity = 0;                // sequences, the stride of page_offset
  int token_capacity = 0;          // the stride of row_pages
};

/// KV cache of one layer. Page p, head h: K at base + p * page_bytes + h * head_bytes, V at +
/// v_offset; (64, dim) values, then for int8 64 float scales.
struct KvView {
  uint8_t* base = nullptr;  // of the group's pages, the layer's offset added
  int64_t page_bytes = 0;
  int64_t head_bytes = 0;
  int64_t v_offset = 0;
  int group = 0;
  KvType type = KvType::kF16;
};

/// Matrix of a step: float or the step's 16-bit type.
struct Matrix {
  void* data = nullptr;
  int64_t ld = 0;  // values
  bool half16 = false;
};

}  // namespace apud::cuda
