// Writing a group of quantised activations, by the warp that has its 32 values.
#pragma once

#include "kernels/cuda/stream.h"

namespace apud::cuda {

/// Values of half a group of a row (`half` counts 16s) and their squares before norm weights, by 16
/// neighbouring lanes that begin at a multiple of 16; the whole warp takes part.
__device__ __forceinline__ void store_half(const QuantRows& q, int row, int half, bool valid,
                                           float v, float square) {
  const int lane = threadIdx.x & 15;
  float m = fabsf(v);
#pragma unroll
  for (int i = 8; i > 0; i >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, i));
  const float inverse = m > 0 ? __fdividef(127.f, m) : 0.f;
  const int byte = __float2int_rn(__fmul_rn(v, inverse));
  int sum = byte;
#pragma unroll
  for (int i = 8; i > 0; i >>= 1) {
    sum += __shfl_xor_sync(0xffffffffu, sum, i);
    square += __shfl_xor_sync(0xffffffffu, square, i);
  }
  if (!valid) return;
  uint8_t* column = q.data + row * QuantRows::row_bytes(q.groups);
  const int g = half >> 1, h = half & 1;
  column[(h * q.groups + g) * 16 + lane] = static_cast<uint8_t>(byte);
  if (lane == 0) {
    GroupScale* to = reinterpret_cast<GroupScale*>(column + 32 * q.groups) + g;
    to->d[h] = __fmul_rn(m, 1.f / 127.f);
    to->sum[h] = static_cast<int16_t>(sum);
    q.squares[int64_t{row} * 2 * q.groups + half] = square;
  }
}
/// Lane i holds value i of group g of a row, and its square before norm weights.
__device__ __forceinline__ void store_group(const QuantRows& q, int row, int g, float v,
                                            float square) {
  store_half(q, row, 2 * g + ((threadIdx.x & 31) >> 4), true, v, square);
}

}  // namespace apud::cuda
