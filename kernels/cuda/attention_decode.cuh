// Split-KV decode attention. A block takes one row, one KV head with its (up to 8) query heads as
// the columns of one tensor-core tile, and a run of tokens; its warps take turns with units of 16
// tokens, each streams its own through its own asynchronous copies, and they never wait for one
// another. Runs are merged in fixed order by their log-sum-exp (Flash-Decoding; Dao et al. 2023):
// few runs are a cluster on Hopper and merge through each other's shared memory, many go through
// global memory and a kernel of their own. Where several rows have more runs than are resident at
// once, a block takes several, the next one's tokens on their way while one is merged; all of a row
// it merges itself. Long rows on Hopper have attention_long.cu.
#pragma once

#include "kernels/cuda/attention_decode_parts.cuh"
#include "kernels/cuda/cluster_inbox.cuh"

namespace apud::cuda {
namespace decode {

// A cluster merges kInboxTiles times 32 outputs in each of its blocks.
inline constexpr int kMaxCluster = 16, kInboxTiles = 4;

/// Shared memory: q (kHeads, D+8) H; new k and v (2, D) float; 128 angles; per warp and stage K and
/// V (16, D+8) H, reused for the merge. In a cluster, inbox_bytes are added, for several runs
/// several_bytes, then rotation_bytes.
template <int D>
constexpr size_t decode_shared(size_t warps, int stages) {
  const size_t tiles = warps * stages * 2 * kUnit * (D + 8) * 2,
               merge = warps * kHeads * (D + 2) * 4;
  return size_t{kHeads} * (D + 8) * 2 + 2 * D * 4 + 1024 + (tiles > merge ? tiles : merge);
}
/// Per run the outputs that this block merges and the heads' states.
inline size_t inbox_bytes(int runs) { return size_t(runs) * (kInboxTiles * 32 * 4 + kHeads * 8); }

/// Where a block has several runs: the warps' parts of one; where it has all `runs` of a row, each
/// one's outputs and states.
template <int D>
__host__ __device__ inline size_t several_bytes(const DecodeParams& p, int warps, int runs) {
  const size_t heads = p.gqa < kHeads ? p.gqa : kHeads;
  return warps * heads * (D + 2) * 4 + runs * (heads * D * 4 + kHeads * 8);
}

/// PRECOND: kWarps * 32 threads; grid (runs, kv_heads * query tiles, rows); dim <= D, dim % 8 == 0.
/// With kCluster, the runs of a head are one cluster, no smaller than its outputs need and of
/// kMaxCluster blocks at most. Without, a block takes p.runs_each of them; merge_kernel follows
/// where that is not all, and all are kMaxCluster at most.
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
  float* fresh = reinterpret_cast<float*>(q_shared + kHeads * kLd);       // new k, new v
  uint8_t* stage_base = reinterpret_cast<uint8_t*>(fresh + 2 * D + 256);  // after 128 angles

  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const BlockPlace at = place_of(p);
  const int row = at.row, kv_head = at.kv_head, first_head = at.first_head,
            tile_heads = at.tile_heads;
  const int dim = p.dim;
  const int position = p.batch.positions[row];
  const int32_t* pages =
      p.batch.pages + p.batch.row_pages[p.kv.group * p.batch.token_capacity + row];

  // Tokens read from pages. A fused new token is put among them in shared memory.
  const int cached = p.fused ? position : position + 1;
  const RowRuns runs = runs_of(p.runs, position, p.window);
  constexpr int kTilesOfHead = D / 32;
  const int first_run = kCluster ? blockIdx.x : blockIdx.x * p.runs_each,
            last_run = kCluster ? first_run + 1 : min(first_run + p.runs_each, runs.active),
            tiles = tile_heads * kTilesOfHead;
  // In a cluster every block has an inbox: of each run the states of all heads, and the outputs
  // that this block merges. So has a block that has all runs.
  uint8_t* more = shared + decode_shared<D>(kWarps, kStages);
  const bool several = !kCluster && p.runs_each > 1, all_runs = several && gridDim.x == 1;
  float* inbox = reinterpret_cast<float*>(more);
  if (several) inbox += several_bytes<D>(p, kWarps, 0) / 4;
  const int inbox_runs = kCluster   ? gridDim.x
                         : all_runs ? p.runs.few
                                    : 0,
            inbox_values = kCluster ? kInboxTiles * 32 : min(p.gqa, kHeads) * D;
  float2* inbox_states = reinterpret_cast<float2*>(inbox + inbox_runs * inbox_values);
  float* rotation_scratch = reinterpret_cast<float*>(inbox_states + inbox_runs * kHeads);
  auto merge_inbox = [&] {
    const int mine = min(kInboxTiles, tiles - static_cast<int>(blockIdx.x) * kInboxTiles);
    if (threadIdx.x == 0 && mine > 0)
      inbox_expect(&inbox_full, runs.active * (mine * 32 * 4 + kHeads * 8));
    if (warp >= mine) return;
    const int tile = blockIdx.x * kInboxTiles + warp, h = tile / kTilesOfHead;
    inbox_wait(&inbox_full);
    __syncwarp();
    const float value = merge_runs<kMaxCluster>(
        runs.active, [&](int k) { return inbox_states[k * kHeads + h]; },
        [&](int k) { return inbox[(k * kInboxTiles + warp) * 32 + lane]; });
    store_outputs(p, row, first_head + h, tile % kTilesOfHead * 32, value);
  };
  // One place for the end of both, or its instructions would be there twice.
  auto attend = [&] {
    const bool has_fresh = p.fused && last_run == runs.active;
    // The unit of this warp that is loaded next.
    int ahead_run = first_run, ahead = runs.first(first_run) + warp,
        ahead_end = runs.first(first_run + 1);
    auto settle = [&] {  // in the next run that has one
      while (!kCluster && ahead >= ahead_end && ++ahead_run < last_run) {
        ahead = ahead_end + warp;
        ahead_end = runs.first(ahead_run + 1);
      }
    };
    settle();

    H* warp_stages = reinterpret_cast<H*>(stage_base) + warp * (kStages * 2 * 16 * kLd);
    auto tile_at = [&](int stage, int which) {
      return warp_stages + (stage * 2 + which) * 16 * kLd;
    };

    // Loads K (which = 0) or V of the unit ahead into a stage, and goes on to the next.
    auto load = [&](int stage, int which) {
      const int i = ahead;
      if (i < ahead_end) {
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
      if (which == 1) {
        ahead += kWarps;
        settle();
      }
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
      for (int which = 0; which < 2; ++which) load(s, which);
    __syncwarp();  // the barrier takes whole warps
    __syncthreads();
    if (p.fused) grid_dependency_wait();

    fetch_queries<D, H, kI8, kWarps>(p, at, position, pages, has_fresh, q_shared, fresh,
                                     rotation_scratch + warp * D, angles);
    __syncthreads();

    // Scores are K q^T: tokens down, heads across. So are the results, V^T P: values down.
    uint32_t q_frag[D / 16][2];
    load_queries<D>(q_frag, q_shared);

    const int64_t row_head = int64_t{row} * p.heads + first_head;
    __shared__ WarpMerge<D, kWarps> merge;
    int stage = 0;
    for (int run = first_run; run < last_run; ++run) {
      WarpState<D> state;
      state.clear();

      // A unit at a time. K of the next one comes as soon as this one's scores are made, V when its
      // sums are: half of a unit's way is behind the work on the other half.
      constexpr int kPending = 2 * kStages - 1;
      const int end = runs.first(run + 1);
      for (int i = runs.first(run) + warp; i < end; i += kWarps) {
        auto arrived = [&](int which) {
          copy_wait<kPending>();
          __syncwarp();
          if (has_fresh && i == runs.end - 1) {
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
        load(stage, 0);
        float s[4], shrink[2];
        uint32_t probabilities[2];
#pragma unroll
        for (int n = 0; n < 4; ++n) s[n] = even[n] + odd[n];
        unit_softmax<H>(p, runs.from_token, position, i * kUnit, s, state, shrink, probabilities);
        arrived(1);
        const H* v_tile = tile_at(stage, 1);
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
#pragma unroll
          for (int k = 0; k < 4; ++k) state.o[n][k] *= shrink[k & 1];
          uint32_t a[4];
          load_matrix4_transposed(
              a, v_tile + ((lane & 7) + ((lane >> 4) << 3)) * kLd + n * 16 + ((lane >> 3) & 1) * 8);
          mma_16816<H>(state.o[n], a, probabilities[0], probabilities[1]);
        }
        __syncwarp();
        load(stage, 1);
        stage = stage + 1 == kStages ? 0 : stage + 1;
      }
      // The warps' parts lie where nothing arrives any more; of several runs, apart.
      float* all = reinterpret_cast<float*>(several ? more : stage_base);
      const int stride = (several ? min(p.gqa, kHeads) : kHeads) * (D + 2);
      if (!several) copy_wait<0>();
      __syncthreads();
      merge.gather(state, tile_heads, all, stride);

      if constexpr (kCluster) cluster_wait();
      for (int tile = warp; tile < tiles; tile += kWarps) {
        const int h = tile / kTilesOfHead, first = tile % kTilesOfHead * 32, d = first + lane;
        const float value = merge.value(all, stride, h, min(d, dim - 1));
        if (runs.active == 1)
          store_outputs(p, row, first_head + h, first,
                        merge.state[h].y > 0 ? __fdividef(value, merge.state[h].y) : 0.f);
        else if (kCluster)
          inbox_send(tile / kInboxTiles,
                     inbox + (first_run * kInboxTiles + tile % kInboxTiles) * 32 + lane, value,
                     &inbox_full);
        else if (all_runs)
          inbox[run * tiles * 32 + tile * 32 + lane] = value;
        else if (d < dim)
          p.scratch.partial[((row_head + h) * p.scratch.runs + run) * dim + d] = value;
      }
      if (runs.active == 1) return;
      if constexpr (kCluster) {
        const int values = (tiles + kInboxTiles - 1) / kInboxTiles * (2 * kHeads);
        for (int i = threadIdx.x; i < values; i += kWarps * 32) {
          const int of = i % (2 * kHeads);
          inbox_send(i / (2 * kHeads),
                     reinterpret_cast<float*>(inbox_states + first_run * kHeads) + of,
                     reinterpret_cast<const float*>(merge.state)[of], &inbox_full);
        }
        return;
      }
      if (threadIdx.x < tile_heads) {
        float2& to = all_runs ? inbox_states[run * kHeads + threadIdx.x]
                              : p.scratch.state[(row_head + threadIdx.x) * p.scratch.runs + run];
        to = merge.state[threadIdx.x];
      }
    }
    if (!all_runs) return;
    __syncthreads();
    for (int tile = warp; tile < tiles; tile += kWarps) {
      const int h = tile / kTilesOfHead;
      const float value = merge_runs<kMaxCluster>(
          runs.active, [&](int k) { return inbox_states[k * kHeads + h]; },
          [&](int k) { return inbox[k * tiles * 32 + tile * 32 + lane]; });
      store_outputs(p, row, first_head + h, tile % kTilesOfHead * 32, value);
    }
  };
  if (first_run < runs.active) {
    attend();
  } else {
    grid_dependency_wait();
    if constexpr (kCluster) cluster_wait();
  }
  if constexpr (kCluster)
    if (runs.active > 1) merge_inbox();
}

}  // namespace decode
}  // namespace apud::cuda
