// An encoder's first feed-forward product with its GELU on Hopper. cuBLASLt has no erf behind its
// products, and a pass of its own reads and writes more than the product does. A block keeps its
// 192 outputs' weights in shared memory for its whole life and streams rows past them. Four
// warpgroups take turns with tiles of 64 rows and half of the outputs, so that three add the bias,
// apply the activation and store while one multiplies.
#include <algorithm>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace apud::cuda {
namespace {

constexpr int kRows = 64, kColumns = 192, kDepth = 64;  // of a tile, and of a box along k
constexpr int kGroups = 4, kHalf = kColumns / 2;
constexpr int kBoxes = 6, kSteps = 3;  // k = 384, two boxes at a time
constexpr int kStages = 5;
constexpr int kBoxBytes = kRows * kDepth * 2, kWeightBoxBytes = kColumns * kDepth * 2;
constexpr int kStageBytes = kBoxes / kSteps * kBoxBytes;
constexpr size_t kShared = 1024 + size_t{kBoxes} * kWeightBoxBytes + size_t{kStages} * kStageBytes;
constexpr int kThreads = kGroups * 128 + 32;
constexpr int kFewRows = 2048;  // with fewer, filling shared memory takes longer than it saves

struct RowsParams {
  CUtensorMap x, w;
  void* out;
  const void* bias;  // (columns), may be null
  int64_t out_ld;
  int rows, column_blocks;
};

/// Two results in one conversion; fp16 saturates, as everywhere. They are no less than -0.17.
template <typename H>
__device__ __forceinline__ uint32_t pack_results(float a, float b) {
  uint32_t bits;
  if constexpr (std::is_same_v<H, __half>) {
    const __half2 two = __hmin2(__floats2half2_rn(a, b), __half2half2(__ushort_as_half(0x7bff)));
    memcpy(&bits, &two, 4);
  } else {
    const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
    memcpy(&bits, &two, 4);
  }
  return bits;
}

/// PRECOND: kThreads threads; gridDim.x a multiple of p.column_blocks.
template <typename H>
__global__ void __launch_bounds__(kThreads, 1) rows_kernel(const __grid_constant__ RowsParams p) {
#ifdef APUD_SM90A
  grid_dependency_trigger();
  extern __shared__ uint8_t raw[];
  H* const weights =
      reinterpret_cast<H*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  H* const ring = weights + kBoxes * kColumns * kDepth;
  __shared__ uint64_t weights_full, full[kStages], empty[kStages];
  __shared__ __align__(8) float bias[kColumns];

  const int column = blockIdx.x % p.column_blocks * kColumns;
  const int first = blockIdx.x / p.column_blocks, step = gridDim.x / p.column_blocks;
  const int tiles = (p.rows + kRows - 1) / kRows;
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  if (threadIdx.x == 0) {
    barrier_init(&weights_full, 1);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], 8);  // warps of the two groups that use it
    }
    barrier_init_done();
  }
  for (int i = threadIdx.x; i < kColumns; i += kThreads)
    bias[i] = p.bias ? to_float(static_cast<const H*>(p.bias)[column + i]) : 0.f;
  __syncthreads();

  if (group == kGroups) {
    if (lane != 0) return;
    barrier_expect(&weights_full, kBoxes * kWeightBoxBytes);
    for (int b = 0; b < kBoxes; ++b)
      copy_box2(weights + b * kColumns * kDepth, &p.w, &weights_full, b * kDepth, column);
    // Whoever computes or stores does so behind a copy of this thread.
    grid_dependency_wait();
    copies_see_writes();
    int n = 0;  // stages so far
    for (int tile = first; tile < tiles; tile += step)
      for (int b = 0; b < kBoxes; b += kBoxes / kSteps, ++n) {
        const int stage = n % kStages;
        if (n >= kStages) barrier_wait(&empty[stage], (n / kStages - 1) & 1);
        barrier_expect(&full[stage], kStageBytes);
        for (int i = 0; i < kBoxes / kSteps; ++i)
          copy_box2(ring + (stage * kBoxes / kSteps + i) * kRows * kDepth, &p.x, &full[stage],
                    (b + i) * kDepth, tile * kRows);
      }
    return;
  }

  // Turns: a group issues its products from when it took barrier 1 + group; with its last stage it
  // hands on the next.
  auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); };
  auto hand_turn = [&] {
    asm volatile("bar.arrive %0, 256;" ::"r"(1 + (group + 1) % kGroups) : "memory");
  };
  auto release = [&](int stage) {
    if (lane == 0) barrier_arrive(&empty[stage]);
  };
  const int half = group & 1;
  const int half_column = half * kHalf + (lane & 3) * 2;  // columns of this thread: and 8 n on
  // Of two blocks of 8 columns, a lane stores half a row of one: an even lane of the first.
  const bool odd = lane & 1;
  H* const out_lane = static_cast<H*>(p.out) + column + half * kHalf + (lane & 2) * 2 + 8 * odd;
  // Operands of 16 values of k: the next are 32 bytes on, 2 in a descriptor's units.
  const uint64_t ring_operand = shared_operand<128>(ring, 16),
                 weights_operand = shared_operand<128>(weights + half * kHalf * kDepth, 16);
  barrier_wait(&weights_full, 0);
  if (group == kGroups - 1) hand_turn();

  float c[kHalf / 2];
  int done = 0;  // tiles of this block so far: two groups take one, the other two the next
  for (int tile = first; tile < tiles; tile += step, ++done) {
    if ((done & 1) != group / 2) continue;
#pragma unroll
    for (int n = 0; n < kHalf / 8; ++n) {
      const float2 b = *reinterpret_cast<const float2*>(&bias[half_column + n * 8]);
      c[n * 4] = c[n * 4 + 2] = b.x;
      c[n * 4 + 1] = c[n * 4 + 3] = b.y;
    }
    take_turn();
    int stage = done * kSteps % kStages, parity = done * kSteps / kStages & 1, before = 0;
    // A stage's products last hardly longer than a warp takes to issue them: nothing is computed
    // here that need not be.
#pragma unroll
    for (int b = 0; b < kBoxes; b += kBoxes / kSteps) {
      barrier_wait(&full[stage], parity);
      if (b == kBoxes - kBoxes / kSteps)
        hand_turn();  // the next one is ready when these are issued
      product_fence();
      const uint64_t rows = ring_operand + stage * (kStageBytes >> 4);
#pragma unroll
      for (int i = 0; i < kBoxes / kSteps; ++i)
#pragma unroll
        for (int k = 0; k < kDepth / 16; ++k)
          product_shared<H>(c, rows + i * (kBoxBytes >> 4) + 2 * k,
                            weights_operand + (b + i) * (kWeightBoxBytes >> 4) + 2 * k, true);
      product_commit();
      if (b > 0) {
        product_wait<1>();
        release(before);
      }
      before = stage;
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    product_wait<0>();
    pin(c);
    release(before);
    const int row = tile * kRows + warp * 16 + (lane >> 2);
    H* const out = out_lane + row * p.out_ld;
#pragma unroll
    for (int n = 0; n < kHalf / 8; n += 2) {
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = c[n * 4 + i];
      gelu_erf(v);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint32_t w0 = pack_results<H>(v[2 * r], v[2 * r + 1]),
                       w1 = pack_results<H>(v[4 + 2 * r], v[5 + 2 * r]);
        const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? w0 : w1, 1);
        if (row + 8 * r < p.rows)
          *reinterpret_cast<uint2*>(out + 8 * r * p.out_ld + n * 8) =
              odd ? make_uint2(other, w1) : make_uint2(w0, other);
      }
    }
  }
  // The turn that nobody takes: no barrier is left half full.
  if ((done & 1) * 2 == group) take_turn();
#endif
}

template <typename H>
void run(const RowsParams& p, int multiprocessors, cudaStream_t stream) {
  auto kernel = rows_kernel<H>;
  APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(kShared)));
  const int tiles = ceil_div(p.rows, kRows);
  const int blocks = std::min(multiprocessors / p.column_blocks, tiles) * p.column_blocks;
  launch(Launch{stream, true}, kernel, dim3(blocks), dim3(kThreads), kShared, p);
}

}  // namespace

bool product_gelu(const GemmArgs& g, int multiprocessors, cudaStream_t stream) {
  if (!tensor_copies() || g.rows < kFewRows || g.accumulate || !g.out.half16 || g.k % kDepth != 0 ||
      g.k > kBoxes * kDepth || g.n % kColumns != 0 || g.n / kColumns > multiprocessors ||
      !copies_take(g.x, g.x_ld) || !copies_take(g.w, g.w_ld) || !copies_take(g.out.data, g.out.ld))
    return false;
  const bool bf16 = g.half16 == Half16::kBf16;
  RowsParams p = {};
  const Matrix x = {const_cast<void*>(g.x), g.x_ld, true},
               w = {const_cast<void*>(g.w), g.w_ld, true};
  if (!make_matrix_map(&p.x, bf16, x, g.k, g.rows, kDepth, kRows) ||
      !make_matrix_map(&p.w, bf16, w, g.k, g.n, kDepth, kColumns))
    return false;
  p.out = g.out.data;
  p.out_ld = g.out.ld;
  p.bias = g.bias;
  p.rows = g.rows;
  p.column_blocks = g.n / kColumns;
  if (bf16)
    run<__nv_bfloat16>(p, multiprocessors, stream);
  else
    run<__half>(p, multiprocessors, stream);
  return true;
}

}  // namespace apud::cuda
