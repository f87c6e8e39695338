// Writing a group of quantised activations, by the warp that has its 32 values.
#pragma once

#include "kernels/cuda/stream.h"

namespace apud::cuda {

/// Lane i holds value i of group g of a row, and its square before norm weights.
__device__ __forceinline__ void store_group(const QuantRows& q, int row, int g, float v,
                                            float square) {
  const int lane = threadIdx.x & 31;
  const float m = warp_max(fabsf(v)), inverse = m > 0 ? __fdividef(127.f, m) : 0.f;
  const int byte = __float2int_rn(__fmul_rn(v, inverse));
  int sum = byte;
#pragma unroll
  for (int i = 8; i > 0; i >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, i);
  const int other = __shfl_xor_sync(0xffffffffu, sum, 16);
  const float squares = warp_sum(square);
  const size_t stride = (size_t{40} * q.groups + 15) / 16 * 16;
  uint8_t* column = q.data + row * stride;
  column[((lane >> 4) * q.groups + g) * 16 + (lane & 15)] = static_cast<uint8_t>(byte);
  if (lane == 0) {
    reinterpret_cast<GroupScale*>(column + 32 * q.groups)[g] = {
        __fmul_rn(m, 1.f / 127.f), (sum & 0xffffu) | (static_cast<uint32_t>(other) << 16)};
    q.squares[int64_t{row} * q.groups + g] = squares;
  }
}

}  // namespace apud::cuda
