// The kernel of quantised products with up to five rows of activations (stream_many.cuh has more).
// A block makes 16 neighbouring outputs at a time, a tile, so that it can quantise them with one
// scale: 8 warps one pair of outputs each, 16 or 32 warps half or a quarter of a pair's columns
// each. Blocks stay for several tiles, so that all are resident at once: activations are fetched
// once, and the next tile's first weights are on their way when a tile ends, as the first one's are
// when the stage waits for the one before it.
#pragma once

#include "kernels/cuda/quant_rows.cuh"
#include "kernels/cuda/stream_parts.cuh"

namespace apud::cuda {

inline constexpr int kTilePairs = kTileRows / 2, kMaxWarps = 32;

/// What a kernel's stage consists of; where it is one matrix, no tile looks for its segment.
enum class StreamKind { kSegments, kSingle, kPair };

/// Behind the columns: their norms' factors, then twice the sums of (warps, 4, NC).
inline size_t stream_shared(int columns, int groups) {
  return columns * QuantRows::row_bytes(groups) +
         (StreamStage::kMaxColumns + size_t{2} * kMaxWarps * 4 * columns) * 4;
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
        const ActivationScale s = activation_scale<F>(ld_stream4(
            reinterpret_cast<const float*>(p.x.data + m * stride + 32 * groups) + 4 * g));
        reinterpret_cast<float4*>(columns + m * stride + 32 * groups)[g] =
            make_float4(s.d[0], s.d[1], __int_as_float(s.sum), 0);
      }
  copy_wait<0>();
  __syncthreads();
}

/// Tiles first, first + jump, ... of the stage's segments of type F, of which there are `tiles`.
template <WeightType F, int NC, StreamKind kKind>
__device__ __forceinline__ void stream_body(const StreamStage& p, int first, int jump, int tiles,
                                            uint8_t* shared) {
  constexpr bool kPair = kKind == StreamKind::kPair;
  // An item is two rows at once: gate and up of an output, or two outputs. A slot is what is in
  // flight of them: 32 groups, or twice as many.
  constexpr int kSpan = NC > 1 || two_planes(F) ? 1 : 2;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  // Pairs of blocks of 512 threads and more: an output a warp.
  const bool one = kPair && blockDim.x > kTilePairs * 32;
  const int twice = (blockDim.x > kTilePairs * 32) + (blockDim.x > 2 * kTilePairs * 32 ? 1 : 0);
  const int shift = kPair && twice > 0 ? twice - 1 : twice;
  const int part = warp & ((1 << shift) - 1), pair = warp >> shift;
  const int groups = p.x.groups, steps = (groups + 31) >> 5;
  // This warp's part of a row, in groups. Opaque, or they are worked out anew at every use.
  int from = (steps * part >> shift) * 32, end = min((steps * (part + 1) >> shift) * 32, groups);
  asm("" : "+r"(from), "+r"(end));
  auto segment_at = [&](int tile) {
    return kKind == StreamKind::kSegments ? segment_of<F>(p, tile) : 0;
  };
  const PackedShape shape = p.segment[segment_at(first)].weight.shape;

  // The item that is being loaded: its rows, or the first one.
  const uint8_t *base = nullptr, *up = nullptr;
  uint32_t next_row = 0;  // bytes to the tile's next row: another item of a pair, or half of one
  auto set_base = [&](int tile) {
    const StreamSegment& s = p.segment[segment_at(tile)];
    const int row = (tile - s.first_tile) * kTileRows + (one ? pair : 2 * pair),
              last = s.weight.rows - 1;
    const size_t at = size_t{shape.stride} * min(row, last);
    base = s.weight.data + at;
    if (kPair) up = s.pair + at;
    next_row = row < last ? shape.stride : 0;
  };
  Group slot[2][kSpan];
  auto load = [&](int at, auto pinned) {
    const GroupOffsets offsets = group_offsets<F>(shape, at + lane);
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      if (at + i * 32 + lane >= end) break;
      load_group_at<F, pinned()>(slot[0][i], base, offsets, i * 32);
      load_group_at<F, pinned()>(slot[1][i], kPair ? up : base + next_row, offsets, i * 32);
    }
  };
  set_base(first);
  load(from, std::true_type{});

  // Warps take turns with the columns at a tile's end.
  TileEnd<kPair> tile_end;
  auto column_of = [&](int turn) { return (warp - turn * NC) & (warps - 1); };
  auto constants = [&](int turn) {
    const int tile = first + turn * jump;
    tile_end.row = -1;
    if (column_of(turn) < NC) tile_end.ask(p, p.segment[segment_at(tile)], tile);
  };
  auto out_at = [&](int turn) {
    const StreamSegment& s = p.segment[segment_at(first + turn * jump)];
    return s.out + column_of(turn) * s.out_ld + tile_end.row;
  };
  auto ask_residual = [&](int turn) {
    if (!kPair && p.accumulate && tile_end.row >= 0) tile_end.residual = ld_stream(out_at(turn));
  };
  constants(0);
  grid_dependency_wait();
  ask_residual(0);

  uint8_t* columns = shared;
  const size_t column_bytes = QuantRows::row_bytes(groups);
  float* factors = reinterpret_cast<float*>(shared + NC * column_bytes);
  const bool normed = p.normed && warp < NC;
  NormSquares squares;
  if (normed) squares.ask(p, warp);
  fetch_columns<F>(p, NC, columns);
  if (normed) {
    const float factor = squares.factor(p, warp);
    if (lane == 0) factors[warp] = factor;
  }

  float acc[2][NC];
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int m = 0; m < NC; ++m) acc[r][m] = 0;
  uint32_t columns_address = shared_address(columns);
  asm("" : "+r"(columns_address));
  int at = from, turn = 0;
  bool last_item = !kPair || one;
  for (;;) {
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      const int g = at + i * 32 + lane;
      if (g >= end) break;
#pragma unroll
      for (int m = 0; m < NC; ++m) {
        const uint32_t column = columns_address + m * static_cast<uint32_t>(column_bytes) + g * 16;
        const int4 a0 = load_shared16(column), a1 = load_shared16(column + 16 * groups),
                   scales = load_shared16(column + 32 * groups);
        const ActivationScale x = {{__int_as_float(scales.x), __int_as_float(scales.y)}, scales.z};
#pragma unroll
        for (int r = 0; r < 2; ++r) acc[r][m] = add_group_dot<F>(acc[r][m], slot[r][i], a0, a1, x);
      }
    }
    at += kSpan * 32;
    // The loads that follow, of the next tile's first item where this one ends.
    const bool item_ends = at >= end;
    bool more = true;
    if (item_ends) {
      at = from;
      if (!last_item) {
        base += next_row;
        up += next_row;
      } else {
        more = first + (turn + 1) * jump < tiles;
        if (more) set_base(first + (turn + 1) * jump);
      }
    }
    if (more) load(at, std::false_type{});
    if (!item_ends) continue;

    // Twice the sums: readers of two turns ago have passed a barrier since.
    float* sums = factors + StreamStage::kMaxColumns + (turn & 1) * (kMaxWarps * 4 * NC);
    float* to = sums + (warp * 4 + (kPair && last_item && !one ? 2 : 0)) * NC;
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
    if (!last_item) {
      last_item = true;
      continue;
    }
    last_item = !kPair || one;
    __syncthreads();
    const int column = column_of(turn);
    if (column < NC) {
      // Output `lane` of the tile: its parts are added in order.
      const int output = lane % kTileRows;
      const float* part_of = one ? sums + (output << shift) * 4 * NC + column
                                 : sums + ((output >> 1) << shift) * 4 * NC +
                                       (lane & 1) * (kPair ? 2 : 1) * NC + column;
      constexpr int kParts = two_planes(F) ? 2 : 4;
      float v = 0, u = 0;
#pragma unroll
      for (int k = 0; k < kParts; ++k) {
        if (k >= 1 << shift) break;
        v = __fadd_rn(v, part_of[k * 4 * NC]);
        if constexpr (kPair) u = __fadd_rn(u, part_of[(k * 4 + 1) * NC]);
      }
      const float factor = p.normed ? factors[column] : 1.f;
      v = finished<kPair>(p, v, u, factor, tile_end);
      if (tile_end.row >= 0) *out_at(turn) = v;
      if (p.next.data) {
        if (tile_end.row < 0) v = 0;
        store_half(p.next, column, first + turn * jump, lane < kTileRows,
                   __fmul_rn(v, tile_end.norm_weight + p.next_offset), __fmul_rn(v, v));
      }
    }
    if (!more) return;
    constants(++turn);
    ask_residual(turn);
  }
}

/// Blocks of 1,024 threads are not for two planes of bytes, whose kernels are 1 % slower where the
/// compiler is told of them.
template <WeightType A, WeightType B>
constexpr int kMostThreads = two_planes(A) && two_planes(B) ? 512 : 32 * kMaxWarps;

/// Segments of type A or B, one of type A, or one pair. PRECOND: blockDim 256, 512 or 1024 (at most
/// kMostThreads); at most a block a tile; NC columns; stream_shared bytes.
template <WeightType A, WeightType B, int NC, StreamKind kKind>
__global__ void __launch_bounds__(kMostThreads<A, B>, 1024 / kMostThreads<A, B>)
    stream_kernel(const __grid_constant__ StreamStage p) {
  extern __shared__ __align__(16) uint8_t shared[];
  grid_dependency_trigger();
  const int block = blockIdx.x;
  if (A == B || block < p.blocks_a)
    stream_body<A, NC, kKind>(p, block, p.blocks_a, p.tiles_a, shared);
  else
    stream_body<B, NC, kKind>(p, block - p.blocks_a, p.blocks_b, p.tiles_b, shared);
}

/// The kernel for a pair of types, or null where that pair is not compiled.
template <int NC>
StreamKernel stream_kernel_for(WeightType a, WeightType b, StreamKind kind) {
  using enum StreamKind;
  StreamKernel found = nullptr;
  if (a == b)
    with_type(a, [&]<WeightType F>() {
      if constexpr (!is_float_type(F)) {
        constexpr StreamKind kOne = NC == 1 ? kSingle : kSegments;
        found = kind == kPair     ? stream_kernel<F, F, NC, kPair>
                : kind == kSingle ? stream_kernel<F, F, NC, kOne>
                                  : stream_kernel<F, F, NC, kSegments>;
      }
    });
  else if (kind != kPair)
    with_mix(a, b,
             [&]<WeightType A, WeightType B>() { found = stream_kernel<A, B, NC, kSegments>; });
  return found;
}
extern template StreamKernel stream_kernel_for<1>(WeightType, WeightType, StreamKind);
extern template StreamKernel stream_kernel_for<2>(WeightType, WeightType, StreamKind);
extern template StreamKernel stream_kernel_for<3>(WeightType, WeightType, StreamKind);
extern template StreamKernel stream_kernel_for<4>(WeightType, WeightType, StreamKind);
extern template StreamKernel stream_kernel_for<5>(WeightType, WeightType, StreamKind);

}  // namespace apud::cuda
