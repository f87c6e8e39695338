// The kernel of quantised products. A block makes 16 neighbouring outputs, so that it can quantise
// them with one scale: 4 warps two pairs of outputs each, 8 warps one pair, 16 or 32 warps half or
// a quarter of a pair's columns each. Weights stream in 16-byte loads that are in flight before the
// stage waits for the one before it.
#pragma once

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/quant_rows.cuh"
#include "kernels/cuda/unpack.cuh"

namespace apud::cuda {

inline constexpr int kTileRows = 16, kTilePairs = kTileRows / 2, kMaxWarps = 32;

/// A lane's group is two loads a row.
constexpr bool two_planes(WeightType type) { return plane_bytes(type).high == 16; }

/// Behind the columns: sums of (warps, 4, NC).
__host__ __device__ inline size_t stream_shared(int columns, int nc, int groups) {
  return columns * QuantRows::row_bytes(groups) + size_t{kMaxWarps} * 4 * nc * 4;
}

/// Columns of activations to shared memory, scales in the form that the weight type takes.
template <WeightType F>
__device__ __forceinline__ void fetch_columns(const StreamStage& p, int count, uint8_t* columns) {
  const int groups = p.x.groups;
  const size_t stride = QuantRows::row_bytes(groups);
  constexpr bool kScaled = sum_kind(F) == SumKind::kScaledSum;
  const int chunks = kScaled ? 2 * groups : 3 * groups;
  for (int m = 0; m < count; ++m) {
    uint8_t* to = columns + m * stride;
    const uint8_t* from = p.x.data + m * stride;
#pragma unroll 1
    for (int c = threadIdx.x; c < chunks; c += blockDim.x)
      copy_async16(to + c * 16, from + c * 16, true);
  }
  copy_commit();
  if constexpr (kScaled)
    for (int m = 0; m < count; ++m)
#pragma unroll 1
      for (int g = threadIdx.x; g < groups; g += blockDim.x) {
        const float4 raw =
            ld_stream4(reinterpret_cast<const float*>(p.x.data + m * stride + 32 * groups) + 4 * g);
        const int sums = __float_as_int(raw.z);
        const float scaled =
            __fmaf_rn(raw.y, static_cast<float>(sums >> 16),
                      __fmul_rn(raw.x, static_cast<float>(static_cast<int16_t>(sums & 0xffff))));
        reinterpret_cast<float4*>(columns + m * stride + 32 * groups)[g] =
            make_float4(raw.x, raw.y, scaled, 0);
      }
  copy_wait<0>();
  __syncthreads();
}

template <WeightType F, int NC, bool kPair>
__device__ __forceinline__ void stream_body(const StreamStage& p, const StreamSegment& s, int tile,
                                            uint8_t* shared) {
  // An item is two rows at once: gate and up of an output, or two outputs.
  constexpr int kItemsPair = kPair ? 2 : 1;
  constexpr int kDepth = NC > 2 || two_planes(F) ? 1 : 2;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int shift =
      (blockDim.x > kTilePairs * 32) + (!two_planes(F) && blockDim.x > 2 * kTilePairs * 32 ? 1 : 0);
  const int split = 1 << shift;
  const int part = warp & (split - 1), first_pair = warp >> shift;
  const int items = blockDim.x < kTilePairs * 32 ? 2 * kItemsPair : kItemsPair;
  const int columns_count = NC == 1 ? 1 : p.columns;
  const PackedShape shape = s.weight.shape;
  const int groups = shape.groups, steps = (groups + 31) >> 5, rows = s.weight.rows;
  auto pair_of = [&](int item) {
    return first_pair + (kPair ? item >> 1 : item) * (kTilePairs / 2);
  };
  const uint8_t *base = nullptr, *base1 = nullptr;
  auto set_base = [&](int item) {
    const int row = tile * kTileRows + 2 * pair_of(item) + (kPair ? item & 1 : 0);
    base = s.weight.data + size_t{shape.stride} * min(row, rows - 1);
    base1 = kPair ? s.pair + size_t{shape.stride} * min(row, rows - 1)
                  : s.weight.data + size_t{shape.stride} * min(row + 1, rows - 1);
  };
  set_base(0);
  int load_item = 0, load_step = part;
  Group ring[kDepth][2];
  // Lanes beyond the row's end load its last group and do not use it.
  auto load = [&](Group(&slot)[2], auto pinned) {
    if (load_item < items) {
      const uint32_t g = min(load_step * 32 + lane, groups - 1);
      slot[0] = load_group<F, pinned()>(base, shape, g);
      slot[1] = load_group<F, pinned()>(base1, shape, g);
    }
    load_step += split;
    if (load_step >= steps) {
      load_step = part;
      if (++load_item < items) set_base(load_item);
    }
  };
#pragma unroll
  for (int i = 0; i < kDepth; ++i) load(ring[i], std::true_type{});

  // Constants of the epilogue, by the warp that will make column `warp`.
  const int row = tile * kTileRows + lane;
  const bool mine = warp < columns_count, valid = lane < kTileRows && row < rows;
  float bias = 0, pair_bias = 0, norm_weight = 1;
  if (mine && valid) {
    if (s.bias) bias = s.bias[row];
    if (kPair && s.pair_bias) pair_bias = s.pair_bias[row];
    if (p.next_norm) norm_weight = p.next_norm[row] + p.next_offset;
  }
  grid_dependency_wait();
  float residual = 0;
  if (p.accumulate && mine && valid) residual = ld_stream(s.out + warp * s.out_ld + row);

  uint8_t* columns = shared;
  const size_t column_bytes = QuantRows::row_bytes(groups);
  float* sums = reinterpret_cast<float*>(shared + columns_count * column_bytes);
  // Asked for beside the columns.
  constexpr int kSquares = 8;
  const int halves = 2 * groups;
  float squares[kSquares] = {};
  if (mine && p.normed)
#pragma unroll
    for (int i = 0; i < kSquares; ++i)
      if (i * 32 + lane < halves)
        squares[i] = ld_stream(p.x.squares + int64_t{warp} * halves + i * 32 + lane);
  fetch_columns<F>(p, columns_count, columns);
  float square_sum = 0;
#pragma unroll
  for (int i = 0; i < kSquares; ++i) square_sum += squares[i];

  float acc[2][NC];
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int m = 0; m < NC; ++m) acc[r][m] = 0;
  int item = 0, step = part;
  while (item < items) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      if (item >= items) break;
      const int g = step * 32 + lane;
      if (g < groups) {
#pragma unroll
        for (int m = 0; m < NC; ++m) {
          // Columns beyond the last repeat the first; their sums are dropped.
          const uint8_t* column = columns + (NC > 1 && m < columns_count ? m : 0) * column_bytes;
          const int4 a0 = reinterpret_cast<const int4*>(column)[g];
          const int4 a1 = reinterpret_cast<const int4*>(column)[groups + g];
          const ActivationScale x =
              reinterpret_cast<const ActivationScale*>(column + 32 * groups)[g];
#pragma unroll
          for (int r = 0; r < 2; ++r)
            acc[r][m] = add_group_dot<F>(acc[r][m], ring[i][r], a0, a1, x);
        }
      }
      load(ring[i], std::false_type{});
      step += split;
      if (step >= steps) {
        float* to = sums + ((pair_of(item) * split + part) * 4 + (kPair ? (item & 1) * 2 : 0)) * NC;
        // Both rows at once: a half of the warp each, in the order of warp_sum.
#pragma unroll
        for (int m = 0; m < NC; ++m) {
          const bool low = lane < 16;
          float v = (low ? acc[0][m] : acc[1][m]) +
                    __shfl_xor_sync(0xffffffffu, low ? acc[1][m] : acc[0][m], 16);
#pragma unroll
          for (int k = 8; k > 0; k >>= 1) v += __shfl_xor_sync(0xffffffffu, v, k);
          if ((lane & 15) == 0) to[(lane >> 4) * NC + m] = v;
          acc[0][m] = acc[1][m] = 0;
        }
        step = part;
        ++item;
      }
    }
  }
  __syncthreads();
  if (!mine) return;
  // Output `lane` of the tile, column `warp`.
  const int from = ((lane % kTileRows) >> 1) * split, which = lane & 1;
  float v = 0, up = 0;
  for (int k = 0; k < split; ++k) {
    const float* at = sums + (from + k) * 4 * NC + warp;
    if constexpr (kPair) {
      v = __fadd_rn(v, at[which * 2 * NC]);
      up = __fadd_rn(up, at[(which * 2 + 1) * NC]);
    } else {
      v = __fadd_rn(v, at[which * NC]);
    }
  }
  float factor = 1;
  if (p.normed) {
    float sum = square_sum;
    for (int g = kSquares * 32 + lane; g < halves; g += 32)
      sum += ld_stream(p.x.squares + int64_t{warp} * halves + g);
    factor = rsqrtf(warp_sum(sum) / static_cast<float>(p.cols) + p.norm_eps);
  }
  v = __fmaf_rn(v, factor, bias);
  if constexpr (kPair) v = activate(p.activation, v) * __fmaf_rn(up, factor, pair_bias);
  v = __fadd_rn(v, residual);
  if (valid) s.out[warp * s.out_ld + row] = v;
  if (p.next.data) {
    if (!valid) v = 0;
    store_half(p.next, warp, tile, lane < kTileRows, __fmul_rn(v, norm_weight), __fmul_rn(v, v));
  }
}

/// Blocks of 1,024 threads are not for two planes of bytes, whose kernels are 1 % slower where the
/// compiler is told of them.
template <WeightType A, WeightType B>
constexpr int kMostThreads = two_planes(A) && two_planes(B) ? 512 : 32 * kMaxWarps;

/// Segments of type A or B. PRECOND: blockDim 128 (with 4 columns at most), 256, 512 or 1024 (at
/// most kMostThreads); columns <= NC; stream_shared bytes.
template <WeightType A, WeightType B, int NC, bool kPair>
__global__ void __launch_bounds__(kMostThreads<A, B>, 1024 / kMostThreads<A, B>)
    stream_kernel(const __grid_constant__ StreamStage p) {
  extern __shared__ __align__(16) uint8_t shared[];
  grid_dependency_trigger();
  int index = 0;
  while (index + 1 < p.segments && static_cast<int>(blockIdx.x) >= p.segment[index + 1].first_tile)
    ++index;
  const StreamSegment& s = p.segment[index];
  const int tile = static_cast<int>(blockIdx.x) - s.first_tile;
  if (A == B || s.weight.type == A)
    stream_body<A, NC, kPair>(p, s, tile, shared);
  else
    stream_body<B, NC, kPair>(p, s, tile, shared);
}

using StreamKernel = void (*)(const StreamStage);
/// The kernel for a pair of types, or null where that pair is not compiled.
template <int NC>
StreamKernel stream_kernel_for(WeightType a, WeightType b, bool paired) {
  StreamKernel found = nullptr;
  if (a == b) {
    with_type(a, [&]<WeightType F>() {
      if constexpr (!is_float_type(F))
        found = paired ? stream_kernel<F, F, NC, true> : stream_kernel<F, F, NC, false>;
    });
  } else if constexpr (NC == 1) {  // the mixes of Q4_K_M, Q5_K_M, Q3_K_M and their 32-block kin
    using enum WeightType;
    if (paired) return nullptr;
    if (a == kQ4_K && b == kQ6_K) found = stream_kernel<kQ4_K, kQ6_K, NC, false>;
    if (a == kQ5_K && b == kQ6_K) found = stream_kernel<kQ5_K, kQ6_K, NC, false>;
    if (a == kQ3_K && b == kQ5_K) found = stream_kernel<kQ3_K, kQ5_K, NC, false>;
    if (a == kQ5_0 && b == kQ8_0) found = stream_kernel<kQ5_0, kQ8_0, NC, false>;
  }
  return found;
}
extern template StreamKernel stream_kernel_for<1>(WeightType, WeightType, bool);
extern template StreamKernel stream_kernel_for<2>(WeightType, WeightType, bool);
extern template StreamKernel stream_kernel_for<4>(WeightType, WeightType, bool);
extern template StreamKernel stream_kernel_for<8>(WeightType, WeightType, bool);

}  // namespace apud::cuda
