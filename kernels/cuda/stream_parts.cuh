// What the kernels of quantised products share (stream.cuh: up to five rows of activations,
// stream_many.cuh: more).
#pragma once

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/unpack.cuh"

namespace apud::cuda {

inline constexpr int kTileRows = 16;

/// A lane's group is two loads a row.
constexpr bool two_planes(WeightType type) { return plane_bytes(type).high == 16; }

/// The segment of type F that has this tile.
template <WeightType F>
__device__ __forceinline__ int segment_of(const StreamStage& p, int tile) {
  int i = 0;
  while (i + 1 < p.segments &&
         (p.segment[i].weight.type != F || tile >= p.segment[i].first_tile + p.segment[i].tiles))
    ++i;
  return i;
}

/// A group's scales in the form that the weight type takes.
template <WeightType F>
__device__ __forceinline__ ActivationScale activation_scale(const float4& raw) {
  const int sums = __float_as_int(raw.z);
  if constexpr (sum_kind(F) != SumKind::kScaledSum) return {{raw.x, raw.y}, sums, 0};
  const float scaled =
      __fmaf_rn(raw.y, static_cast<float>(sums >> 16),
                __fmul_rn(raw.x, static_cast<float>(static_cast<int16_t>(sums & 0xffff))));
  return {{raw.x, plain_nibbles(F) ? raw.y * 0.0625f : raw.y}, __float_as_int(scaled), 0};
}

/// 1 / rms of a column's values before norm weights, by the warp that asks for its squares before
/// the columns are fetched.
struct NormSquares {
  static constexpr int kAhead = 8;
  float squares[kAhead] = {};
  __device__ __forceinline__ void ask(const StreamStage& p, int column) {
    const int halves = 2 * p.x.groups, lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (i * 32 + lane < halves)
        squares[i] = ld_stream(p.x.squares + int64_t{column} * halves + i * 32 + lane);
  }
  __device__ __forceinline__ float factor(const StreamStage& p, int column) const {
    const int halves = 2 * p.x.groups, lane = threadIdx.x & 31;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) sum += squares[i];
    for (int g = kAhead * 32 + lane; g < halves; g += 32)
      sum += ld_stream(p.x.squares + int64_t{column} * halves + g);
    return rsqrtf(warp_sum(sum) / static_cast<float>(p.cols) + p.norm_eps);
  }
};

/// What an output needs at its tile's end besides its sums, asked for at the tile's beginning.
template <bool kPair, int kOutputs = kTileRows>
struct TileEnd {
  float bias = 0, pair_bias = 0, norm_weight = 1, residual = 0;
  int row = -1;  // -1: this lane has no output
  /// By the warp that makes one of the tile's columns.
  __device__ __forceinline__ void ask(const StreamStage& p, const StreamSegment& s, int tile) {
    const int lane = threadIdx.x & 31, output = (tile - s.first_tile) * kOutputs + lane;
    if (lane >= kOutputs || output >= s.weight.rows) return;
    row = output;
    bias = s.bias ? s.bias[row] : 0;
    if (kPair) pair_bias = s.pair_bias ? s.pair_bias[row] : 0;
    if (p.next_norm) norm_weight = p.next_norm[row];
  }
};

/// An output from its sums (v; of pairs gate's and up's), the norm's factor and what was asked for.
template <bool kPair, int kOutputs>
__device__ __forceinline__ float finished(const StreamStage& p, float v, float u, float factor,
                                          const TileEnd<kPair, kOutputs>& end) {
  v = __fmaf_rn(v, factor, end.bias);
  if constexpr (kPair)
    return activate(p.activation, v) * __fmaf_rn(u, factor, end.pair_bias);
  else
    return __fadd_rn(v, end.residual);
}

using StreamKernel = void (*)(const StreamStage);

/// Calls f.template operator()<A, B>() for the mixes of Q4_K_M, Q5_K_M, Q3_K_M and their 32-block
/// kin, which have kernels.
template <typename Fn>
void with_mix(WeightType a, WeightType b, Fn&& f) {
  using enum WeightType;
  if (a == kQ4_K && b == kQ6_K) f.template operator()<kQ4_K, kQ6_K>();
  if (a == kQ5_K && b == kQ6_K) f.template operator()<kQ5_K, kQ6_K>();
  if (a == kQ3_K && b == kQ5_K) f.template operator()<kQ3_K, kQ5_K>();
  if (a == kQ5_0 && b == kQ8_0) f.template operator()<kQ5_0, kQ8_0>();
}

}  // namespace apud::cuda
