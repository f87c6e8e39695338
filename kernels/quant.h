// Exact dequantisation of every weight format: the oracle for all kernels. Values equal those of
// the `gguf` Python package bit for bit.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/tensor.h"

namespace apud {

float half_to_float(uint16_t bits);
/// Round to nearest even; overflow becomes infinity.
uint16_t float_to_half(float value);
inline float bf16_to_float(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, 4);
  return value;
}
/// Round to nearest even; NaN stays NaN.
uint16_t float_to_bf16(float value);

/// Decodes `count` values from whole blocks at `blocks`. REQUIRES: count % block_values(type) == 0.
void dequantize(WeightType type, const std::byte* blocks, int64_t count, float* out);
/// Decodes logical row `row` of `weight` into out[0..cols).
void dequantize_row(const WeightView& weight, int64_t row, float* out);

}  // namespace apud
