// One head's norm and rotation, by one warp. Angles are exact for any position: inv_freq / 2pi is
// kept as a 64-bit fraction of a turn, so position * fraction wraps like the angle itself.
#pragma once

#include "kernels/cuda/common.cuh"

namespace apud::cuda {

struct HeadRotation {
  const uint64_t* turns = nullptr;  // (pairs): inv_freq / (2 pi) * 2^64
  int pairs = 0;                    // 0: no rotation
  float magnitude = 1;
  float norm_eps = 0, norm_offset = 0;
};

/// Cosine (x) and sine (y) of pair i at a position, times the magnitude.
__device__ __forceinline__ float2 rotation_of(const HeadRotation& r, int i, int position) {
  int64_t turn = static_cast<int64_t>(static_cast<uint64_t>(position) * r.turns[i]);
  float sine, cosine;
  sincospif(static_cast<float>(turn) * 0x1p-63f, &sine, &cosine);
  return make_float2(cosine * r.magnitude, sine * r.magnitude);
}

/// In place on head[0..dim) in shared memory: RMS norm where `norm` is given, then the rotation
/// `angle(i)` of each pair. Called by a whole warp; the values are visible to the warp before and
/// after.
template <typename Angle>
__device__ __forceinline__ void rotate_head(float* head, int dim, const float* norm,
                                            const HeadRotation& r, Angle&& angle) {
  const int lane = threadIdx.x & 31;
  if (norm) {
    float ss = 0;
#pragma unroll 1
    for (int i = lane; i < dim; i += 32) ss += head[i] * head[i];
    ss = warp_sum(ss);
    float factor = rsqrtf(ss / static_cast<float>(dim) + r.norm_eps);
#pragma unroll 1
    for (int i = lane; i < dim; i += 32) head[i] *= factor * (norm[i] + r.norm_offset);
    __syncwarp();
  }
#pragma unroll 1
  for (int i = lane; i < r.pairs; i += 32) {
    float2 c = angle(i);
    float a = head[i], b = head[i + r.pairs];
    head[i] = a * c.x - b * c.y;
    head[i + r.pairs] = b * c.x + a * c.y;
  }
  __syncwarp();
}

/// Writes head[0..dim) as row `slot` of a page's head block and leaves in `head` what a reader will
/// see. Called by a whole warp.
__device__ __forceinline__ void store_kv_row(uint8_t* block, KvType type, int dim, int slot,
                                             float* head) {
  const int lane = threadIdx.x & 31;
  if (type == KvType::kF16) {
    __half* to = reinterpret_cast<__half*>(block) + slot * dim;
#pragma unroll 1
    for (int i = lane; i < dim; i += 32) to[i] = to_h16<__half>(head[i]);
  } else if (type == KvType::kBF16) {
    __nv_bfloat16* to = reinterpret_cast<__nv_bfloat16*>(block) + slot * dim;
#pragma unroll 1
    for (int i = lane; i < dim; i += 32) to[i] = to_h16<__nv_bfloat16>(head[i]);
  } else {
    float m = 0;
#pragma unroll 1
    for (int i = lane; i < dim; i += 32) m = fmaxf(m, fabsf(head[i]));
    m = warp_max(m);
    float scale = m / 127.f, inverse = m > 0 ? 127.f / m : 0.f;
    int8_t* to = reinterpret_cast<int8_t*>(block) + slot * dim;
#pragma unroll 1
    for (int i = lane; i < dim; i += 32) {
      int q = __float2int_rn(head[i] * inverse);
      to[i] = static_cast<int8_t>(q);
      head[i] = static_cast<float>(q) * scale;
    }
    if (lane == 0) reinterpret_cast<float*>(block + 64 * dim)[slot] = scale;
    __syncwarp();
  }
}

}  // namespace apud::cuda
