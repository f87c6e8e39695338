// What the kernels of decode attention share: how a row's tokens are cut into runs, the block's
// queries and new token, a unit's softmax, the merge of a block's warps and that of runs.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/quant_rows.cuh"
#include "kernels/cuda/rope.cuh"

namespace apud::cuda {
namespace decode {

inline constexpr int kUnit = kDecodeUnit;  // what a warp takes at a time
inline constexpr int kUnitsOfPage = kKvPageTokens / kUnit;
inline constexpr int kHeads = 8;  // query heads of a block
inline constexpr int kMostRuns = 64;
inline constexpr int kLeastUnits = 8;  // of a run: below this the merge costs more than it hides
inline constexpr float kLog2e = 1.4426950408889634f;

struct DecodeParams {
  const float* q;
  const float* k;
  const float* v;
  float* out;
  int64_t q_ld, k_ld, v_ld, out_ld;
  int heads, kv_heads, dim, window;
  int gqa, query_tiles;  // query heads of a KV head; blocks that they take
  float scale, softcap;
  KvView kv;
  BatchView batch;
  DecodeRuns runs;
  int runs_each;  // of a block that is in no cluster
  bool fused;
  HeadRotation rotation;
  const float* q_norm;
  const float* k_norm;
  DecodeScratch scratch;
  QuantRows quantised;
};

/// 2^x for x <= 0; what would be denormal is 0.
__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// n / d rounded down, n below 2^22: a third of the instructions of a division.
__device__ __forceinline__ int small_quotient(int n, int d) {
  const int q = __float2int_rz(__fdividef(static_cast<float>(n), static_cast<float>(d)));
  const int left = n - q * d;
  return q + (left >= d) - (left < 0);
}

/// How a row's tokens are cut: into `active` runs of units from `begin` on that differ by one unit
/// at most. Depends on the row alone.
struct RowRuns {
  int from_token, begin, end, active;
  __device__ __forceinline__ int first(int run) const {
    return begin + small_quotient((end - begin) * run, active);
  }
};
__device__ __forceinline__ RowRuns runs_of(const DecodeRuns& runs, int position, int window) {
  RowRuns r;
  r.from_token = window > 0 ? max(0, position + 1 - window) : 0;
  r.begin = r.from_token / kUnit;
  r.end = position / kUnit + 1;
  const int units = r.end - r.begin;
  r.active = min(units <= runs.short_units ? runs.few : runs.many,
                 (units + kLeastUnits - 1) / kLeastUnits);
  return r;
}

/// What a block works on: query heads of a KV head, of one row.
struct BlockPlace {
  int row, kv_head, query_tile, first_head, tile_heads;
};
__device__ __forceinline__ BlockPlace place_of(const DecodeParams& p) {
  BlockPlace b;
  b.row = blockIdx.z;
  b.kv_head = p.query_tiles == 1 ? blockIdx.y : blockIdx.y / p.query_tiles;
  b.query_tile = static_cast<int>(blockIdx.y) - b.kv_head * p.query_tiles;
  b.first_head = b.kv_head * p.gqa + b.query_tile * kHeads;
  b.tile_heads = min(kHeads, p.gqa - b.query_tile * kHeads);
  return b;
}

/// The transpose of an 8x8 matrix of 16-bit values spread over the warp.
__device__ __forceinline__ uint32_t transposed8x8(uint32_t rows) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(rows));
  return out;
}
/// An output of a head from `count` runs, at most kMost, added in order: their states (maximum and
/// sum), one a lane, and values. A whole warp calls it, for outputs of one head; kMost changes no
/// bit.
template <int kMost, typename State, typename Value>
__device__ __forceinline__ float merge_runs(int count, State&& state, Value&& value_of) {
  constexpr int kLanes = kMost < 32 ? kMost : 32, kEach = kMost / kLanes;
  static_assert(kEach * kLanes == kMost && (kLanes & (kLanes - 1)) == 0);
  const int lane = threadIdx.x & (kLanes - 1);
  float v[kLanes];
  auto ask = [&](int first) {
#pragma unroll
    for (int k = 0; k < kLanes; ++k) v[k] = first + k < count ? value_of(first + k) : 0.f;
  };
  ask(0);
  float2 s[kEach];
  float top = -INFINITY;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int run = e * kLanes + lane;
    s[e] = run < count ? state(run) : make_float2(-INFINITY, 0);
    top = fmaxf(top, s[e].x);
  }
#pragma unroll
  for (int k = kLanes / 2; k > 0; k >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, k));
  if (top == -INFINITY) return 0;
  float sum = 0, value = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    s[e].x = exp2_of(s[e].x - top);
    sum = __fmaf_rn(s[e].x, s[e].y, sum);
  }
#pragma unroll
  for (int k = kLanes / 2; k > 0; k >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, k);
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    if (e > 0) ask(e * kLanes);
#pragma unroll
    for (int k = 0; k < kLanes; ++k)
      value = __fmaf_rn(__shfl_sync(0xffffffffu, s[e].x, k), v[k], value);
  }
  return sum > 0 ? __fdividef(value, sum) : 0.f;
}

/// Writes 32 outputs (d = first + lane) of a head, and as the next product reads them.
__device__ __forceinline__ void store_outputs(const DecodeParams& p, int row, int head, int first,
                                              float value) {
  const int d = first + (threadIdx.x & 31);
  if (first >= p.dim) return;
  if (d < p.dim) p.out[row * p.out_ld + int64_t{head} * p.dim + d] = value;
  if (p.quantised.data)
    store_group(p.quantised, row, (head * p.dim + first) / 32, value, value * value);
}

/// Whether the heads rotate as rotate_whole does it; else each warp has D floats of shared memory.
template <int D>
__host__ __device__ __forceinline__ bool rotates_whole(const DecodeParams& p) {
  return D % 64 == 0 && p.dim == D && 2 * p.rotation.pairs == D;
}
template <int D>
size_t rotation_bytes(const DecodeParams& p, int warps) {
  return p.fused && !rotates_whole<D>(p) ? size_t{D} * warps * 4 : 0;
}
/// Norm and rotation of a head of which lane i has values i, i + 32, ...: pairs are half a head
/// apart, in one lane. PRECOND: D % 64 == 0, all of the head rotates.
template <int D>
__device__ __forceinline__ void rotate_whole(float (&head)[(D + 31) / 32], const float* norm,
                                             const HeadRotation& r, const float2* angles) {
  constexpr int kValues = D / 32;
  const int lane = threadIdx.x & 31;
  if (norm) {
    float ss = 0;
#pragma unroll
    for (int j = 0; j < kValues; ++j) ss += head[j] * head[j];
    const float factor = rsqrtf(warp_sum(ss) / static_cast<float>(D) + r.norm_eps);
#pragma unroll
    for (int j = 0; j < kValues; ++j) head[j] *= factor * (norm[j * 32 + lane] + r.norm_offset);
  }
#pragma unroll
  for (int j = 0; j < kValues / 2; ++j) {
    const float2 c = angles[j * 32 + lane];
    const float a = head[j], b = head[j + kValues / 2];
    head[j] = a * c.x - b * c.y;
    head[j + kValues / 2] = b * c.x + a * c.y;
  }
}
/// The same of any head, through `scratch`, D floats of the warp's own.
template <int D>
__device__ __forceinline__ void rotate_any(float (&head)[(D + 31) / 32], int dim, const float* norm,
                                           const HeadRotation& r, const float2* angles,
                                           float* scratch) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int j = 0; j < (D + 31) / 32; ++j)
    if (j * 32 + lane < dim) scratch[j * 32 + lane] = head[j];
  __syncwarp();
  rotate_head(scratch, dim, norm, r, [&](int i) { return angles[i]; });
#pragma unroll
  for (int j = 0; j < (D + 31) / 32; ++j)
    if (j * 32 + lane < dim) head[j] = scratch[j * 32 + lane];
  __syncwarp();
}

/// The block's queries, normed and rotated, to q_shared (kHeads, D+8), and with has_fresh the new
/// token's k and v to `fresh` (2, D) and their page. `scratch`: see rotation_bytes. Rows of the
/// tile beyond the heads hold anything: rows do not mix. No barrier at the end.
template <int D, typename H, bool kI8, int kWarps>
__device__ __forceinline__ void fetch_queries(const DecodeParams& p, const BlockPlace& at,
                                              int position, const int32_t* pages, bool has_fresh,
                                              H* q_shared, float* fresh, float* scratch,
                                              const float2* angles) {
  constexpr int kLd = D + 8;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, dim = p.dim;
  // What two items need is asked for at once.
  const int items = at.tile_heads + (has_fresh ? 2 : 0);
  constexpr int kAhead = 2, kValues = (D + 31) / 32;
#pragma unroll 1
  for (int first = warp; first < items; first += kAhead * kWarps) {
    float values[kAhead][kValues];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int item = first + k * kWarps, which = item - at.tile_heads;  // < 0: q; 0: k; 1: v
      const float* from = which < 0 ? p.q + at.row * p.q_ld + int64_t{at.first_head + item} * dim
                                    : (which == 0 ? p.k + at.row * p.k_ld : p.v + at.row * p.v_ld) +
                                          int64_t{at.kv_head} * dim;
#pragma unroll
      for (int j = 0; j < kValues; ++j)
        values[k][j] = item < items && j * 32 + lane < dim ? ld_stream(from + j * 32 + lane) : 0.f;
    }
    // Not unrolled, here and in what is called: instructions that run once come from far.
#pragma unroll 1
    for (int item = first; item < min(items, first + kAhead * kWarps); item += kWarps) {
      const int which = item - at.tile_heads;
      float head[kValues];
#pragma unroll
      for (int j = 0; j < kValues; ++j) {
        head[j] = values[0][j];
        values[0][j] = values[1][j];
      }
      if (p.fused && which <= 0) {
        const float* norm = which < 0 ? p.q_norm : p.k_norm;
        if (rotates_whole<D>(p))
          rotate_whole<D>(head, norm, p.rotation, angles);
        else
          rotate_any<D>(head, dim, norm, p.rotation, angles, scratch);
      }
      if (which < 0) {
#pragma unroll
        for (int j = 0; j < kValues; ++j)
          q_shared[item * kLd + j * 32 + lane] = to_h16<H>(j * 32 + lane < dim ? head[j] : 0.f);
      } else {
        float* mine = fresh + which * D;
#pragma unroll
        for (int j = 0; j < kValues; ++j)
          if (j * 32 + lane < dim) mine[j * 32 + lane] = head[j];
        __syncwarp();
        uint8_t* block = p.kv.base + pages[position / kKvPageTokens] * p.kv.page_bytes +
                         at.kv_head * p.kv.head_bytes + which * p.kv.v_offset;
        if (at.query_tile == 0) {
          constexpr KvType kType = kI8                         ? KvType::kI8
                                   : std::is_same_v<H, __half> ? KvType::kF16
                                                               : KvType::kBF16;
          store_kv_row(block, kType, dim, position % kKvPageTokens, mine);
        } else if (kI8) {  // the same rounding as the block that stores
          float m = 0;
#pragma unroll 1
          for (int i = lane; i < dim; i += 32) m = fmaxf(m, fabsf(mine[i]));
          m = warp_max(m);
#pragma unroll 1
          for (int i = lane; i < dim; i += 32)
            mine[i] = static_cast<float>(__float2int_rn(mine[i] * (m > 0 ? 127.f / m : 0.f))) *
                      (m / 127.f);
          __syncwarp();
        }
      }
      __syncwarp();
    }
  }
}

/// fetch_queries' block as the second factor of the products with K.
template <int D, typename H>
__device__ __forceinline__ void load_queries(uint32_t (&fragments)[D / 16][2], const H* q_shared) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int kk = 0; kk < D / 16; kk += 2) {
    uint32_t b[4];
    load_matrix4(b, q_shared + (lane & 7) * (D + 8) + kk * 16 + (lane >> 3) * 8);
    fragments[kk][0] = b[0];
    fragments[kk][1] = b[1];
    fragments[kk + 1][0] = b[2];
    fragments[kk + 1][1] = b[3];
  }
}

/// What a warp has of the heads, of heads 2 (lane % 4) and the next: weighted values, down a
/// column; running maximum (base 2) and sum.
template <int D>
struct WarpState {
  float o[D / 16][4], m[2], l[2];
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < D / 16; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] = 0;
    m[0] = m[1] = -INFINITY;
    l[0] = l[1] = 0;
  }
};

/// Scores of a unit (tokens down, heads across) to its probabilities, the second factor of the
/// products with V; what the warp has is to be multiplied by `shrink`.
template <typename H, int D>
__device__ __forceinline__ void unit_softmax(const DecodeParams& p, int from_token, int position,
                                             int token0, float (&s)[4], WarpState<D>& w,
                                             float (&shrink)[2], uint32_t (&probabilities)[2]) {
  const int lane = threadIdx.x & 31;
  float top[2] = {w.m[0], w.m[1]};
#pragma unroll
  for (int n = 0; n < 4; ++n) s[n] *= p.scale;
  if (p.softcap > 0)
#pragma unroll
    for (int n = 0; n < 4; ++n) s[n] = soft_cap(s[n], p.softcap);
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const int token = token0 + (lane >> 2) + 8 * (n >> 1);
    s[n] = token >= from_token && token <= position ? s[n] * kLog2e : -INFINITY;
    top[n & 1] = fmaxf(top[n & 1], s[n]);
  }
  float base[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int k = 4; k < 32; k <<= 1)
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], k));
    base[r] = top[r] == -INFINITY ? 0.f : top[r];
    shrink[r] = exp2_of(w.m[r] - base[r]);
    w.m[r] = top[r];
    w.l[r] *= shrink[r];
  }
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    s[n] = exp2_of(s[n] - base[n & 1]);
    w.l[n & 1] += s[n];
  }
  probabilities[0] = transposed8x8(pack2<H>(s[0], s[1]));
  probabilities[1] = transposed8x8(pack2<H>(s[2], s[3]));
}

/// What the block's warps have, put together: warp w's part at `all` + w * stride, (tile_heads,
/// D + 2) values, maximum, sum.
template <int D, int kWarps>
struct WarpMerge {
  float weight[kHeads * kWarps];  // of each warp's part of a head
  float2 state[kHeads];           // maximum and sum over the block

  /// Every warp of the block calls it; ends with a barrier.
  __device__ __forceinline__ void gather(WarpState<D>& w, int tile_heads, float* all, int stride) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int k = 4; k < 32; k <<= 1) w.l[r] += __shfl_xor_sync(0xffffffffu, w.l[r], k);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int head = (lane & 3) * 2 + r;
      float* to = all + warp * stride + head * (D + 2);
      if (head < tile_heads) {
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
          to[n * 16 + (lane >> 2)] = w.o[n][r];
          to[n * 16 + (lane >> 2) + 8] = w.o[n][2 + r];
        }
        if (lane < 4) {
          to[D] = w.m[r];
          to[D + 1] = w.l[r];
        }
      }
    }
    __syncthreads();
    if (threadIdx.x < kHeads * kWarps) {
      const int h = threadIdx.x / kWarps, i = threadIdx.x % kWarps;
      const float2 part =
          *reinterpret_cast<const float2*>(all + i * stride + min(h, tile_heads - 1) * (D + 2) + D);
      float top = part.x;
#pragma unroll
      for (int k = 1; k < kWarps; k <<= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, k));
      const float of_part = exp2_of(part.x - (top == -INFINITY ? 0.f : top));
      float sum = of_part * part.y;
#pragma unroll
      for (int k = 1; k < kWarps; k <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, k);
      weight[threadIdx.x] = of_part;
      if (i == 0) state[h] = make_float2(top, sum);
    }
    __syncthreads();
  }
  /// Value `d` of a head, yet to be divided by the sum.
  __device__ __forceinline__ float value(const float* all, int stride, int h, int d) const {
    const float* from = all + h * (D + 2) + d;
    float v = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) v = __fmaf_rn(weight[h * kWarps + w], from[w * stride], v);
    return v;
  }
  /// Values d and d + 1, d even.
  __device__ __forceinline__ float2 value2(const float* all, int stride, int h, int d) const {
    const float* from = all + h * (D + 2) + d;
    float2 v = make_float2(0, 0);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float2 part = *reinterpret_cast<const float2*>(from + w * stride);
      v = make_float2(__fmaf_rn(weight[h * kWarps + w], part.x, v.x),
                      __fmaf_rn(weight[h * kWarps + w], part.y, v.y));
    }
    return v;
  }
};

inline constexpr int kMergeWarps = 4;
/// Rows of several runs from what decode kernels left in global memory: a warp merges 32 outputs of
/// a head. PRECOND: kMergeWarps * 32 threads; grid (heads * ceil(dim / 32) / kMergeWarps, rows).
template <int kMost>
__global__ void __launch_bounds__(kMergeWarps * 32)
    merge_kernel(const __grid_constant__ DecodeParams p) {
  grid_dependency_trigger();
  const int row = blockIdx.y, lane = threadIdx.x & 31, tiles_of_head = (p.dim + 31) / 32;
  const int tile = blockIdx.x * kMergeWarps + (threadIdx.x >> 5), head = tile / tiles_of_head,
            first = tile % tiles_of_head * 32;
  const RowRuns runs = runs_of(p.runs, p.batch.positions[row], p.window);
  grid_dependency_wait();
  if (head >= p.heads || runs.active == 1) return;
  const int64_t at = (int64_t{row} * p.heads + head) * p.scratch.runs;
  const float* values = p.scratch.partial + at * p.dim + min(first + lane, p.dim - 1);
  const float2* states = p.scratch.state + at;
  store_outputs(p, row, head, first,
                merge_runs<kMost>(
                    runs.active, [&](int k) { return __ldcg(states + k); },
                    [&](int k) { return __ldcg(values + int64_t{k} * p.dim); }));
}

}  // namespace decode
}  // namespace apud::cuda
