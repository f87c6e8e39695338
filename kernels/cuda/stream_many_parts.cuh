// What the kernel of quantised products with many rows (stream_many.cuh) is made of: the layout of
// its shared memory, a step's copies into a ring and what threads read of it.
#pragma once

#include "kernels/cuda/stream_parts.cuh"

namespace apud::cuda {

inline constexpr int kOctet = 8;

/// What an octet multiplies at a time: a tile, two neighbouring ones, or gate and up of one. Two
/// matrices of 16 rows share what is made of the activations, and the steps' barriers.
enum class ManyKind { kTile, kTwoTiles, kPair };
constexpr int many_matrices(ManyKind kind) { return kind == ManyKind::kTile ? 1 : 2; }
constexpr int many_outputs(ManyKind kind) {
  return kind == ManyKind::kTwoTiles ? 2 * kTileRows : kTileRows;
}

/// A step's planes in a ring: of 16 rows, 32 groups. Planes of 16 bytes a group are turned (group g
/// of row r lies at g ^ (r & 7)), rows of others are 16 bytes longer, so that readers share no
/// bank; supers lie in those 16 bytes of the scales.
template <WeightType F>
struct ManySlot {
  static constexpr int row_bytes(int b) { return b == 16 ? 512 : b > 0 ? 32 * b + 16 : 0; }
  static constexpr int kLow = row_bytes(plane_bytes(F).low), kHigh = row_bytes(plane_bytes(F).high),
                       kScale = row_bytes(plane_bytes(F).scale);
  static constexpr int kHighAt = 16 * kLow, kScaleAt = kHighAt + 16 * kHigh,
                       kSize = kScaleAt + 16 * kScale;
};

/// A column's values, 16 of each group before the others; eight columns share no bank.
__host__ __device__ inline size_t many_stride(int groups) {
  return (size_t{32} * groups + 127) / 128 * 128 + 16;
}
/// Of all columns: per group eight first scales, eight second ones, eight sums; zeros behind the
/// last group, to the end of its step.
constexpr int kManyScales = 3 * StreamStage::kMaxColumns * 4;
/// Columns, their scales, the sums of the block's octets, the norms' factors, the rings.
inline size_t many_shared(const StreamStage& p, ManyKind kind, size_t slot) {
  return p.columns * many_stride(p.x.groups) + size_t{kManyScales} * ceil_div(p.x.groups, 32) * 32 +
         p.octets * many_matrices(kind) * (kOctet * size_t{1024} + p.ring * slot) +
         StreamStage::kMaxColumns * 4;
}

/// Of the 256 threads of an octet.
__device__ __forceinline__ void octet_barrier(int octet) {
  asm volatile("bar.sync %0, %1;" ::"r"(octet + 1), "n"(kOctet * 32) : "memory");
}
/// kBytes to shared memory; zeros where !valid (nothing is read then).
template <int kBytes>
__device__ __forceinline__ void copy_async_at(uint32_t to, const uint8_t* from, bool valid) {
  const int bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes),
                 "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ uint32_t load_shared4(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(address));
  return v;
}
__device__ __forceinline__ uint2 load_shared8(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address));
  return v;
}

/// d (16x8) = start + a (16x16) * b (16x8): bytes, those of a signed or not, those of b signed.
/// Lane 4i + j has bytes 4j .. 4j+3 of rows i (a0) and i + 8 (a1) and of column i (b), and columns
/// 2j and 2j + 1 of rows i (d[0], d[1]) and i + 8.
template <bool kSigned>
__device__ __forceinline__ void mma_bytes(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t b,
                                          const int (&start)[4]) {
  if constexpr (kSigned)
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%7,%8,%9,%10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(start[0]), "r"(start[1]), "r"(start[2]), "r"(start[3]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%7,%8,%9,%10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(start[0]), "r"(start[1]), "r"(start[2]), "r"(start[3]));
}

/// The bytes of quant_bytes(group, h, w) for a run-time w: from word w (where a half has one word:
/// word h) of the low plane and the word of the high plane that has their bits.
template <WeightType F>
__device__ __forceinline__ uint32_t fragment_bytes(uint32_t low, uint32_t high, int h, int w) {
  using enum WeightType;
  if constexpr (F == kQ8_0) return h ? high : low;
  if constexpr (F == kQ2_K) return (low >> (2 * w)) & 0x03030303u;
  if constexpr (F == kQ3_K)
    return ((low >> (2 * w)) & 0x03030303u) | (((high >> (2 * w + h)) & 0x01010101u) << 2);
  // As in add_group_dot: 16 times their value where a scale takes that in.
  if constexpr (plain_nibbles(F) && sum_kind(F) == SumKind::kScaledSum)
    return low & (h ? 0xf0f0f0f0u : 0x0f0f0f0fu);
  const uint32_t nibbles = (low >> (4 * h)) & 0x0f0f0f0fu;
  if constexpr (F == kQ5_0 || F == kQ5_1 || F == kQ5_K)
    return nibbles | (((high >> (2 * w + h)) & 0x01010101u) << 4);
  if constexpr (F == kQ6_K) return nibbles | (((high >> (2 * w)) & 0x03030303u) << 4);
  return nibbles;
}

/// What a thread of an octet copies of a plane of kBytes a group, of 16 rows: a chunk of one or two
/// of them, step by step.
template <WeightType F, int kBytes>
struct ManyPlane {
  static constexpr int kChunks = 2 * kBytes, kCopies = kBytes == 16 ? 2 : 1;
  static constexpr int kRowBytes = ManySlot<F>::row_bytes(kBytes);
  const uint8_t* from[kCopies] = {};
  static __device__ __forceinline__ int row() { return threadIdx.x % (kOctet * 32) / kChunks; }
  static __device__ __forceinline__ int chunk() { return threadIdx.x % kChunks; }
  /// `plane`: of the first row, at the step to begin with.
  __device__ __forceinline__ void set(const uint8_t* plane, int last_row, uint32_t stride) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i)
      from[i] = plane + min(row() + 8 * i, last_row) * stride + chunk() * 16;
  }
  /// To a slot's plane, of two matrices the other's, `second` bytes from the first, to the plane of
  /// the next slot; groups: how many are left from this step on.
  template <bool kTwo>
  __device__ __forceinline__ void copy(uint32_t plane, int groups, int64_t second) {
    if (row() < kTileRows)
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int place = kBytes == 16 ? chunk() ^ (row() & 7) : chunk();
        const uint32_t to = plane + (row() + 8 * i) * kRowBytes + place * 16;
        const bool valid = chunk() * (16 / kBytes) < groups;
        copy_async_at<16>(to, from[i], valid);
        if constexpr (kTwo) copy_async_at<16>(to + ManySlot<F>::kSize, from[i] + second, valid);
        from[i] += 32 * kBytes;
      }
  }
};

/// What a thread has of groups 2w and 2w + 1 of a step, or of the 16th from there, of rows i and
/// i + 8 (index r).
template <WeightType F>
struct ManyPair {
  uint32_t low[2][2][plane_bytes(F).low == 16 ? 1 : 2];  // group, r, half
  uint32_t high[2][2][2];                                // group, r, half
  uint2 scale[2];
  uint32_t super[2];

  /// Where in a slot a thread's part of the first pair lies.
  struct Offsets {
    uint32_t matrix, low, high, scale, super;
    __device__ __forceinline__ explicit Offsets(int w) {
      using S = ManySlot<F>;
      constexpr PlaneBytes b = plane_bytes(F);
      const uint32_t lane = threadIdx.x & 31, i = lane >> 2;
      // Matrices: rows 0-7 and 8-15 of a group, the same of the next.
      matrix = (lane & 15) * 512 + ((2 * w + (lane >> 4)) ^ (lane & 7)) * 16;
      low = i * S::kLow + 2 * w * b.low;
      high = S::kHighAt + i * S::kHigh + 2 * w * b.high;
      scale = S::kScaleAt + i * S::kScale + 2 * w * b.scale;
      super = S::kScaleAt + i * S::kScale + 64 + (b.super == 4 ? w / 4 * 4 : 0);
    }
  };
  __device__ __forceinline__ void load(uint32_t slot, const Offsets& at, int pair, int w) {
    constexpr PlaneBytes b = plane_bytes(F);
    using S = ManySlot<F>;
    if constexpr (b.low == 16) {
      uint32_t v[4];
      load_matrix4_at(v, slot + at.matrix + pair * 256);
#pragma unroll
      for (int k = 0; k < 4; ++k) low[k >> 1][k & 1][0] = v[k];
    }
    if constexpr (b.high == 16) {
      uint32_t v[4];
      load_matrix4_at(v, slot + S::kHighAt + at.matrix + pair * 256);
#pragma unroll
      for (int k = 0; k < 4; ++k) high[k >> 1][k & 1][0] = high[k >> 1][k & 1][1] = v[k];
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (b.low == 8) {
        const int4 v = load_shared16(slot + at.low + 8 * r * S::kLow + pair * 16 * b.low);
        low[0][r][0] = v.x, low[0][r][1] = v.y, low[1][r][0] = v.z, low[1][r][1] = v.w;
      }
      const uint32_t of_high = slot + at.high + 8 * r * S::kHigh + pair * 16 * b.high;
      if constexpr (b.high == 8) {
        const int4 v = load_shared16(of_high);
        high[0][r][0] = v.x, high[0][r][1] = v.y, high[1][r][0] = v.z, high[1][r][1] = v.w;
      }
      if constexpr (b.high == 4) {
        const uint2 v = load_shared8(of_high);
        high[0][r][0] = high[0][r][1] = v.x, high[1][r][0] = high[1][r][1] = v.y;
      }
      const uint32_t of_scale = slot + at.scale + 8 * r * S::kScale + pair * 16 * b.scale;
      if constexpr (b.scale == 4) scale[r] = load_shared8(of_scale);
      if constexpr (b.scale == 2) scale[r] = make_uint2(load_shared4(of_scale), 0);
      if constexpr (b.super > 0)
        super[r] = load_shared4(slot + at.super + 8 * r * S::kScale + pair * 2 * b.super);
      if constexpr (b.super == 2) super[r] >>= (w & 4) * 4;
    }
  }
  __device__ __forceinline__ uint32_t bytes(int k, int r, int h, int w) const {
    constexpr PlaneBytes b = plane_bytes(F);
    return fragment_bytes<F>(low[k][r][b.low == 16 ? 0 : h], b.high ? high[k][r][h] : 0, h, w);
  }
  __device__ __forceinline__ Affine affine(int k, int r) const {
    constexpr PlaneBytes b = plane_bytes(F);
    if constexpr (F == WeightType::kQ4_K || F == WeightType::kQ5_K) {
      // Exact as the product is, and without conversions: d (2^23 + byte) - d 2^23.
      Affine a = {};
      const float d = half_bits(super[r]), m = half_bits(super[r] >> 16);
      const float of_scale = __uint_as_float(__byte_perm(scale[r].x, 0x4b000000, 0x7440 + 2 * k)),
                  of_min = __uint_as_float(__byte_perm(scale[r].x, 0x4b000000, 0x7440 + 2 * k + 1));
      a.scale[0] = a.scale[1] = __fmaf_rn(d, of_scale, d * -8388608.f);
      a.minus[0] = a.minus[1] = __fmaf_rn(m, of_min, m * -8388608.f);
      return a;
    }
    Group g = {};
    g.scale = b.scale == 4 ? (k ? scale[r].y : scale[r].x) : scale[r].x >> (16 * k);
    if constexpr (b.super > 0) g.super = super[r];
    return group_affine<F>(g);
  }
};

/// The kernels for a pair of types (null where they are not compiled) and for gate and up of one;
/// the bytes of a slot of one matrix.
StreamKernel many_tile_kernel(WeightType a, WeightType b);
StreamKernel many_two_tiles_kernel(WeightType a, WeightType b);
StreamKernel many_pair_kernel(WeightType type);
size_t many_slot(WeightType type);

}  // namespace apud::cuda
