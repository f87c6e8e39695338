// The matvec kernel of float weights. Weights stream from memory once, in 16-byte loads that are
// already in flight when the stage waits for the one before it; activations sit in shared memory.
#pragma once

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/matvec.h"
#include "kernels/cuda/unpack.cuh"

namespace apud::cuda {

inline constexpr int kMatvecThreads = 512;
inline constexpr int kMatvecWarps = kMatvecThreads / 32;

/// Shared memory of one column: planes of 16 bytes a group.
__host__ __device__ inline size_t matvec_column_bytes(int groups) { return size_t{32} * groups; }
/// Sums of a block, or of squares by (column, warp); then sums of split rows.
inline constexpr int kMatvecSums = 8 * kMatvecWarps;
inline constexpr size_t kMatvecScratch = (kMatvecSums + 2 * kMatvecWarps * 16) * sizeof(float);

__device__ __forceinline__ float4 load4(const float* x, int c, int cols) {
  if (4 * c + 3 < cols) return ld_stream4(x + 4 * c);
  float4 v = make_float4(0, 0, 0, 0);
  if (4 * c < cols) v.x = ld_stream(x + 4 * c);
  if (4 * c + 1 < cols) v.y = ld_stream(x + 4 * c + 1);
  if (4 * c + 2 < cols) v.z = ld_stream(x + 4 * c + 2);
  return v;
}

/// Writes values 4c .. 4c+3 of a column to shared memory.
__device__ __forceinline__ void put_activation(uint8_t* column, int groups, int c, int count,
                                               const float4& v) {
  if (c < count) reinterpret_cast<float4*>(column)[(c & 1) * groups + (c >> 1)] = v;
}

__device__ __forceinline__ float sum_of_squares(const float4& v) {
  return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
}
__device__ __forceinline__ float4 times(const float4& v, const float4& weight, float offset) {
  return make_float4(v.x * (weight.x + offset), v.y * (weight.y + offset),
                     v.z * (weight.z + offset), v.w * (weight.w + offset));
}
__device__ __forceinline__ float4 apply_norm(const float4& v, const float4& weight, float factor,
                                             float offset) {
  return make_float4(v.x * factor * (weight.x + offset), v.y * factor * (weight.y + offset),
                     v.z * factor * (weight.z + offset), v.w * factor * (weight.w + offset));
}

/// Norm weights are constants of the model: the first ones are read before the dependency wait.
inline constexpr int kNormAhead = 2;
struct NormAhead {
  float4 weight[kNormAhead];
};
__device__ __forceinline__ NormAhead load_norm_ahead(const MatvecStage& p) {
  NormAhead n = {};
  if (p.norm_weight) {
#pragma unroll
    for (int i = 0; i < kNormAhead; ++i) {
      int c = threadIdx.x + i * kMatvecThreads;
      if (4 * c + 3 < p.cols) n.weight[i] = *reinterpret_cast<const float4*>(p.norm_weight + 4 * c);
    }
  }
  return n;
}

/// Rows of any width, element by element at the end.
inline __device__ __noinline__ void ragged_prologue(const MatvecStage& p, int groups,
                                                    uint8_t* columns, size_t column_bytes,
                                                    float* scratch) {
  const int count = 2 * groups;  // float4s of a column
  for (int m = 0; m < p.columns; ++m) {
    const float* x = p.x + m * p.x_ld;
    float factor = 1;
    if (p.norm_weight) {
      float ss = 0;
      for (int c = threadIdx.x; c < count; c += kMatvecThreads)
        ss += sum_of_squares(load4(x, c, p.cols));
      ss = block_sum(ss, scratch);
      factor = rsqrtf(ss / static_cast<float>(p.cols) + p.norm_eps);
    }
    for (int start = 0; start < count; start += kMatvecThreads) {
      int c = start + threadIdx.x;
      float4 v = load4(x, c, p.cols);
      if (p.norm_weight) v = apply_norm(v, load4(p.norm_weight, c, p.cols), factor, p.norm_offset);
      put_activation(columns + m * column_bytes, groups, c, count, v);
    }
  }
  __syncthreads();
}

/// Columns to shared memory, times the norm's weights. Returns 1 / rms of column `lane`, which the
/// results are still to be multiplied with: so nothing waits for the sum of squares.
__device__ __forceinline__ float matvec_prologue(const MatvecStage& p, const NormAhead& ahead,
                                                 int groups, uint8_t* columns, size_t column_bytes,
                                                 float* scratch) {
  const int count = 2 * groups, lane = threadIdx.x & 31;
  if (p.cols & 7) {
    ragged_prologue(p, groups, columns, column_bytes, scratch);
    return 1;
  }
  for (int m = 0; m < p.columns; ++m) {
    const float* x = p.x + m * p.x_ld;
    uint8_t* column = columns + m * column_bytes;
    float squares = 0;
    float4 v[kNormAhead];
#pragma unroll
    for (int i = 0; i < kNormAhead; ++i) {
      int c = threadIdx.x + i * kMatvecThreads;
      v[i] = make_float4(0, 0, 0, 0);
      if (c < count) v[i] = ld_stream4(x + 4 * c);
    }
#pragma unroll
    for (int i = 0; i < kNormAhead; ++i) {
      if (i * kMatvecThreads < count) {
        if (p.norm_weight) {
          squares += sum_of_squares(v[i]);
          v[i] = times(v[i], ahead.weight[i], p.norm_offset);
        }
        put_activation(column, groups, threadIdx.x + i * kMatvecThreads, count, v[i]);
      }
    }
    // Wider rows: two loads in flight a thread.
    for (int start = kNormAhead * kMatvecThreads; start < count; start += 2 * kMatvecThreads) {
      float4 w[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        int c = start + i * kMatvecThreads + threadIdx.x;
        w[i] = make_float4(0, 0, 0, 0);
        if (c < count) {
          w[i] = ld_stream4(x + 4 * c);
          if (p.norm_weight) {
            squares += sum_of_squares(w[i]);
            w[i] =
                times(w[i], *reinterpret_cast<const float4*>(p.norm_weight + 4 * c), p.norm_offset);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (start + i * kMatvecThreads < count)
          put_activation(column, groups, start + i * kMatvecThreads + threadIdx.x, count, w[i]);
    }
    if (p.norm_weight) {
      squares = warp_sum(squares);
      if (lane == 0) scratch[m * kMatvecWarps + (threadIdx.x >> 5)] = squares;
    }
  }
  __syncthreads();
  if (!p.norm_weight || lane >= p.columns) return 1;
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kMatvecWarps; ++k) sum += scratch[lane * kMatvecWarps + k];
  return rsqrtf(sum / static_cast<float>(p.cols) + p.norm_eps);
}

template <WeightType F, int NC>
__device__ __forceinline__ void accumulate_group(const Group& r, const uint8_t* columns,
                                                 size_t column_bytes, int count, int groups, int g,
                                                 float (&acc)[NC]) {
#pragma unroll
  for (int m = 0; m < NC; ++m) {
    // Columns beyond `count` repeat the first; their sums are dropped.
    const uint8_t* column = columns + (m < count ? m : 0) * column_bytes;
    float4 a = reinterpret_cast<const float4*>(column)[g];
    float4 b = reinterpret_cast<const float4*>(column)[groups + g];
    const float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    float sum = acc[m];
    group_values<F>(r, [&](int i, float w) { sum = __fmaf_rn(w, x[i], sum); });
    acc[m] = sum;
  }
}

template <WeightType F, int NC, int R>
__device__ __forceinline__ void matvec_body(const MatvecStage& p, const MatvecSegment& s, int cta,
                                            uint8_t* shared) {
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
#pragma unroll
  for (int r = 0; r < R; ++r) base[r] += size_t{shape.stride} * load_row;
  const size_t row_jump = size_t{shape.stride} * teams;
  Group ring[kDepth][R];
  // Lanes beyond the row's end load its last group and do not use it.
  auto load = [&](Group(&slot)[R]) {
    if (load_row < rows) {
      int g = min(load_step * 32 + lane, groups - 1);
#pragma unroll
      for (int r = 0; r < R; ++r) slot[r] = load_group<F>(base[r], shape, g);
    }
    load_step += split;
    if (load_step >= steps) {
      load_step = part;
      load_row += teams;
#pragma unroll
      for (int r = 0; r < R; ++r) base[r] += row_jump;
    }
  };
#pragma unroll
  for (int i = 0; i < kDepth; ++i) load(ring[i]);

  const NormAhead ahead = load_norm_ahead(p);
  grid_dependency_wait();
  float* scratch = reinterpret_cast<float*>(shared);
  uint8_t* columns = shared + kMatvecScratch;
  const size_t column_bytes = matvec_column_bytes(groups);
  // What a row's end needs is asked for at its beginning, by the lane of the column.
  float bias = 0, pair_bias = 0, residual = 0;
  auto begin_row = [&] {
    if (part != 0 || lane >= p.columns || row >= rows) return;
    if (p.accumulate) residual = ld_stream(s.out + lane * s.out_ld + row);
    if (s.bias) bias = s.bias[row];
    if (R == 2 && s.pair_bias) pair_bias = s.pair_bias[row];
  };
  begin_row();
  const float factor = matvec_prologue(p, ahead, groups, columns, column_bytes, scratch);
  float* partial = scratch + kMatvecSums;

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
      __syncwarp();
      asm volatile("barrier.sync %0, %1;" ::"r"(1 + team), "r"(32 * split) : "memory");
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
          float v = __fmaf_rn(acc[0][m], factor, bias);
          if constexpr (R == 2)
            v = activate(p.activation, v) * __fmaf_rn(acc[1][m], factor, pair_bias);
          s.out[m * s.out_ld + row] = v + residual;
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
            accumulate_group<F, NC>(ring[i][r], columns, column_bytes, p.columns, groups, g,
                                    acc[r]);
        }
        load(ring[i]);
        step += split;
        if (step >= steps) {
          finish_row();
          step = part;
          row += teams;
          begin_row();
        }
      }
    }
  }
}

/// PRECOND: kMatvecThreads threads; columns <= NC; dynamic shared memory of kMatvecScratch plus
/// columns * matvec_column_bytes; k_split in {1, 2, 4, 8} and at most the steps.
template <WeightType F, int NC, int R>
__global__ void __launch_bounds__(kMatvecThreads, NC == 1 ? 2 : 1)
    matvec_kernel(const __grid_constant__ MatvecStage p) {
  extern __shared__ __align__(16) uint8_t shared[];
  grid_dependency_trigger();
  int index = 0;
  while (index + 1 < p.segments && static_cast<int>(blockIdx.x) >= p.segment[index + 1].first_cta)
    ++index;
  const MatvecSegment& s = p.segment[index];
  matvec_body<F, NC, R>(p, s, static_cast<int>(blockIdx.x) - s.first_cta, shared);
}

using MatvecKernel = void (*)(const MatvecStage);
template <int NC>
MatvecKernel matvec_kernel_for(WeightType type, bool paired) {
  MatvecKernel found = nullptr;
  with_type(type, [&]<WeightType F>() {
    if constexpr (is_float_type(F))
      found = paired ? matvec_kernel<F, NC, 2> : matvec_kernel<F, NC, 1>;
  });
  return found;
}
extern template MatvecKernel matvec_kernel_for<1>(WeightType, bool);
extern template MatvecKernel matvec_kernel_for<2>(WeightType, bool);
extern template MatvecKernel matvec_kernel_for<4>(WeightType, bool);
extern template MatvecKernel matvec_kernel_for<8>(WeightType, bool);

}  // namespace apud::cuda
