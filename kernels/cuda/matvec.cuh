// The matvec kernel. Weights stream from memory once, in 16-byte loads that are already in flight when
// the stage waits for the one before it; activations sit in shared memory as int8 with a scale per 32
// (quantised weights) or as floats (float weights).
#pragma once

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/matvec.h"
#include "kernels/cuda/unpack.cuh"

namespace apud::cuda {

inline constexpr int kMatvecThreads = 512;
inline constexpr int kMatvecWarps = kMatvecThreads / 32;

/// Scale and sums of 32 int8 activations.
struct ActivationScale {
  float d;
  int16_t sum0, sum1;  // of values 0-15 and 16-31
};

/// Shared memory of one column: planes of 16 bytes a group, then scales.
__host__ __device__ inline size_t matvec_column_bytes(WeightType type, int groups) {
  return is_float_type(type) ? size_t{32} * groups : size_t{40} * groups;
}
inline constexpr size_t kMatvecScratch = (40 + 2 * kMatvecWarps * 16) * sizeof(float);

__device__ __forceinline__ float4 load4(const float* x, int c, int cols) {
  if (4 * c + 3 < cols) return ld_stream4(x + 4 * c);
  float4 v = make_float4(0, 0, 0, 0);
  if (4 * c < cols) v.x = ld_stream(x + 4 * c);
  if (4 * c + 1 < cols) v.y = ld_stream(x + 4 * c + 1);
  if (4 * c + 2 < cols) v.z = ld_stream(x + 4 * c + 2);
  return v;
}

/// Writes values 4c .. 4c+3 of a column to shared memory. Every lane of the warp calls it.
template <bool kFloat>
__device__ __forceinline__ void put_activation(uint8_t* column, int groups, int c, int count,
                                               const float4& v) {
  if constexpr (kFloat) {
    if (c < count) reinterpret_cast<float4*>(column)[(c & 1) * groups + (c >> 1)] = v;
  } else {
    // 8 lanes hold one group of 32.
    float m = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
#pragma unroll
    for (int i = 4; i > 0; i >>= 1) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, i));
    float d = __fmul_rn(m, 1.f / 127.f);
    float inverse = m > 0 ? __fdividef(127.f, m) : 0.f;
    int q0 = __float2int_rn(v.x * inverse), q1 = __float2int_rn(v.y * inverse);
    int q2 = __float2int_rn(v.z * inverse), q3 = __float2int_rn(v.w * inverse);
    int sum = q0 + q1 + q2 + q3;
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    int other = __shfl_xor_sync(0xffffffffu, sum, 4);
    if (c >= count) return;
    int g = c >> 3, in = c & 7;
    uint32_t bytes = (q0 & 255) | ((q1 & 255) << 8) | ((q2 & 255) << 16) | (uint32_t(q3 & 255) << 24);
    *reinterpret_cast<uint32_t*>(column + ((in >> 2) * groups + g) * 16 + (in & 3) * 4) = bytes;
    if (in == 0)
      reinterpret_cast<ActivationScale*>(column + size_t{32} * groups)[g] = {
          d, static_cast<int16_t>(sum), static_cast<int16_t>(other)};
  }
}

template <bool kFloat>
__device__ void matvec_prologue(const MatvecStage& p, int groups, uint8_t* columns,
                                size_t column_bytes, float* scratch) {
  const int count = kFloat ? 2 * groups : 8 * groups;  // float4s of a column
  constexpr int kKeep = 4;                             // held in registers up to 8192 values
  for (int m = 0; m < p.columns; ++m) {
    const float* x = p.x + m * p.x_ld;
    uint8_t* column = columns + m * column_bytes;
    float4 v[kKeep];
#pragma unroll
    for (int i = 0; i < kKeep; ++i) v[i] = load4(x, threadIdx.x + i * kMatvecThreads, p.cols);
    float factor = 1;
    if (p.norm_weight) {
      float ss = 0;
#pragma unroll
      for (int i = 0; i < kKeep; ++i)
        ss += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
      for (int c = threadIdx.x + kKeep * kMatvecThreads; c < count; c += kMatvecThreads) {
        float4 w = load4(x, c, p.cols);
        ss += w.x * w.x + w.y * w.y + w.z * w.z + w.w * w.w;
      }
      ss = block_sum(ss, scratch);
      factor = rsqrtf(ss / static_cast<float>(p.cols) + p.norm_eps);
    }
    auto normed = [&](float4 w, int c) {
      if (p.norm_weight) {
        const float* nw = p.norm_weight;
        float o = p.norm_offset;
        if (4 * c + 3 < p.cols) {
          float4 n = *reinterpret_cast<const float4*>(nw + 4 * c);
          w.x *= factor * (n.x + o);
          w.y *= factor * (n.y + o);
          w.z *= factor * (n.z + o);
          w.w *= factor * (n.w + o);
        } else {
          if (4 * c < p.cols) w.x *= factor * (nw[4 * c] + o);
          if (4 * c + 1 < p.cols) w.y *= factor * (nw[4 * c + 1] + o);
          if (4 * c + 2 < p.cols) w.z *= factor * (nw[4 * c + 2] + o);
        }
      }
      return w;
    };
#pragma unroll
    for (int i = 0; i < kKeep; ++i) {
      int c = threadIdx.x + i * kMatvecThreads;
      if (i * kMatvecThreads < count) put_activation<kFloat>(column, groups, c, count, normed(v[i], c));
    }
    for (int start = kKeep * kMatvecThreads; start < count; start += kMatvecThreads) {
      int c = start + threadIdx.x;
      put_activation<kFloat>(column, groups, c, count, normed(load4(x, c, p.cols), c));
    }
  }
  __syncthreads();
}

template <WeightType F, int NC>
__device__ __forceinline__ void accumulate_group(const Group& r, const uint8_t* columns,
                                                 size_t column_bytes, int groups, int g,
                                                 float (&acc)[NC]) {
#pragma unroll
  for (int m = 0; m < NC; ++m) {
    const uint8_t* column = columns + m * column_bytes;
    if constexpr (is_float_type(F)) {
      float4 a = reinterpret_cast<const float4*>(column)[g];
      float4 b = reinterpret_cast<const float4*>(column)[groups + g];
      const float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
      float sum = acc[m];
      group_values<F>(r, [&](int i, float w) { sum = __fmaf_rn(w, x[i], sum); });
      acc[m] = sum;
    } else {
      int4 a0 = reinterpret_cast<const int4*>(column)[g];
      int4 a1 = reinterpret_cast<const int4*>(column)[groups + g];
      ActivationScale s = reinterpret_cast<const ActivationScale*>(column + size_t{32} * groups)[g];
      acc[m] = __fmaf_rn(s.d, group_dot<F>(r, a0, a1, s.sum0, s.sum1), acc[m]);
    }
  }
}

template <WeightType F, int NC, int R>
__device__ __forceinline__ void matvec_body(const MatvecStage& p, const MatvecSegment& s, int cta, uint8_t* shared) {
  // R rows at a time: 1, or the gate row and the up row of a pair.
  // Loads in flight: about 64 bytes a lane, as many as the registers hold.
  constexpr int kHigh = plane_bytes(F).high;
  constexpr int kWide = kHigh == 16 ? 2 : kHigh > 0 ? 3 : 4;
  constexpr int kDepth = R == 1 && NC == 1 ? kWide : kHigh == 16 || NC > 4 ? 1 : 2;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int split = p.k_split, part = warp % split, team = warp / split;
  const int teams = s.ctas * (kMatvecWarps / split);
  const PackedShape shape = s.weight.shape;
  const int groups = shape.groups, steps = (groups + 31) >> 5, rows = s.weight.rows;
  const uint8_t* base[R];
  base[0] = s.weight.data;
  if constexpr (R == 2) base[1] = s.pair;

  int load_row = cta * (kMatvecWarps / split) + team, load_step = part;
  int row = load_row, step = part;
  Group ring[kDepth][R];
  auto load = [&](Group (&slot)[R]) {
    int g = load_step * 32 + lane;
    bool inside = load_row < rows && g < groups;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      slot[r] = {};
      if (inside) slot[r] = load_group<F>(base[r] + size_t{shape.stride} * load_row, shape, g);
    }
    load_step += split;
    if (load_step >= steps) {
      load_step = part;
      load_row += teams;
    }
  };
#pragma unroll
  for (int i = 0; i < kDepth; ++i) load(ring[i]);

  grid_dependency_wait();
  float* scratch = reinterpret_cast<float*>(shared);
  uint8_t* columns = shared + kMatvecScratch;
  const size_t column_bytes = matvec_column_bytes(F, groups);
  matvec_prologue<is_float_type(F)>(p, groups, columns, column_bytes, scratch);
  float* partial = scratch + 40;

  float acc[R][NC];
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int m = 0; m < NC; ++m) acc[r][m] = 0;
  int parity = 0;

  auto finish_row = [&]() {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int m = 0; m < NC; ++m) acc[r][m] = warp_sum(acc[r][m]);
    if (split > 1) {
      float* mine = partial + parity * (kMatvecWarps * 16);
      parity ^= 1;
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int m = 0; m < NC; ++m)
          if (lane == 0) mine[warp * 16 + r * NC + m] = acc[r][m];
      asm volatile("bar.sync %0, %1;" ::"r"(1 + team), "r"(32 * split) : "memory");
      if (part == 0) {
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
          for (int m = 0; m < NC; ++m)
            for (int k = 1; k < split; ++k)
              acc[r][m] = __fadd_rn(acc[r][m], mine[(warp + k) * 16 + r * NC + m]);
      }
    }
    if (part == 0) {
#pragma unroll
      for (int m = 0; m < NC; ++m) {
        if (lane == m && m < p.columns) {
          float v = acc[0][m] + (s.bias ? s.bias[row] : 0.f);
          if constexpr (R == 2)
            v = activate(p.activation, v) * (acc[1][m] + (s.pair_bias ? s.pair_bias[row] : 0.f));
          float* out = s.out + m * s.out_ld + row;
          if (p.accumulate) v += ld_stream(out);
          *out = v;
        }
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int m = 0; m < NC; ++m) acc[r][m] = 0;
  };

  while (row < rows) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      if (row < rows) {
        int g = step * 32 + lane;
        if (g < groups) {
#pragma unroll
          for (int r = 0; r < R; ++r)
            accumulate_group<F, NC>(ring[i][r], columns, column_bytes, groups, g, acc[r]);
        }
        load(ring[i]);
        step += split;
        if (step >= steps) {
          finish_row();
          step = part;
          row += teams;
        }
      }
    }
  }
}

/// Segments of type A or B; one kernel per type, because a switch over all types inside a kernel
/// spilled registers. PRECOND: kMatvecThreads threads; columns <= NC; dynamic shared memory of
/// kMatvecScratch plus columns * matvec_column_bytes; k_split in {1, 2, 4, 8} and at most the steps.
template <WeightType A, WeightType B, int NC, int R>
__global__ void __launch_bounds__(kMatvecThreads, NC == 1 ? 2 : 1)
    matvec_kernel(const __grid_constant__ MatvecStage p) {
  extern __shared__ __align__(16) uint8_t shared[];
  grid_dependency_trigger();
  int index = 0;
  while (index + 1 < p.segments && static_cast<int>(blockIdx.x) >= p.segment[index + 1].first_cta)
    ++index;
  const MatvecSegment& s = p.segment[index];
  int cta = static_cast<int>(blockIdx.x) - s.first_cta;
  if (A == B || s.weight.type == A) {
    matvec_body<A, NC, R>(p, s, cta, shared);
  } else {
    matvec_body<B, NC, R>(p, s, cta, shared);
  }
}

using MatvecKernel = void (*)(const MatvecStage);
/// The kernel for a pair of types, or null where that pair is not compiled.
template <int NC>
MatvecKernel matvec_kernel_for(WeightType a, WeightType b, bool paired) {
  MatvecKernel found = nullptr;
  if (a == b) {
    with_type(a, [&]<WeightType F>() {
      found = paired ? matvec_kernel<F, F, NC, 2> : matvec_kernel<F, F, NC, 1>;
    });
  } else if constexpr (NC == 1) {  // the mixes of Q4_K_M, Q5_K_M, Q3_K_M and their 32-block kin
    using enum WeightType;
    if (paired) return nullptr;
    if (a == kQ4_K && b == kQ6_K) found = matvec_kernel<kQ4_K, kQ6_K, NC, 1>;
    if (a == kQ5_K && b == kQ6_K) found = matvec_kernel<kQ5_K, kQ6_K, NC, 1>;
    if (a == kQ3_K && b == kQ5_K) found = matvec_kernel<kQ3_K, kQ5_K, NC, 1>;
    if (a == kQ5_0 && b == kQ8_0) found = matvec_kernel<kQ5_0, kQ8_0, NC, 1>;
  }
  return found;
}
extern template MatvecKernel matvec_kernel_for<1>(WeightType, WeightType, bool);
extern template MatvecKernel matvec_kernel_for<2>(WeightType, WeightType, bool);
extern template MatvecKernel matvec_kernel_for<4>(WeightType, WeightType, bool);
extern template MatvecKernel matvec_kernel_for<8>(WeightType, WeightType, bool);

}  // namespace apud::cuda
