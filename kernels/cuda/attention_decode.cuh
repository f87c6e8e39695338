// Split-KV decode attention. A block takes one row, one KV head with its (up to 8) query heads as
// the columns of one tensor-core tile, and a run of tokens; its warps take turns with units of 16
// tokens, each streams its own through its own asynchronous copies, and they never wait for one
// another. Runs are merged in fixed order by their log-sum-exp (Flash-Decoding; Dao et al. 2023):
// few runs are a cluster on Hopper and merge through each other's shared memory, many go through
// global memory and a kernel of their own.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cluster_inbox.cuh"
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
// A cluster merges kInboxTiles times 32 outputs in each of its blocks.
inline constexpr int kMaxCluster = 16, kInboxTiles = 4;
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
  bool fused;
  HeadRotation rotation;
  const float* q_norm;
  const float* k_norm;
  DecodeScratch scratch;
  QuantRows quantised;
};

/// Shared memory: q (kHeads, D+8) H; new k and v (2, D) float; 128 angles; per warp a head of
/// scratch; per warp and stage K and V (16, D+8) H. The stages are reused for the merge.
template <int D>
constexpr size_t decode_shared(size_t warps, int stages) {
  const size_t tiles = warps * stages * 2 * kUnit * (D + 8) * 2,
               merge = warps * kHeads * (D + 2) * 4;
  return size_t{kHeads} * (D + 8) * 2 + 2 * D * 4 + 1024 + warps * D * 4 +
         (tiles > merge ? tiles : merge);
}
/// Behind that, in a cluster: per run the outputs that this block merges and the heads' states.
inline constexpr size_t kInboxBytes = size_t{kMaxCluster} * (kInboxTiles * 32 * 4 + kHeads * 8);

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

/// How a row's tokens are cut: `active` runs of `per_run` units from `begin` on. Depends on the row
/// alone.
struct RowRuns {
  int from_token, begin, end, per_run, active;
};
__device__ __forceinline__ RowRuns runs_of(const DecodeRuns& runs, int position, int window) {
  RowRuns r;
  r.from_token = window > 0 ? max(0, position + 1 - window) : 0;
  r.begin = r.from_token / kUnit;
  r.end = position / kUnit + 1;
  const int units = r.end - r.begin, most = units <= runs.short_units ? runs.few : runs.many;
  r.per_run = max(kLeastUnits, small_quotient(units + most - 1, most));
  r.active = small_quotient(units + r.per_run - 1, r.per_run);
  return r;
}

/// The transpose of an 8x8 matrix of 16-bit values spread over the warp.
__device__ __forceinline__ uint32_t transposed8x8(uint32_t rows) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(rows));
  return out;
}
/// An output of a head from `count` runs, added in order: their states (maximum and sum) and
/// values, of which kAhead are asked for at once; kAhead changes no bit.
template <int kAhead, typename State, typename Value>
__device__ __forceinline__ float merge_runs(int count, State&& state, Value&& value_of) {
  float2 s[kAhead];
  float v[kAhead];
  auto ask = [&](int first) {
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const bool valid = first + k < count;
      s[k] = valid ? state(first + k) : make_float2(-INFINITY, 0);
      v[k] = valid ? value_of(first + k) : 0.f;
    }
  };
  ask(0);
  float top = -INFINITY, sum = 0, value = 0;
#pragma unroll
  for (int k = 0; k < kAhead; ++k) top = fmaxf(top, s[k].x);
#pragma unroll 1
  for (int k = kAhead; k < count; ++k) top = fmaxf(top, state(k).x);
  if (top == -INFINITY) return 0;
#pragma unroll 1
  for (int first = 0; first < count; first += kAhead) {
    if (first > 0) ask(first);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const float weight = exp2_of(s[k].x - top);
      sum = __fmaf_rn(weight, s[k].y, sum);
      value = __fmaf_rn(weight, v[k], value);
    }
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

/// PRECOND: kWarps * 32 threads; grid (runs, kv_heads * query tiles, rows); dim <= D, dim % 8 == 0.
/// With kCluster, the runs of a head are one cluster, no smaller than its outputs need and of
/// kMaxCluster blocks at most; kInboxBytes are added. Without, merge_kernel follows.
template <int D, typename H, bool kI8, int kWarps, int kStages, bool kCluster>
__global__ void __launch_bounds__(kWarps * 32, 2)
    decode_kernel(const __grid_constant__ DecodeParams p) {
  grid_dependency_trigger();
  __shared__ __align__(8) uint64_t inbox_full;
  if constexpr (kCluster) {
    if (threadIdx.x == 0) inbox_open(&inbox_full);
    __syncwarp();
    cluster_arrive();
  }
  extern __shared__ __align__(16) uint8_t shared[];
  constexpr int kLd = D + 8;
  H* q_shared = reinterpret_cast<H*>(shared);
  float* fresh = reinterpret_cast<float*>(q_shared + kHeads * kLd);  // new k, new v
  float* head_scratch = fresh + 2 * D + 256;                         // (warps, D), after 128 angles
  uint8_t* stage_base = reinterpret_cast<uint8_t*>(head_scratch + kWarps * D);

  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int row = blockIdx.z,
            kv_head = p.query_tiles == 1 ? blockIdx.y : blockIdx.y / p.query_tiles,
            query_tile = static_cast<int>(blockIdx.y) - kv_head * p.query_tiles;
  const int first_head = kv_head * p.gqa + query_tile * kHeads,
            tile_heads = min(kHeads, p.gqa - query_tile * kHeads);
  const int dim = p.dim;
  const int position = p.batch.positions[row];
  const int32_t* pages =
      p.batch.pages + p.batch.row_pages[p.kv.group * p.batch.token_capacity + row];

  // Tokens read from pages. A fused new token is put among them in shared memory.
  const int cached = p.fused ? position : position + 1;
  const RowRuns runs = runs_of(p.runs, position, p.window);
  constexpr int kTilesOfHead = D / 32;
  const int run = blockIdx.x, tiles = tile_heads * kTilesOfHead;
  // In a cluster every block has an inbox: of each run the states of all heads, and the outputs
  // that this block merges.
  float* inbox = reinterpret_cast<float*>(shared + decode_shared<D>(kWarps, kStages));
  float2* inbox_states = reinterpret_cast<float2*>(inbox + kMaxCluster * kInboxTiles * 32);
  auto merge_inbox = [&] {
    const int mine = min(kInboxTiles, tiles - static_cast<int>(blockIdx.x) * kInboxTiles);
    if (threadIdx.x == 0 && mine > 0)
      inbox_expect(&inbox_full, runs.active * (mine * 32 * 4 + kHeads * 8));
    if (warp >= mine) return;
    const int tile = blockIdx.x * kInboxTiles + warp, h = tile / kTilesOfHead;
    inbox_wait(&inbox_full);
    __syncwarp();
    const float value = merge_runs<8>(
        runs.active, [&](int k) { return inbox_states[k * kHeads + h]; },
        [&](int k) { return inbox[(k * kInboxTiles + warp) * 32 + lane]; });
    store_outputs(p, row, first_head + h, tile % kTilesOfHead * 32, value);
  };
  // One place for the end of both, or its instructions would be there twice.
  auto attend = [&] {
    const int begin = runs.begin + run * runs.per_run, end = min(runs.end, begin + runs.per_run);
    const bool has_fresh = p.fused && run == runs.active - 1;

    H* warp_stages = reinterpret_cast<H*>(stage_base) + warp * (kStages * 2 * 16 * kLd);
    auto tile_at = [&](int stage, int which) {
      return warp_stages + (stage * 2 + which) * 16 * kLd;
    };

    // Loads K (which = 0) or V of unit i into a stage.
    auto load = [&](int i, int stage, int which) {
      if (i < end) {
        const uint8_t* block = p.kv.base + pages[i / kUnitsOfPage] * p.kv.page_bytes +
                               kv_head * p.kv.head_bytes + which * p.kv.v_offset;
        const int token0 = i * kUnit, slot0 = token0 % kKvPageTokens;
        H* to = tile_at(stage, which);
        constexpr int kChunks = D / 8;
        if constexpr (!kI8) {
          if (dim == D) {  // 16 whole rows lie one behind another
            const uint8_t* from = block + slot0 * D * 2 + lane * 16;
            const int left = (cached - token0) * kChunks;
#pragma unroll
            for (int c0 = 0; c0 < 16 * kChunks; c0 += 32) {
              int c = c0 + lane;
              copy_async16(to + c / kChunks * kLd + c % kChunks * 8, from + c0 * 16, c < left);
            }
          } else {
#pragma unroll 1
            for (int c = lane; c < 16 * kChunks; c += 32) {
              int t = c / kChunks, d8 = c % kChunks;
              bool valid = token0 + t < cached && d8 * 8 < dim;
              const uint8_t* from = block + (valid ? (int64_t{slot0 + t} * dim + d8 * 8) * 2 : 0);
              copy_async16(to + t * kLd + d8 * 8, from, valid);
            }
          }
        } else {
          for (int c = lane; c < 16 * kChunks; c += 32) {
            int t = c / kChunks, d8 = c % kChunks;
            uint4 packed = make_uint4(0, 0, 0, 0);
            if (token0 + t < cached && d8 * 8 < dim) {
              float scale = reinterpret_cast<const float*>(block + 64 * dim)[slot0 + t];
              uint2 bytes =
                  *reinterpret_cast<const uint2*>(block + int64_t{slot0 + t} * dim + d8 * 8);
              uint32_t words[4];
#pragma unroll
              for (int k = 0; k < 4; ++k) {
                uint32_t b = (k < 2 ? bytes.x : bytes.y) >> (16 * (k & 1));
                words[k] =
                    pack2<H>(static_cast<float>(static_cast<int8_t>(b & 255)) * scale,
                             static_cast<float>(static_cast<int8_t>((b >> 8) & 255)) * scale);
              }
              packed = make_uint4(words[0], words[1], words[2], words[3]);
            }
            *reinterpret_cast<uint4*>(to + t * kLd + d8 * 8) = packed;
          }
        }
      }
      copy_commit();
    };

    // Angles do not depend on the step before either.
    float2* angles = reinterpret_cast<float2*>(fresh + 2 * D);
    if (p.fused) {
#pragma unroll 1
      for (int i = threadIdx.x; i < p.rotation.pairs; i += kWarps * 32)
        angles[i] = rotation_of(p.rotation, i, position);
    }
    if (!p.fused) grid_dependency_wait();
#pragma unroll 1
    for (int s = 0; s < kStages; ++s)
#pragma unroll 1
      for (int which = 0; which < 2; ++which) load(begin + warp + s * kWarps, s, which);
    __syncwarp();  // the barrier takes whole warps
    __syncthreads();
    if (p.fused) grid_dependency_wait();

    // q, and the new token's k and v: what two items need is asked for at once. Rows of the tile
    // beyond the heads hold anything: rows do not mix.
    float* mine = head_scratch + warp * D;
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
          values[k][j] =
              item < items && j * 32 + lane < dim ? ld_stream(from + j * 32 + lane) : 0.f;
      }
      // Not unrolled, here and in what is called: instructions that run once come from far.
#pragma unroll 1
      for (int item = first; item < min(items, first + kAhead * kWarps); item += kWarps) {
        const int which = item - tile_heads;
#pragma unroll
        for (int j = 0; j < kValues; ++j) {
          if (j * 32 + lane < dim) mine[j * 32 + lane] = values[0][j];
          values[0][j] = values[1][j];
        }
        __syncwarp();
        if (p.fused && which <= 0)
          rotate_head(mine, dim, which < 0 ? p.q_norm : p.k_norm, p.rotation,
                      [&](int i) { return angles[i]; });
        if (which < 0) {
#pragma unroll
          for (int j = 0; j < kValues; ++j) {
            const int i = j * 32 + lane;
            q_shared[item * kLd + i] = to_h16<H>(i < dim ? mine[i] : 0.f);
          }
        } else {
          uint8_t* block = p.kv.base + pages[position / kKvPageTokens] * p.kv.page_bytes +
                           kv_head * p.kv.head_bytes + which * p.kv.v_offset;
          if (query_tile == 0) {
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
#pragma unroll 1
          for (int i = lane; i < dim; i += 32) fresh[which * D + i] = mine[i];
        }
        __syncwarp();
      }
    }
    __syncthreads();

    // Scores are K q^T: tokens down, heads across. So are the results, V^T P: values down.
    uint32_t q_frag[D / 16][2];
#pragma unroll
    for (int kk = 0; kk < D / 16; kk += 2) {
      uint32_t b[4];
      load_matrix4(b, q_shared + (lane & 7) * kLd + kk * 16 + (lane >> 3) * 8);
      q_frag[kk][0] = b[0];
      q_frag[kk][1] = b[1];
      q_frag[kk + 1][0] = b[2];
      q_frag[kk + 1][1] = b[3];
    }

    float o[D / 16][4];
#pragma unroll
    for (int n = 0; n < D / 16; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n][i] = 0;
    float m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};  // of heads 2 (lane % 4) and the next

    // A unit at a time. K of the next one comes as soon as this one's scores are made, V when its
    // sums are: half of a unit's way is behind the work on the other half.
    constexpr int kPending = 2 * kStages - 1;
    for (int i = begin + warp, stage = 0; i < end; i += kWarps) {
      auto arrived = [&](int which) {
        copy_wait<kPending>();
        __syncwarp();
        if (has_fresh && i == end - 1) {
#pragma unroll 1
          for (int c = lane; c < dim; c += 32)
            tile_at(stage, which)[position % kUnit * kLd + c] = to_h16<H>(fresh[which * D + c]);
          __syncwarp();
        }
      };
      arrived(0);
      const H* k_tile = tile_at(stage, 0);
      float even[4] = {}, odd[4] = {};
#pragma unroll
      for (int kk = 0; kk < D / 16; ++kk) {
        uint32_t a[4];
        load_matrix4(a, k_tile + (lane & 15) * kLd + kk * 16 + (lane >> 4) * 8);
        mma_16816<H>(kk & 1 ? odd : even, a, q_frag[kk][0], q_frag[kk][1]);
      }
      __syncwarp();
      load(i + kStages * kWarps, stage, 0);
      const int token0 = i * kUnit;
      float s[4], top[2] = {m[0], m[1]};
#pragma unroll
      for (int n = 0; n < 4; ++n) s[n] = (even[n] + odd[n]) * p.scale;
      if (p.softcap > 0)
#pragma unroll
        for (int n = 0; n < 4; ++n) s[n] = soft_cap(s[n], p.softcap);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int token = token0 + (lane >> 2) + 8 * (n >> 1);
        s[n] = token >= runs.from_token && token <= position ? s[n] * kLog2e : -INFINITY;
        top[n & 1] = fmaxf(top[n & 1], s[n]);
      }
      float base[2], shrink[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int k = 4; k < 32; k <<= 1)
          top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], k));
        base[r] = top[r] == -INFINITY ? 0.f : top[r];
        shrink[r] = exp2_of(m[r] - base[r]);
        m[r] = top[r];
        l[r] *= shrink[r];
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        s[n] = exp2_of(s[n] - base[n & 1]);
        l[n & 1] += s[n];
      }
      const uint32_t p0 = transposed8x8(pack2<H>(s[0], s[1])),
                     p1 = transposed8x8(pack2<H>(s[2], s[3]));
      arrived(1);
      const H* v_tile = tile_at(stage, 1);
#pragma unroll
      for (int n = 0; n < D / 16; ++n) {
#pragma unroll
        for (int k = 0; k < 4; ++k) o[n][k] *= shrink[k & 1];
        uint32_t a[4];
        load_matrix4_transposed(
            a, v_tile + ((lane & 7) + ((lane >> 4) << 3)) * kLd + n * 16 + ((lane >> 3) & 1) * 8);
        mma_16816<H>(o[n], a, p0, p1);
      }
      __syncwarp();
      load(i + kStages * kWarps, stage, 1);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    copy_wait<0>();
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int k = 4; k < 32; k <<= 1) l[r] += __shfl_xor_sync(0xffffffffu, l[r], k);

    // Merge of the warps.
    __syncthreads();
    float* all = reinterpret_cast<float*>(stage_base);  // (warps, kHeads, D + 2): o, m, l
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int head = (lane & 3) * 2 + r;
      float* to = all + (warp * kHeads + head) * (D + 2);
      if (head < tile_heads) {
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
          to[n * 16 + (lane >> 2)] = o[n][r];
          to[n * 16 + (lane >> 2) + 8] = o[n][2 + r];
        }
        if (lane < 4) {
          to[D] = m[r];
          to[D + 1] = l[r];
        }
      }
    }
    __syncthreads();
    // Weight of each warp's part of a head, and the head's maximum and sum over the block.
    __shared__ float weight_of[kHeads * kWarps];
    __shared__ float2 states[kHeads];
    if (threadIdx.x < kHeads * kWarps) {
      const int h = threadIdx.x / kWarps, w = threadIdx.x % kWarps;
      const float2 state = *reinterpret_cast<const float2*>(all + (w * kHeads + h) * (D + 2) + D);
      float top = state.x;
#pragma unroll
      for (int k = 1; k < kWarps; k <<= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, k));
      const float weight = exp2_of(state.x - (top == -INFINITY ? 0.f : top));
      float sum = weight * state.y;
#pragma unroll
      for (int k = 1; k < kWarps; k <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, k);
      weight_of[threadIdx.x] = weight;
      if (w == 0) states[h] = make_float2(top, sum);
    }
    __syncthreads();

    const int64_t row_head = int64_t{row} * p.heads + first_head;
    if constexpr (kCluster) cluster_wait();
    for (int tile = warp; tile < tiles; tile += kWarps) {
      const int h = tile / kTilesOfHead, first = tile % kTilesOfHead * 32, d = first + lane;
      const float* from = all + h * (D + 2) + min(d, dim - 1);
      float value = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w)
        value = __fmaf_rn(weight_of[h * kWarps + w], from[w * kHeads * (D + 2)], value);
      if (runs.active == 1)
        store_outputs(p, row, first_head + h, first,
                      states[h].y > 0 ? __fdividef(value, states[h].y) : 0.f);
      else if (kCluster)
        inbox_send(tile / kInboxTiles, inbox + (run * kInboxTiles + tile % kInboxTiles) * 32 + lane,
                   value, &inbox_full);
      else if (d < dim)
        p.scratch.partial[((row_head + h) * p.scratch.runs + run) * dim + d] = value;
    }
    if (runs.active == 1) return;
    if constexpr (kCluster) {
      const int values = (tiles + kInboxTiles - 1) / kInboxTiles * (2 * kHeads);
      for (int i = threadIdx.x; i < values; i += kWarps * 32) {
        const int at = i % (2 * kHeads);
        inbox_send(i / (2 * kHeads), reinterpret_cast<float*>(inbox_states + run * kHeads) + at,
                   reinterpret_cast<const float*>(states)[at], &inbox_full);
      }
      return;
    }
    if (threadIdx.x < tile_heads)
      p.scratch.state[(row_head + threadIdx.x) * p.scratch.runs + run] = states[threadIdx.x];
  };
  if (run < runs.active) {
    attend();
  } else {
    grid_dependency_wait();
    if constexpr (kCluster) cluster_wait();
  }
  if constexpr (kCluster)
    if (runs.active > 1) merge_inbox();
}

inline constexpr int kMergeWarps = 4;
/// Rows of several runs from what decode_kernel left in global memory: a warp merges 32 outputs of
/// a head. PRECOND: kMergeWarps * 32 threads; grid (heads * ceil(dim / 32) / kMergeWarps, rows).
template <int kAhead>
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
                merge_runs<kAhead>(
                    runs.active, [&](int k) { return __ldcg(states + k); },
                    [&](int k) { return __ldcg(values + int64_t{k} * p.dim); }));
}

}  // namespace decode
}  // namespace apud::cuda
