// An encoder's products of few rows, those of a short text: what takes time there is not the work
// but a hundred kernels one behind the other. A block makes 8 outputs of 16 rows; its warps share
// k, each with all its weights on their way before the stage waits for the one before it, and all
// its part of the rows behind that.
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/tensor_map.h"

namespace apud::cuda {
namespace {

constexpr int kColumns = 8, kWarps = 8, kTileRows = 16;
constexpr int kChunk = 32;  // values of k that a warp takes at once, 8 a lane

struct FewParams {
  const void *x, *w, *bias;  // bias may be null
  int64_t x_ld, w_ld;
  Matrix out;
  int rows, n, k;
  bool gelu;
};

/// PRECOND: kWarps warps; grid (outputs / 8, rows / 16); k % 8 == 0 and all rows aligned to 16
/// bytes. kAhead: chunks of a warp that are in flight together.
template <typename H, int kAhead>
__global__ void __launch_bounds__(kWarps * 32) few_kernel(const __grid_constant__ FewParams p) {
  __shared__ float2 sums[kWarps][kTileRows][kColumns / 2];
  grid_dependency_trigger();
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int row = lane >> 2, quad = lane & 3;  // of a lane's values in either factor
  const int column = blockIdx.x * kColumns, first_row = blockIdx.y * kTileRows;
  // A lane's 8 neighbouring values of k stand for those that two products want of it, 4 each: k is
  // summed over, so that its order is free as long as both factors have the same.
  const H* const w =
      static_cast<const H*>(p.w) + min(column + row, p.n - 1) * p.w_ld + quad * (kChunk / 4);
  const H* const x = static_cast<const H*>(p.x) + quad * (kChunk / 4);
  const H* const x_row[2] = {x + min(first_row + row, p.rows - 1) * p.x_ld,
                             x + min(first_row + row + 8, p.rows - 1) * p.x_ld};
  auto inside = [&](int k) { return k + quad * (kChunk / 4) < p.k; };

  uint4 b[kAhead];
  auto ask_weights = [&](int first) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int k = first + i * kWarps * kChunk;
      b[i] = inside(k) ? ld_weight16(w + k) : make_uint4(0, 0, 0, 0);
    }
  };
  ask_weights(warp * kChunk);

  // The two neighbouring outputs that one of the first threads finishes.
  const int in_tile = threadIdx.x >> 2, out_row = first_row + in_tile,
            out_column = column + 2 * (threadIdx.x & 3);
  const bool finishes = in_tile < kTileRows && out_row < p.rows && out_column < p.n;
  const bool both = out_column + 1 < p.n;
  auto bias_of = [&](int i) {
    return p.out.half16 ? to_float(static_cast<const H*>(p.bias)[i])
                        : static_cast<const float*>(p.bias)[i];
  };
  float2 bias = make_float2(0, 0);
  if (finishes && p.bias)
    bias = make_float2(bias_of(out_column), both ? bias_of(out_column + 1) : 0.f);
  grid_dependency_wait();

  float c[4] = {};
  for (int first = warp * kChunk; first < p.k; first += kAhead * kWarps * kChunk) {
    if (first != warp * kChunk) ask_weights(first);
    float4 a[kAhead][2];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int k = first + i * kWarps * kChunk;
        a[i][r] = make_float4(0, 0, 0, 0);
        if (inside(k)) a[i][r] = ld_stream4(reinterpret_cast<const float*>(x_row[r] + k));
      }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      uint4 low, high;
      memcpy(&low, &a[i][0], 16);
      memcpy(&high, &a[i][1], 16);
      const uint32_t one[4] = {low.x, high.x, low.y, high.y},
                     two[4] = {low.z, high.z, low.w, high.w};
      mma_16816<H>(c, one, b[i].x, b[i].y);
      mma_16816<H>(c, two, b[i].z, b[i].w);
    }
  }
  sums[warp][row][quad] = make_float2(c[0], c[1]);
  sums[warp][row + 8][quad] = make_float2(c[2], c[3]);
  __syncthreads();
  if (!finishes) return;
  float v[2] = {bias.x, bias.y};
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    const float2 part = sums[i][in_tile][threadIdx.x & 3];
    v[0] += part.x;
    v[1] += part.y;
  }
  if (p.gelu) gelu_erf(v);
  const int64_t at = out_row * p.out.ld + out_column;
  if (p.out.half16 && both) {
    *reinterpret_cast<uint32_t*>(static_cast<H*>(p.out.data) + at) = pack2<H>(v[0], v[1]);
    return;
  }
  for (int i = 0; i <= both; ++i)
    if (p.out.half16)
      static_cast<H*>(p.out.data)[at + i] = to_h16<H>(v[i]);
    else
      static_cast<float*>(p.out.data)[at + i] = v[i];
}

template <typename H>
void run(const FewParams& p, const Launch& where) {
  auto kernel = p.k <= 2 * kWarps * kChunk ? few_kernel<H, 2> : few_kernel<H, 6>;
  launch(where, kernel, dim3(ceil_div(p.n, kColumns), ceil_div(p.rows, kTileRows)),
         dim3(kWarps * 32), 0, p);
}

}  // namespace

bool product_few(const GemmArgs& g, bool gelu, const Launch& where) {
  // Results are stored in pairs.
  const bool pairs = reinterpret_cast<uintptr_t>(g.out.data) % 8 == 0 && g.out.ld % 8 == 0;
  if (g.rows > kShortText || g.accumulate || g.k % 8 != 0 || !copies_take(g.x, g.x_ld) ||
      !copies_take(g.w, g.w_ld) || !pairs)
    return false;
  const FewParams p = {g.x, g.w, g.bias, g.x_ld, g.w_ld, g.out, g.rows, g.n, g.k, gelu};
  if (g.half16 == Half16::kBf16)
    run<__nv_bfloat16>(p, where);
  else
    run<__half>(p, where);
  return true;
}

}  // namespace apud::cuda
