// One group of a packed row in registers: loading it, its values, its dot product with int8
// activations.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/layout.h"

namespace apud::cuda {

/// Raw bits of one group; a type uses what it needs.
struct Group {
  uint4 low, high;
  uint32_t scale, super;
};

// As ld_weight*, through the read-only path: faster, but free to be moved behind a dependency wait.
__device__ __forceinline__ uint4 ld_constant16(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 ld_constant8(const void* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p));
  return v;
}
__device__ __forceinline__ uint32_t ld_constant4(const void* p) {
  uint32_t v;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
__device__ __forceinline__ uint32_t ld_constant2(const void* p) {
  uint16_t v;
  asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(p));
  return v;
}

/// Where a group's parts lie in a row. Unsigned words: an address then takes two additions.
struct GroupOffsets {
  uint32_t low, high, scale, super;
};
template <WeightType F>
__device__ __forceinline__ GroupOffsets group_offsets(const PackedShape& p, uint32_t g) {
  constexpr PlaneBytes b = plane_bytes(F);
  return {g * b.low, p.high + g * b.high, p.scale + g * b.scale, p.super + (g >> 3) * b.super};
}
/// Loads the group `ahead` (a multiple of 8) groups behind the offsets': at fixed distances, so
/// that several share their addresses. With kPinned the loads stay before the dependency wait that
/// they are written before.
template <WeightType F, bool kPinned>
__device__ __forceinline__ void load_group_at(Group& r, const uint8_t* row, const GroupOffsets& o,
                                              int ahead) {
  constexpr PlaneBytes b = plane_bytes(F);
  auto load16 = [](const uint8_t* at) { return kPinned ? ld_weight16(at) : ld_constant16(at); };
  auto load8 = [](const uint8_t* at) { return kPinned ? ld_weight8(at) : ld_constant8(at); };
  auto load4 = [](const uint8_t* at) { return kPinned ? ld_weight4(at) : ld_constant4(at); };
  auto load2 = [](const uint8_t* at) { return kPinned ? ld_weight2(at) : ld_constant2(at); };
  const uint8_t* low = row + o.low + ahead * b.low;
  if constexpr (b.low == 16) {
    r.low = load16(low);
  } else {
    const uint2 v = load8(low);
    r.low.x = v.x;
    r.low.y = v.y;
  }
  const uint8_t* high = row + o.high + ahead * b.high;
  if constexpr (b.high == 16) r.high = load16(high);
  if constexpr (b.high == 8) {
    const uint2 v = load8(high);
    r.high.x = v.x;
    r.high.y = v.y;
  }
  if constexpr (b.high == 4) r.high.x = load4(high);
  const uint8_t* scale = row + o.scale + ahead * b.scale;
  if constexpr (b.scale == 2) r.scale = load2(scale);
  if constexpr (b.scale == 4) r.scale = load4(scale);
  const uint8_t* super = row + o.super + ahead / 8 * b.super;
  if constexpr (b.super == 2) r.super = load2(super);
  if constexpr (b.super == 4) r.super = load4(super);
}
template <WeightType F>
__device__ __forceinline__ Group load_group(const uint8_t* row, const PackedShape& p, uint32_t g) {
  Group r = {};
  load_group_at<F, false>(r, row, group_offsets<F>(p, g), 0);
  return r;
}

__device__ __forceinline__ uint32_t word(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/// Unsigned (signed for Q8_0) bytes 16h + 4w .. +3 of a quantised group.
template <WeightType F>
__device__ __forceinline__ uint32_t quant_bytes(const Group& r, int h, int w) {
  if constexpr (F == WeightType::kQ8_0) return word(h ? r.high : r.low, w);
  if constexpr (F == WeightType::kQ2_K) return (word(r.low, h) >> (2 * w)) & 0x03030303u;
  if constexpr (F == WeightType::kQ3_K)
    return ((word(r.low, h) >> (2 * w)) & 0x03030303u) |
           (((r.high.x >> (2 * w + h)) & 0x01010101u) << 2);
  uint32_t nibbles = (word(r.low, w) >> (4 * h)) & 0x0f0f0f0fu;
  if constexpr (F == WeightType::kQ5_0 || F == WeightType::kQ5_1 || F == WeightType::kQ5_K)
    return nibbles | (((r.high.x >> (2 * w + h)) & 0x01010101u) << 4);
  if constexpr (F == WeightType::kQ6_K)
    return nibbles | (((word(r.high, h) >> (2 * w)) & 0x03030303u) << 4);
  return nibbles;
}

/// value = scale[h] * (q - zero) - minus[h]
struct Affine {
  float scale[2], minus[2];
  int zero;
};
template <WeightType F>
__device__ __forceinline__ Affine group_affine(const Group& r) {
  Affine a = {};
  if constexpr (F == WeightType::kQ4_0 || F == WeightType::kQ5_0 || F == WeightType::kQ8_0) {
    a.scale[0] = a.scale[1] = half_bits(r.scale);
    a.zero = F == WeightType::kQ4_0 ? 8 : F == WeightType::kQ5_0 ? 16 : 0;
  } else if constexpr (F == WeightType::kQ4_1 || F == WeightType::kQ5_1) {
    a.scale[0] = a.scale[1] = half_bits(r.scale);
    a.minus[0] = a.minus[1] = -half_bits(r.scale >> 16);
  } else if constexpr (F == WeightType::kQ4_K || F == WeightType::kQ5_K) {
    a.scale[0] = a.scale[1] = half_bits(r.super) * static_cast<float>(r.scale & 0xff);
    a.minus[0] = a.minus[1] = half_bits(r.super >> 16) * static_cast<float>((r.scale >> 8) & 0xff);
  } else if constexpr (F == WeightType::kQ2_K) {
    float d = half_bits(r.super), m = half_bits(r.super >> 16);
    a.scale[0] = d * static_cast<float>(r.scale & 15);
    a.minus[0] = m * static_cast<float>((r.scale >> 4) & 15);
    a.scale[1] = d * static_cast<float>((r.scale >> 8) & 15);
    a.minus[1] = m * static_cast<float>((r.scale >> 12) & 15);
  } else {  // Q3_K, Q6_K: two signed scales
    float d = half_bits(r.super);
    a.scale[0] = d * static_cast<float>(static_cast<int8_t>(r.scale & 0xff));
    a.scale[1] = d * static_cast<float>(static_cast<int8_t>((r.scale >> 8) & 0xff));
    a.zero = F == WeightType::kQ3_K ? 4 : 32;
  }
  return a;
}

/// Calls out(i, value) for the values of a group, exactly as the file defines them.
template <WeightType F, typename Out>
__device__ __forceinline__ void group_values(const Group& r, Out&& out) {
  if constexpr (F == WeightType::kF32) {
#pragma unroll
    for (int i = 0; i < 8; ++i) out(i, __uint_as_float(word(i < 4 ? r.low : r.high, i & 3)));
  } else if constexpr (F == WeightType::kF16 || F == WeightType::kBF16) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      uint32_t bits = word(r.low, i >> 1) >> (16 * (i & 1));
      out(i, F == WeightType::kF16 ? half_bits(bits) : __uint_as_float(bits << 16));
    }
  } else {
    Affine a = group_affine<F>(r);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        uint32_t q = quant_bytes<F>(r, h, w);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          int byte = F == WeightType::kQ8_0 ? static_cast<int8_t>(q >> (8 * j))
                                            : static_cast<int>((q >> (8 * j)) & 0xff);
          out(16 * h + 4 * w + j, a.scale[h] * static_cast<float>(byte - a.zero) - a.minus[h]);
        }
      }
    }
  }
}

/// What decode needs to know of 32 int8 activations besides the bytes: the scales of values 0-15
/// and 16-31, and their sums in the form that the weight type's formula takes.
struct ActivationScale {
  float d[2];  // kScaledSum of nibbles: the second one a sixteenth
  int sum;     // kSums16: int16 sums of the halves; kScaledSum: float bits of d[0] sum[0] + d[1]
               // sum[1]
  int unused;
};
enum class SumKind { kNone, kSums16, kScaledSum };
constexpr SumKind sum_kind(WeightType type) {
  switch (type) {
    case WeightType::kQ4_1:
    case WeightType::kQ5_1:
    case WeightType::kQ4_K:
    case WeightType::kQ5_K:
      return SumKind::kScaledSum;
    case WeightType::kQ4_0:
    case WeightType::kQ5_0:
    case WeightType::kQ2_K:
    case WeightType::kQ3_K:
    case WeightType::kQ6_K:
      return SumKind::kSums16;
    default:
      return SumKind::kNone;
  }
}

constexpr bool plain_nibbles(WeightType type) {
  return type == WeightType::kQ4_0 || type == WeightType::kQ4_1 || type == WeightType::kQ4_K;
}

/// Unsigned bytes of a (signed for Q8_0) times signed bytes of b.
template <WeightType F>
__device__ __forceinline__ int dot4(uint32_t a, int b, int c) {
  if constexpr (F == WeightType::kQ8_0) return __dp4a(static_cast<int>(a), b, c);
  int d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

/// acc + group * activations, of the sums of products with the activations' bytes (less `zero`
/// times the sum of these, where the type has one): exact integers in f. Explicit operations: the
/// same bits in every kernel that uses it.
template <WeightType F>
__device__ __forceinline__ float add_scaled(float acc, const Affine& a, const float (&f)[2],
                                            const ActivationScale& s) {
  constexpr SumKind kSums = sum_kind(F);
  if constexpr (kSums == SumKind::kSums16) {
    float p0 = __fmul_rn(a.scale[0], f[0]);
    float p1 = __fmul_rn(a.scale[1], f[1]);
    if constexpr (F == WeightType::kQ2_K) {
      p0 = __fmaf_rn(-a.minus[0], static_cast<float>(static_cast<int16_t>(s.sum & 0xffff)), p0);
      p1 = __fmaf_rn(-a.minus[1], static_cast<float>(s.sum >> 16), p1);
    }
    return __fmaf_rn(s.d[1], p1, __fmaf_rn(s.d[0], p0, acc));
  } else {
    const float total = __fmaf_rn(s.d[1], f[1], __fmul_rn(s.d[0], f[0]));
    acc = __fmaf_rn(a.scale[0], total, acc);
    if constexpr (kSums == SumKind::kScaledSum)
      acc = __fmaf_rn(-a.minus[0], __int_as_float(s.sum), acc);
    return acc;
  }
}

/// acc + group * activations (a0: values 0-15, a1: 16-31).
template <WeightType F>
__device__ __forceinline__ float add_group_dot(float acc, const Group& r, const int4& a0,
                                               const int4& a1, const ActivationScale& s) {
  const int x[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
  constexpr bool kPlainNibbles = plain_nibbles(F);
  int dot[2] = {0, 0};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (kPlainNibbles) {  // the high nibbles are left in place: 16 times their value
      dot[0] = dot4<F>(word(r.low, w) & 0x0f0f0f0fu, x[w], dot[0]);
      dot[1] = dot4<F>(word(r.low, w) & 0xf0f0f0f0u, x[4 + w], dot[1]);
    } else {
      dot[0] = dot4<F>(quant_bytes<F>(r, 0, w), x[w], dot[0]);
      dot[1] = dot4<F>(quant_bytes<F>(r, 1, w), x[4 + w], dot[1]);
    }
  }
  const Affine a = group_affine<F>(r);
  if constexpr (sum_kind(F) == SumKind::kSums16) {
    if constexpr (kPlainNibbles) dot[1] >>= 4;
    dot[0] -= a.zero * static_cast<int16_t>(s.sum & 0xffff);
    dot[1] -= a.zero * (s.sum >> 16);
  }
  const float f[2] = {static_cast<float>(dot[0]), static_cast<float>(dot[1])};
  return add_scaled<F>(acc, a, f, s);
}

/// Calls f.template operator()<F>() for the run-time type.
template <typename Fn>
__host__ __device__ __forceinline__ void with_type(WeightType type, Fn&& f) {
  switch (type) {
    case WeightType::kF32:
      f.template operator()<WeightType::kF32>();
      break;
    case WeightType::kF16:
      f.template operator()<WeightType::kF16>();
      break;
    case WeightType::kBF16:
      f.template operator()<WeightType::kBF16>();
      break;
    case WeightType::kQ4_0:
      f.template operator()<WeightType::kQ4_0>();
      break;
    case WeightType::kQ4_1:
      f.template operator()<WeightType::kQ4_1>();
      break;
    case WeightType::kQ5_0:
      f.template operator()<WeightType::kQ5_0>();
      break;
    case WeightType::kQ5_1:
      f.template operator()<WeightType::kQ5_1>();
      break;
    case WeightType::kQ8_0:
      f.template operator()<WeightType::kQ8_0>();
      break;
    case WeightType::kQ2_K:
      f.template operator()<WeightType::kQ2_K>();
      break;
    case WeightType::kQ3_K:
      f.template operator()<WeightType::kQ3_K>();
      break;
    case WeightType::kQ4_K:
      f.template operator()<WeightType::kQ4_K>();
      break;
    case WeightType::kQ5_K:
      f.template operator()<WeightType::kQ5_K>();
      break;
    case WeightType::kQ6_K:
      f.template operator()<WeightType::kQ6_K>();
      break;
  }
}

}  // namespace apud::cuda
