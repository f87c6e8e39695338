// Split-KV decode attention. A block takes one row, one KV head with its (up to 16) query heads
// packed into one tensor-core tile, and a run of pages; its four warps stream their own quarters of
// each page through their own asynchronous copies and never wait for one another. The last block of
// a head to finish merges the runs in fixed order by their log-sum-exp (Flash-Decoding; Dao et al.
// 2023). On Hopper the blocks of a head are a cluster and merge through each other's shared memory.
#pragma once

#include <cooperative_groups.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/quant_rows.cuh"
#include "kernels/cuda/rope.cuh"

namespace apud::cuda {
namespace decode {

inline constexpr int kWarps = 4;
inline constexpr int kMaxSplits = 64;
// Pages of a split: fewer than two cost more in the merge than they hide, except in a cluster.
inline constexpr int kMinPages = 2;
inline constexpr float kLog2e = 1.4426950408889634f;

struct DecodeParams {
  const float* q;
  const float* k;
  const float* v;
  float* out;
  int64_t q_ld, k_ld, v_ld, out_ld;
  int heads, kv_heads, dim, window;
  float scale, softcap;
  KvView kv;
  BatchView batch;
  bool fused;
  HeadRotation rotation;
  const float* q_norm;
  const float* k_norm;
  DecodeScratch scratch;
  QuantRows quantised;
};

/// Shared memory: q (16, D+8) H; new k and v (2, D) float; 128 angles; per warp and stage K and V
/// (16, D+8) H. The stages are reused for the merge of the warps.
template <int D>
size_t decode_shared(int stages) {
  return size_t{16} * (D + 8) * 2 + 2 * D * 4 + 1024 + size_t{kWarps} * 256 * 4 +
         std::max<size_t>(size_t{kWarps} * stages * 2 * 16 * (D + 8) * 2,
                          size_t{kWarps} * 16 * (D + 2) * 4 + size_t{16} * D * 4);
}

__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();  // the barrier takes whole warps; the loops before it may have parted them
  cooperative_groups::this_cluster().sync();
#endif
}
/// The same place in the shared memory of another block of the cluster.
template <typename T>
__device__ __forceinline__ const T* of_block(T* p, int rank) {
#if __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().map_shared_rank(p, rank);
#else
  return p;
#endif
}

/// PRECOND: 128 threads; grid (splits, kv_heads * query tiles, rows); dim <= D, dim % 8 == 0. With
/// kCluster, the splits of a head are one cluster.
template <int D, typename H, bool kI8, int kStages, bool kCluster>
__global__ void __launch_bounds__(kWarps * 32)
    decode_kernel(const __grid_constant__ DecodeParams p) {
  grid_dependency_trigger();
  extern __shared__ __align__(16) uint8_t shared[];
  constexpr int kLd = D + 8;
  H* q_shared = reinterpret_cast<H*>(shared);
  float* fresh = reinterpret_cast<float*>(q_shared + 16 * kLd);  // new k, new v
  float* head_scratch = fresh + 2 * D + 256;                     // (warps, 256), after 128 angles
  uint8_t* stage_base = reinterpret_cast<uint8_t*>(head_scratch + kWarps * 256);

  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int gqa = p.heads / p.kv_heads, query_tiles = (gqa + 15) / 16;
  const int row = blockIdx.z, kv_head = blockIdx.y / query_tiles,
            query_tile = blockIdx.y % query_tiles;
  const int first_head = kv_head * gqa + query_tile * 16,
            tile_heads = min(16, gqa - query_tile * 16);
  const int dim = p.dim;
  const int position = p.batch.positions[row];
  const int32_t* pages =
      p.batch.pages + p.batch.row_pages[p.kv.group * p.batch.token_capacity + row];

  // Tokens read from pages. A fused new token is put among them in shared memory.
  const int cached = p.fused ? position : position + 1;
  const int from_token = p.window > 0 ? max(0, position + 1 - p.window) : 0;
  const int page_begin = from_token / kKvPageTokens;
  const int page_end = position / kKvPageTokens + 1;
  const int count = max(0, page_end - page_begin);
  const int per_split = max(kCluster ? 1 : kMinPages, (count + static_cast<int>(gridDim.x) - 1) /
                                                          static_cast<int>(gridDim.x));
  const int active = max(1, (count + per_split - 1) / per_split);
  const int split = blockIdx.x;
  if (split >= active) {
    grid_dependency_wait();
    if (kCluster && active > 1) {
      cluster_sync();
      cluster_sync();
    }
    return;
  }
  const int begin = page_begin + split * per_split, end = min(page_end, begin + per_split);
  const bool has_fresh = p.fused && split == active - 1;

  H* warp_stages = reinterpret_cast<H*>(stage_base) + warp * (kStages * 2 * 16 * kLd);
  auto tile_at = [&](int stage, int which) { return warp_stages + (stage * 2 + which) * 16 * kLd; };

  // Loads this warp's 16 tokens of page index i into a stage.
  auto load = [&](int i, int stage) {
    if (i < end) {
      const uint8_t* block = p.kv.base + pages[i] * p.kv.page_bytes + kv_head * p.kv.head_bytes;
      int token0 = i * kKvPageTokens + warp * 16;
      if constexpr (!kI8) {
        constexpr int kChunks = D / 8;
        if (dim == D) {  // 16 whole rows lie one behind another
          const uint8_t* from = block + warp * 16 * D * 2 + lane * 16;
          const int left = (cached - token0) * kChunks;
#pragma unroll
          for (int which = 0; which < 2; ++which) {
            H* to = tile_at(stage, which);
#pragma unroll
            for (int c0 = 0; c0 < 16 * kChunks; c0 += 32) {
              int c = c0 + lane;
              copy_async16(to + c / kChunks * kLd + c % kChunks * 8,
                           from + which * p.kv.v_offset + c0 * 16, c < left);
            }
          }
        } else {
#pragma unroll 1
          for (int c = lane; c < 2 * 16 * kChunks; c += 32) {
            int which = c / (16 * kChunks), t = (c / kChunks) % 16, d8 = c % kChunks;
            bool valid = token0 + t < cached && d8 * 8 < dim;
            const uint8_t* from = block + which * p.kv.v_offset +
                                  (valid ? (int64_t{warp * 16 + t} * dim + d8 * 8) * 2 : 0);
            copy_async16(tile_at(stage, which) + t * kLd + d8 * 8, from, valid);
          }
        }
      } else {
        constexpr int kChunks = D / 8;
        for (int c = lane; c < 2 * 16 * kChunks; c += 32) {
          int which = c / (16 * kChunks), t = (c / kChunks) % 16, d8 = c % kChunks;
          uint4 packed = make_uint4(0, 0, 0, 0);
          if (token0 + t < cached && d8 * 8 < dim) {
            const uint8_t* at = block + which * p.kv.v_offset;
            float scale = reinterpret_cast<const float*>(at + 64 * dim)[warp * 16 + t];
            uint2 bytes =
                *reinterpret_cast<const uint2*>(at + int64_t{warp * 16 + t} * dim + d8 * 8);
            uint32_t words[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              uint32_t b = (k < 2 ? bytes.x : bytes.y) >> (16 * (k & 1));
              words[k] = pack2<H>(static_cast<float>(static_cast<int8_t>(b & 255)) * scale,
                                  static_cast<float>(static_cast<int8_t>((b >> 8) & 255)) * scale);
            }
            packed = make_uint4(words[0], words[1], words[2], words[3]);
          }
          *reinterpret_cast<uint4*>(tile_at(stage, which) + t * kLd + d8 * 8) = packed;
        }
      }
    }
    copy_commit();
  };

  // Angles do not depend on the step before either.
  float2* angles = reinterpret_cast<float2*>(fresh + 2 * D);
  if (p.fused)
    for (int i = threadIdx.x; i < p.rotation.pairs; i += kWarps * 32)
      angles[i] = rotation_of(p.rotation, i, position);
  if (!p.fused) grid_dependency_wait();
#pragma unroll
  for (int s = 0; s < kStages; ++s) load(begin + s, s);
  __syncthreads();
  if (p.fused) grid_dependency_wait();

  // q, and the new token's k and v: what two items need is asked for at once. Rows of the tile
  // beyond the heads hold anything: rows do not mix.
  float* mine = head_scratch + warp * 256;
  const int items = tile_heads + (has_fresh ? 2 : 0);
  constexpr int kAhead = 2, kValues = (D + 31) / 32;
#pragma unroll 1
  for (int first = warp; first < items; first += kAhead * kWarps) {
    float values[kAhead][kValues];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int item = first + k * kWarps, which = item - tile_heads;  // < 0: q; 0: k; 1: v
      const float* from = which < 0 ? p.q + row * p.q_ld + int64_t{first_head + item} * dim
                                    : (which == 0 ? p.k + row * p.k_ld : p.v + row * p.v_ld) +
                                          int64_t{kv_head} * dim;
#pragma unroll
      for (int j = 0; j < kValues; ++j)
        values[k][j] = item < items && j * 32 + lane < dim ? ld_stream(from + j * 32 + lane) : 0.f;
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int item = first + k * kWarps, which = item - tile_heads;
      if (item >= items) break;
#pragma unroll
      for (int j = 0; j < kValues; ++j)
        if (j * 32 + lane < dim) mine[j * 32 + lane] = values[k][j];
      __syncwarp();
      if (p.fused && which <= 0)
        rotate_head(mine, dim, which < 0 ? p.q_norm : p.k_norm, p.rotation,
                    [&](int i) { return angles[i]; });
      if (which < 0) {
        for (int i = lane; i < D; i += 32)
          q_shared[item * kLd + i] = to_h16<H>(i < dim ? mine[i] : 0.f);
      } else {
        uint8_t* block = p.kv.base + pages[position / kKvPageTokens] * p.kv.page_bytes +
                         kv_head * p.kv.head_bytes + which * p.kv.v_offset;
        if (query_tile == 0) {
          store_kv_row(block, p.kv.type, dim, position % kKvPageTokens, mine);
        } else if (kI8) {  // the same rounding as the block that stores
          float m = 0;
          for (int i = lane; i < dim; i += 32) m = fmaxf(m, fabsf(mine[i]));
          m = warp_max(m);
          for (int i = lane; i < dim; i += 32)
            mine[i] = static_cast<float>(__float2int_rn(mine[i] * (m > 0 ? 127.f / m : 0.f))) *
                      (m / 127.f);
          __syncwarp();
        }
        for (int i = lane; i < dim; i += 32) fresh[which * D + i] = mine[i];
      }
      __syncwarp();
    }
  }
  __syncthreads();

  uint32_t q_frag[D / 16][4];
#pragma unroll
  for (int kk = 0; kk < D / 16; ++kk)
    load_matrix4(q_frag[kk], q_shared + (lane & 15) * kLd + kk * 16 + (lane >> 4) * 8);

  float o[D / 8][4];
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) o[n][i] = 0;
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};

  // Adds 16 tokens lying in shared memory; tokens outside [low, high) do not count.
  auto attend = [&](const H* k_tile, const H* v_tile, int token0, int low, int high) {
    float s[2][4] = {};
#pragma unroll
    for (int kk = 0; kk < D / 16; ++kk) {
      uint32_t b[4];
      load_matrix4(
          b, k_tile + ((lane & 7) + ((lane >> 4) << 3)) * kLd + kk * 16 + ((lane >> 3) & 1) * 8);
      mma_16816<H>(s[0], q_frag[kk], b[0], b[1]);
      mma_16816<H>(s[1], q_frag[kk], b[2], b[3]);
    }
    float top[2] = {m[0], m[1]};
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int token = token0 + n * 8 + (lane & 3) * 2 + (i & 1);
        float x = s[n][i] * p.scale;
        if (p.softcap > 0) x = p.softcap * tanhf(x / p.softcap);
        x = token >= low && token < high ? x * kLog2e : -INFINITY;
        s[n][i] = x;
        top[i >> 1] = fmaxf(top[i >> 1], x);
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
    }
    float base[2], shrink[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      base[r] = top[r] == -INFINITY ? 0.f : top[r];
      shrink[r] = exp2f(m[r] - base[r]);
      m[r] = top[r];
      l[r] *= shrink[r];
    }
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[n][i] = exp2f(s[n][i] - base[i >> 1]);
        l[i >> 1] += s[n][i];
      }
    uint32_t pa[4] = {pack2<H>(s[0][0], s[0][1]), pack2<H>(s[0][2], s[0][3]),
                      pack2<H>(s[1][0], s[1][1]), pack2<H>(s[1][2], s[1][3])};
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] *= shrink[i >> 1];
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      uint32_t b[4];
      load_matrix4_transposed(b, v_tile + (lane & 15) * kLd + n * 16 + (lane >> 4) * 8);
      mma_16816<H>(o[2 * n], pa, b[0], b[1]);
      mma_16816<H>(o[2 * n + 1], pa, b[2], b[3]);
    }
  };

  const bool owns_fresh = has_fresh && warp == position % kKvPageTokens / 16;
  for (int i = begin, stage = 0; i < end; ++i) {
    copy_wait<kStages - 1>();
    __syncwarp();
    if (owns_fresh && i == end - 1) {
      const int t = position % 16 * kLd;
      for (int c = lane; c < dim; c += 32) {
        tile_at(stage, 0)[t + c] = to_h16<H>(fresh[c]);
        tile_at(stage, 1)[t + c] = to_h16<H>(fresh[D + c]);
      }
      __syncwarp();
    }
    attend(tile_at(stage, 0), tile_at(stage, 1), i * kKvPageTokens + warp * 16, from_token,
           position + 1);
    __syncwarp();
    load(i + kStages, stage);
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  copy_wait<0>();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    l[r] += __shfl_xor_sync(0xffffffffu, l[r], 1);
    l[r] += __shfl_xor_sync(0xffffffffu, l[r], 2);
  }

  // Merge of the warps.
  __syncthreads();
  float* all = reinterpret_cast<float*>(stage_base);  // (warps, 16, D + 2): o, m, l
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int q_row = (lane >> 2) + 8 * r;
    float* to = all + (warp * 16 + q_row) * (D + 2);
    if (q_row < tile_heads) {
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) to[n * 8 + (lane & 3) * 2 + i] = o[n][2 * r + i];
      if ((lane & 3) == 0) {
        to[D] = m[r];
        to[D + 1] = l[r];
      }
    }
  }
  __syncthreads();
  const int splits = gridDim.x;
  // The tile's results, to be quantised: behind the merge's own space.
  float* results = all + kWarps * 16 * (D + 2);
  __shared__ float2 states[16];  // cluster: running maximum and sum of a head
  auto quantise_results = [&] {
    __syncthreads();
    for (int g = warp; g < tile_heads * dim / 32; g += kWarps) {
      const float v = results[g * 32 + lane];
      store_group(p.quantised, row, first_head * dim / 32 + g, v, v * v);
    }
  };
  for (int c = threadIdx.x; c < tile_heads * dim; c += kWarps * 32) {
    int h = c / dim, d = c % dim;
    float top = -INFINITY;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, all[(w * 16 + h) * (D + 2) + D]);
    float base = top == -INFINITY ? 0.f : top, value = 0, sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float* from = all + (w * 16 + h) * (D + 2);
      float weight = exp2f(from[D] - base);
      value += weight * from[d];
      sum += weight * from[D + 1];
    }
    int64_t head = int64_t{row} * p.heads + first_head + h;
    if (kCluster && active > 1) {
      results[c] = value;
      if (d == 0) states[h] = make_float2(top, sum);
    } else if (active == 1) {
      const float result = sum > 0 ? value / sum : 0.f;
      p.out[row * p.out_ld + int64_t{first_head + h} * dim + d] = result;
      results[c] = result;
    } else {
      p.scratch.partial[(head * splits + split) * dim + d] = value;
      if (d == 0) p.scratch.state[head * splits + split] = make_float2(top, sum);
    }
  }
  if (active == 1) {
    if (p.quantised.data) quantise_results();
    return;
  }
  if constexpr (kCluster) {
    cluster_sync();
    // A warp makes 32 neighbouring outputs; the active blocks take turns.
    const int first_out = split * kWarps + warp, step = active * kWarps;
    for (int g = first_out; g * 32 < tile_heads * dim; g += step) {
      const int c = g * 32 + lane, h = min(c / dim, tile_heads - 1);
      const bool valid = c < tile_heads * dim;
      float top = -INFINITY, value = 0, sum = 0;
#pragma unroll 4
      for (int k = 0; k < active; ++k) top = fmaxf(top, of_block(states, k)[h].x);
      const float base = top == -INFINITY ? 0.f : top;
#pragma unroll 4
      for (int k = 0; k < active; ++k) {
        const float2 state = of_block(states, k)[h];
        const float w = exp2f(state.x - base);
        sum += w * state.y;
        if (valid) value += w * of_block(results, k)[c];
      }
      value = sum > 0 ? value / sum : 0.f;
      if (valid) p.out[row * p.out_ld + int64_t{first_head} * dim + c] = value;
      if (p.quantised.data)
        store_group(p.quantised, row, first_head * dim / 32 + g, value, value * value);
    }
    cluster_sync();  // nobody leaves while it is read
    return;
  }
  __threadfence();
  __syncthreads();
  __shared__ bool last;
  int* counter = p.scratch.counters + int64_t{row} * p.heads + first_head;
  if (threadIdx.x == 0) last = atomicAdd(counter, 1) == active - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  // Weight of each (head, split), a warp a head, then the sums with several loads in flight.
  float* weights = head_scratch;  // (16, kMaxSplits)
  float* totals = fresh;          // (16)
  const int64_t first_state = (int64_t{row} * p.heads + first_head) * splits;
  for (int h = warp; h < tile_heads; h += kWarps) {
    float2 state[kMaxSplits / 32];
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int k = 0; k < kMaxSplits / 32; ++k) {
      const int i = k * 32 + lane;
      state[k] = make_float2(-INFINITY, 0);
      if (i < active) state[k] = __ldcg(&p.scratch.state[first_state + h * splits + i]);
      top = fmaxf(top, state[k].x);
    }
    top = warp_max(top);
    const float base = top == -INFINITY ? 0.f : top;
#pragma unroll
    for (int k = 0; k < kMaxSplits / 32; ++k) {
      const float w = exp2f(state[k].x - base);
      if (k * 32 + lane < active) weights[h * kMaxSplits + k * 32 + lane] = w;
      sum += w * state[k].y;
    }
    sum = warp_sum(sum);
    if (lane == 0) totals[h] = sum > 0 ? 1.f / sum : 0.f;
  }
  __syncthreads();
  // Four values a thread; where there are threads to spare, several share a value's splits.
  const int quads = tile_heads * dim / 4;
  const int sharing = quads <= 32 ? 4 : quads <= 64 ? 2 : 1;
  float4* shares = reinterpret_cast<float4*>(all + 16 * kMaxSplits);  // (sharing, quads)
  for (int c = threadIdx.x; c < quads * sharing; c += kWarps * 32) {
    int quad = c % quads, share = c / quads, h = quad * 4 / dim, d = quad * 4 % dim;
    const float4* from =
        reinterpret_cast<const float4*>(p.scratch.partial + (first_state + h * splits) * dim + d);
    float4 value = make_float4(0, 0, 0, 0);
#pragma unroll 16
    for (int s = share; s < active; s += sharing) {
      float w = weights[h * kMaxSplits + s];
      float4 x = __ldcg(from + s * (dim / 4));
      value =
          make_float4(value.x + w * x.x, value.y + w * x.y, value.z + w * x.z, value.w + w * x.w);
    }
    if (sharing > 1) {
      shares[share * quads + quad] = value;
    } else {
      float t = totals[h];
      float* out = p.out + row * p.out_ld + int64_t{first_head + h} * dim + d;
      value = make_float4(value.x * t, value.y * t, value.z * t, value.w * t);
      *reinterpret_cast<float4*>(out) = value;
      *reinterpret_cast<float4*>(results + quad * 4) = value;
    }
  }
  if (sharing > 1) {
    __syncthreads();
    for (int quad = threadIdx.x; quad < quads; quad += kWarps * 32) {
      int h = quad * 4 / dim, d = quad * 4 % dim;
      float4 value = shares[quad];
      for (int k = 1; k < sharing; ++k) {
        float4 x = shares[k * quads + quad];
        value = make_float4(value.x + x.x, value.y + x.y, value.z + x.z, value.w + x.w);
      }
      float t = totals[h];
      float* out = p.out + row * p.out_ld + int64_t{first_head + h} * dim + d;
      value = make_float4(value.x * t, value.y * t, value.z * t, value.w * t);
      *reinterpret_cast<float4*>(out) = value;
      *reinterpret_cast<float4*>(results + quad * 4) = value;
    }
  }
  if (p.quantised.data) quantise_results();
  if (threadIdx.x == 0) *counter = 0;
}

}  // namespace decode
}  // namespace apud::cuda
