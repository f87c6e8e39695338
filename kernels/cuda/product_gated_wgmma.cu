// A decoder's gate and up products with SiLU(gate) * up on Hopper in one kernel: cuBLASLt has no
// such end, and a pass of its own writes and reads both results once more. A block takes 128 rows
// and 128 outputs of either product, which two warpgroups of 64 rows hold in registers. Two blocks
// of a cluster share the weights, of which each copies one half to both. Blocks stay for many
// tiles, by bands of rows that L2 holds.
#include <algorithm>

#include "kernels/cuda/cluster_inbox.cuh"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace apud::cuda {
namespace {

constexpr int kRows = 128, kColumns = 128, kDepth = 64;  // of a block; values of k a step
constexpr int kCluster = 2, kStages = 4, kThreads = 384;
constexpr int kBoxValues = 128 * kDepth;  // of x, of gate's weights, of up's
constexpr int kStageValues = 3 * kBoxValues;
constexpr int kBand = 8;  // tiles of a cluster: 2,048 rows, 16 MB where they have 4,096 values
constexpr size_t kShared = 1024 + size_t{kStages} * kStageValues * 2;

struct GatedParams {
  CUtensorMap x, w;
  void* out;
  int64_t out_ld;
  int rows, steps, gate_row, up_row;  // rows of w where the two begin
  int row_tiles, columns, tiles;      // tiles of a cluster
};

struct Place {
  int row, column;  // the first ones of a block's tile
};
__device__ __forceinline__ Place place_of(const GatedParams& p, int tile, int rank) {
  const int band = tile / (kBand * p.columns), in = tile - band * kBand * p.columns,
            rows = min(kBand, p.row_tiles - band * kBand);
  return {((band * kBand + in % rows) * kCluster + rank) * kRows, in / rows * kColumns};
}

/// SiLU(gate) * up of several values side by side.
template <int N>
__device__ __forceinline__ void gated(float (&gate)[N], const float (&up)[N]) {
  float e[N];
#pragma unroll
  for (int i = 0; i < N; ++i)
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e[i]) : "f"(gate[i] * -1.4426950408889634f));
#pragma unroll
  for (int i = 0; i < N; ++i) asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(e[i]) : "f"(e[i] + 1.f));
#pragma unroll
  for (int i = 0; i < N; ++i) gate[i] *= up[i] * e[i];
}

/// PRECOND: kThreads threads, clusters of kCluster blocks, kShared bytes.
template <typename H>
__global__ void __launch_bounds__(kThreads, 1) gated_kernel(const __grid_constant__ GatedParams p) {
#ifdef APUD_SM90A
  extern __shared__ uint8_t raw[];
  H* const ring =
      reinterpret_cast<H*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  __shared__ uint64_t full[kStages], empty[kStages];
  const int rank = blockIdx.x % kCluster, first = blockIdx.x / kCluster,
            jump = gridDim.x / kCluster;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], 8 * kCluster);  // consumer warps of all blocks
    }
    barrier_init_done();
  }
  __syncthreads();
  cluster_arrive();
  cluster_wait();
  grid_dependency_trigger();

  int stage = 0, parity = 0;
  auto next_stage = [&] {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  };
  if (threadIdx.x >= 256) {
    give_registers<24>();
    if (threadIdx.x == 256) {
      // Whoever computes or stores does so behind a copy of this thread.
      grid_dependency_wait();
      copies_see_writes();
      const int w_row = rank == 0 ? p.gate_row : p.up_row;
      for (int tile = first; tile < p.tiles; tile += jump) {
        const Place at = place_of(p, tile, rank);
        for (int k = 0; k < p.steps; ++k, next_stage()) {
          H* const to = ring + stage * kStageValues;
          barrier_wait(&empty[stage], parity ^ 1);
          barrier_expect(&full[stage], kStageValues * 2);
          copy_box2(to, &p.x, &full[stage], k * kDepth, at.row);
          copy_box2_to_cluster(to + (1 + rank) * kBoxValues, &p.w, &full[stage], k * kDepth,
                               w_row + at.column, (1 << kCluster) - 1);
        }
      }
    }
  } else {
    take_registers<240>();
    const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    const uint64_t x_operand = shared_operand<128>(ring + group * 64 * kDepth, 16),
                   w_operand = shared_operand<128>(ring + kBoxValues, 16);
    auto release = [&](int s) {  // to every block that copies here
      if (lane < kCluster) barrier_arrive_of(&empty[s], lane);
    };
    float c[kColumns];  // of the lane's two rows: gate's, then up's
    for (int tile = first; tile < p.tiles; tile += jump) {
      int before = -1;
#pragma unroll 1
      for (int k = 0; k < p.steps; ++k, next_stage()) {
        barrier_wait(&full[stage], parity);
        product_fence();
        const uint64_t at = static_cast<uint64_t>(stage) * (kStageValues * 2 >> 4);
#pragma unroll
        for (int i = 0; i < kDepth / 16; ++i)
          product_shared<H>(c, x_operand + at + 2 * i, w_operand + at + 2 * i, k > 0 || i > 0);
        product_commit();
        if (before >= 0) {
          product_wait<1>();
          release(before);
        }
        before = stage;
      }
      product_wait<0>();
      pin(c);
      release(before);

      const Place at = place_of(p, tile, rank);
      const int row = at.row + group * 64 + warp * 16 + (lane >> 2);
      H* const out = static_cast<H*>(p.out) + at.column + (lane & 3) * 8;
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int n0 = 0; n0 < kColumns / 8; n0 += 4) {
          float v[8], up[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            v[i] = c[(n0 + i / 2) * 4 + 2 * r + i % 2];
            up[i] = c[kColumns / 2 + (n0 + i / 2) * 4 + 2 * r + i % 2];
          }
          gated(v, up);
          uint32_t words[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) words[i] = pack2<H>(v[2 * i], v[2 * i + 1]);
          const uint4 eight = row_of_quad(words, lane);
          if (row + 8 * r < p.rows)
            *reinterpret_cast<uint4*>(out + (row + 8 * r) * p.out_ld + n0 * 8) = eight;
        }
    }
  }
  // No block leaves while another may still copy to it or arrive at its barriers.
  __syncwarp();
  cluster_arrive();
  cluster_wait();
#endif
}

template <typename H>
void run(const GatedParams& p, int multiprocessors, const Launch& where) {
  auto kernel = gated_kernel<H>;
  APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(kShared)));
  const int clusters = std::min(multiprocessors / kCluster, p.tiles);
  launch_cluster(kCluster, Launch{where.stream, true}, kernel, dim3(clusters * kCluster),
                 dim3(kThreads), kShared, p);
}

}  // namespace

bool product_gated(const GemmArgs& g, int gate_row, int up_row, int multiprocessors,
                   const Launch& where) {
  if (!tensor_copies() || g.rows < kGatedRows || g.accumulate || g.bias || !g.out.half16 ||
      g.n % kColumns != 0 || g.k % 8 != 0 || multiprocessors < kCluster ||
      !copies_take(g.x, g.x_ld) || !copies_take(g.w, g.w_ld) || !copies_take(g.out.data, g.out.ld))
    return false;
  const bool bf16 = g.half16 == Half16::kBf16;
  GatedParams p = {};
  const Matrix x = {const_cast<void*>(g.x), g.x_ld, true},
               w = {const_cast<void*>(g.w), g.w_ld, true};
  if (!make_matrix_map(&p.x, bf16, x, g.k, g.rows, kDepth, kRows) ||
      !make_matrix_map(&p.w, bf16, w, g.k, std::max(gate_row, up_row) + g.n, kDepth, kColumns))
    return false;
  p.out = g.out.data;
  p.out_ld = g.out.ld;
  p.rows = g.rows;
  p.steps = ceil_div(g.k, kDepth);
  p.gate_row = gate_row;
  p.up_row = up_row;
  p.row_tiles = ceil_div(g.rows, kRows * kCluster);
  p.columns = g.n / kColumns;
  p.tiles = p.row_tiles * p.columns;
  if (bf16)
    run<__nv_bfloat16>(p, multiprocessors, where);
  else
    run<__half>(p, multiprocessors, where);
  return true;
}

}  // namespace apud::cuda
