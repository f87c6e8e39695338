// An encoder's products whose results are added to the residual stream and normed there, on Hopper
// in one kernel: norm(residual + x wᵀ + bias), 384 outputs wide. A block takes 128 rows with all
// their outputs, which two warpgroups of 64 rows hold in registers, so that a row's mean and
// deviation are sums over four lanes. The residual, then steps of 64 values of k, stream through a
// ring in shared memory.
#include <algorithm>

#include "kernels/cuda/gemm.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace apud::cuda {
namespace {

constexpr int kWidth = 384, kHalf = kWidth / 2, kDepth = 64;  // values of k a step
constexpr int kRows = 64;                                     // of a warpgroup
constexpr int kStages = 3;
constexpr int kBoxValues = kRows * kDepth, kWeightValues = kWidth * kDepth;
// A step's boxes of x, then its weights; or of the residual stream half of the columns.
constexpr int kStageValues = 2 * kBoxValues + kWeightValues;
constexpr int kBoxes = kWidth / kDepth, kHalfBoxes = kHalf / kDepth;
constexpr int kThreads = 384;
constexpr int kStagedRow = kDepth + 8;  // of a warp's 16 rows of results; no bank conflicts
constexpr size_t kShared =
    1024 + (size_t{kStages} * kStageValues + size_t{2} * kRows * kStagedRow) * 2;
constexpr int kFewRows = 2048;  // with fewer, smaller tiles fill the card better

struct ProductNormParams {
  CUtensorMap x, w, residual;
  void* out;
  int64_t out_ld;
  const void* bias;             // may be null
  const float *weight, *shift;  // of the norm; shift may be null
  float eps;
  int rows, steps;
};

/// Two results in one conversion; fp16 saturates, as everywhere.
template <typename H>
__device__ __forceinline__ uint32_t pack_results(float a, float b) {
  uint32_t bits;
  if constexpr (std::is_same_v<H, __half>) {
    const __half2 most = __half2half2(__ushort_as_half(0x7bff));
    const __half2 two = __hmax2(__hmin2(__floats2half2_rn(a, b), most), __hneg2(most));
    memcpy(&bits, &two, 4);
  } else {
    const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
    memcpy(&bits, &two, 4);
  }
  return bits;
}

/// PRECOND: kThreads threads.
template <typename H>
__global__ void __launch_bounds__(kThreads, 1)
    product_norm_kernel(const __grid_constant__ ProductNormParams p) {
#ifdef APUD_SM90A
  grid_dependency_trigger();
  extern __shared__ uint8_t raw[];
  H* const ring =
      reinterpret_cast<H*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  __shared__ uint64_t full[kStages], empty[kStages];
  __shared__ float4 bias[kWidth / 4];  // of a thread's columns in two blocks of 8
  __shared__ float4 scales[kHalf];     // the norm's weights and shifts of two columns

  const int tiles = (p.rows + 2 * kRows - 1) / (2 * kRows);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], 8);  // consumer warps
    }
    barrier_init_done();
  }
  auto bias_of = [&](int column) {
    return p.bias ? to_float(static_cast<const H*>(p.bias)[column]) : 0.f;
  };
  for (int i = threadIdx.x; i < kWidth / 4; i += kThreads) {
    const int column = i / 4 * 16 + i % 4 * 2;
    bias[i] =
        make_float4(bias_of(column), bias_of(column + 1), bias_of(column + 8), bias_of(column + 9));
  }
  for (int i = threadIdx.x; i < kHalf; i += kThreads)
    scales[i] = make_float4(p.weight[2 * i], p.weight[2 * i + 1], p.shift ? p.shift[2 * i] : 0.f,
                            p.shift ? p.shift[2 * i + 1] : 0.f);
  __syncthreads();

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
      parity = 1;  // nothing to wait for in the first round
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int row = tile * 2 * kRows;
        for (int h = 0; h < 2; ++h, next_stage()) {
          barrier_wait(&empty[stage], parity);
          barrier_expect(&full[stage], 2 * kHalfBoxes * kBoxValues * 2);
          for (int b = 0; b < 2 * kHalfBoxes; ++b)  // by rows, then columns
            copy_box2(ring + stage * kStageValues + b * kBoxValues, &p.residual, &full[stage],
                      h * kHalf + b % kHalfBoxes * kDepth, row + b / kHalfBoxes * kRows);
        }
        for (int k = 0; k < p.steps; ++k, next_stage()) {
          H* const to = ring + stage * kStageValues;
          barrier_wait(&empty[stage], parity);
          barrier_expect(&full[stage], kStageValues * 2);
          for (int g = 0; g < 2; ++g)
            copy_box2(to + g * kBoxValues, &p.x, &full[stage], k * kDepth, row + g * kRows);
          for (int h = 0; h < 2; ++h)
            copy_box2(to + 2 * kBoxValues + h * kHalf * kDepth, &p.w, &full[stage], k * kDepth,
                      h * kHalf);
        }
      }
    }
    return;
  }

  take_registers<240>();
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  // Where this lane's row of four matrices of 8 x 8 lies in a box, swizzled as copies write it.
  const int row_in = warp * 16 + (lane & 15);
  const int row_at = row_in * 128, block_at = (lane >> 4 << 4) ^ (row_in & 7) << 4;
  auto release = [&](int s) {
    if (lane == 0) barrier_arrive(&empty[s]);
  };
  const uint64_t weights_operand = shared_operand<128>(ring + 2 * kBoxValues, 16);
  H* const staged = ring + kStages * kStageValues + (threadIdx.x >> 5) * 16 * kStagedRow;
  float o[2][kHalf / 2];
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    // The sum begins with the residual and the bias.
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      barrier_wait(&full[stage], parity);
      const uint8_t* const rows =
          reinterpret_cast<const uint8_t*>(ring + stage * kStageValues +
                                           group * kHalfBoxes * kBoxValues) +
          row_at;
#pragma unroll
      for (int n = 0; n < kHalf / 8; n += 2) {
        uint32_t m[4];  // rows, rows 8 below; the same of the next 8 columns
        load_matrix4(m, rows + n / 8 * (kBoxValues * 2) + (block_at ^ n % 8 * 16));
        const float4 b = bias[(h * kHalf + n * 8) / 4 + (lane & 3)];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          H two[2];
          memcpy(two, &m[i], 4);
          o[h][n * 4 + 2 * i] = to_float(two[0]) + (i < 2 ? b.x : b.z);
          o[h][n * 4 + 2 * i + 1] = to_float(two[1]) + (i < 2 ? b.y : b.w);
        }
      }
      __syncwarp();
      release(stage);
      next_stage();
    }
    int before = -1;
#pragma unroll 1
    for (int k = 0; k < p.steps; ++k) {
      barrier_wait(&full[stage], parity);
      const uint8_t* const x =
          reinterpret_cast<const uint8_t*>(ring + stage * kStageValues + group * kBoxValues) +
          row_at;
      const uint64_t w = weights_operand + static_cast<uint32_t>(stage) * (kStageValues * 2 >> 4);
      uint32_t a[2][4], next[4];
      load_matrix4(next, x + block_at);
#pragma unroll
      for (int i = 0; i < kDepth / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) a[i & 1][j] = next[j];
        if (i + 1 < kDepth / 16) load_matrix4(next, x + (block_at ^ (i + 1) * 32));
        product_fence();
#pragma unroll
        for (int h = 0; h < 2; ++h)
          product_registers_rows<H>(o[h], a[i & 1], w + h * (kHalf * kDepth * 2 >> 4) + 2 * i);
        product_commit();
        product_wait<1>();  // those before: their registers are free
        if (i == 0 && before >= 0) release(before);
      }
      before = stage;
      next_stage();
    }
    product_wait<0>();
    pin(o[0]);
    pin(o[1]);
    release(before);

    auto sum_row = [&](float v) {
      v += __shfl_xor_sync(0xffffffffu, v, 1);
      return v + __shfl_xor_sync(0xffffffffu, v, 2);
    };
    float shift[2], factor[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = 0, squares = 0;
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int n = 0; n < kHalf / 8; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float v = o[h][n * 4 + 2 * r + i];
            sum += v;
            squares = fmaf(v, v, squares);
          }
      const float mean = sum_row(sum) * (1.f / kWidth);
      const float variance = fmaf(-mean, mean, sum_row(squares) * (1.f / kWidth));
      factor[r] = rsqrtf(fmaxf(variance, 0.f) + p.eps);
      shift[r] = -mean * factor[r];
    }
    // 64 columns at a time through shared memory, so that eight lanes store a row's 128 bytes.
    const int row = (tile * 2 + group) * kRows + warp * 16 + (lane >> 3);
    H* const out = static_cast<H*>(p.out) + row * p.out_ld + (lane & 7) * 8;
#pragma unroll
    for (int q = 0; q < kBoxes; ++q) {
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        uint32_t words[4];  // rows, rows 8 below; the same of the next 8 columns
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const float4 s = scales[(q * kDepth + (n + k) * 8) / 2 + (lane & 3)];
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const float* v = &o[q / kHalfBoxes][(q % kHalfBoxes * 8 + n + k) * 4 + 2 * r];
            words[k * 2 + r] = pack_results<H>(fmaf(fmaf(v[0], factor[r], shift[r]), s.x, s.z),
                                               fmaf(fmaf(v[1], factor[r], shift[r]), s.y, s.w));
          }
        }
        store_matrix4(words, &staged[(lane & 15) * kStagedRow + n * 8 + (lane >> 4) * 8]);
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 eight = *reinterpret_cast<const uint4*>(
            &staged[((lane >> 3) + 4 * i) * kStagedRow + (lane & 7) * 8]);
        if (row + 4 * i < p.rows)
          *reinterpret_cast<uint4*>(out + 4 * i * p.out_ld + q * kDepth) = eight;
      }
      __syncwarp();
    }
  }
#endif
}

template <typename H>
void run(const ProductNormParams& p, int multiprocessors, const Launch& where) {
  auto kernel = product_norm_kernel<H>;
  APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(kShared)));
  const int blocks = std::min(multiprocessors, ceil_div(p.rows, 2 * kRows));
  launch(Launch{where.stream, true}, kernel, dim3(blocks), dim3(kThreads), kShared, p);
}

}  // namespace

bool product_norm(const GemmArgs& g, const NormArgs& n, int multiprocessors, const Launch& where) {
  if (!tensor_copies() || g.rows < kFewRows || g.accumulate || g.n != kWidth || g.k % 8 != 0 ||
      n.kind != NormKind::kLayer || n.offset != 0 || !n.x.half16 || n.out || n.add_to ||
      !copies_take(g.x, g.x_ld) || !copies_take(g.w, g.w_ld) || !copies_take(n.x.data, n.x.ld) ||
      !copies_take(n.half_out, n.half_ld))
    return false;
  const bool bf16 = g.half16 == Half16::kBf16;
  const Matrix x = {const_cast<void*>(g.x), g.x_ld, true},
               w = {const_cast<void*>(g.w), g.w_ld, true};
  ProductNormParams p = {};
  if (!make_matrix_map(&p.x, bf16, x, g.k, g.rows, kDepth, kRows) ||
      !make_matrix_map(&p.w, bf16, w, g.k, kWidth, kDepth, kHalf) ||
      !make_matrix_map(&p.residual, bf16, n.x, kWidth, g.rows, kDepth, kRows))
    return false;
  p.out = n.half_out;
  p.out_ld = n.half_ld;
  p.bias = g.bias;
  p.weight = n.weight;
  p.shift = n.bias;
  p.eps = n.eps;
  p.rows = g.rows;
  p.steps = ceil_div(g.k, kDepth);
  if (bf16)
    run<__nv_bfloat16>(p, multiprocessors, where);
  else
    run<__half>(p, multiprocessors, where);
  return true;
}

}  // namespace apud::cuda
