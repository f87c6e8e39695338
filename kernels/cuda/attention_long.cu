// Split-KV decode attention over long rows on Hopper: as in attention_decode.cuh (its bits are the
// same for the same runs), but with one block a multiprocessor and the tensor copy engine: each of
// its warps has a ring of units of its own, a copy of a unit's K and V is two instructions of one
// lane, and 128 KB are in flight from before the stage's wait on. More would leave the products
// before and behind it too small an L1: a multiprocessor keeps its shares of the two while it is
// never empty, and with programmatic launches it never is.
#include "kernels/cuda/attention_long.h"

#include <cmath>

#include "kernels/cuda/attention_decode_parts.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace apud::cuda {
namespace decode {
namespace {

constexpr int kWarps = 8;

/// Of a warp. A stage: per 64 values of a head, K then V of 16 tokens, rows of 128 bytes as the
/// copy engine swizzles them.
template <int D>
struct Ring {
  static constexpr int kHalves = D / 64, kStages = 4 / kHalves;
  static constexpr int kRowBytes = 128, kTile = kUnit * kRowBytes;
  static constexpr int kStage = kHalves * 2 * kTile, kBytes = kStages * kStage;
};
/// The rings; q (kHeads, D+8) H; new k and v (2, D) float; 128 angles. rotation_bytes are added.
template <int D>
constexpr size_t kLongShared = 1024 + size_t{kWarps} * Ring<D>::kBytes + kHeads*(D + 8) * 2 +
                               2 * D * 4 + 1024;

struct LongParams {
  CUtensorMap kv;  // value, token, head, K or V, page
  DecodeParams p;
};

/// PRECOND: kWarps * 32 threads; kLongShared bytes; head width D; grid (runs, kv_heads * query
/// tiles, rows). merge_kernel follows.
template <int D, typename H>
__global__ void __launch_bounds__(kWarps * 32, 2)
    long_kernel(const __grid_constant__ LongParams params) {
#ifdef APUD_SM90A
  using R = Ring<D>;
  const DecodeParams& p = params.p;
  grid_dependency_trigger();
  extern __shared__ uint8_t raw[];
  __shared__ uint64_t full[kWarps][R::kStages];
  const uint32_t rings = (shared_address(raw) + 1023) & ~1023u;
  H* q_shared = reinterpret_cast<H*>(raw + (rings - shared_address(raw)) + kWarps * R::kBytes);
  float* fresh = reinterpret_cast<float*>(q_shared + kHeads * (D + 8));  // new k, new v
  float2* angles = reinterpret_cast<float2*>(fresh + 2 * D);
  float* rotation_scratch = reinterpret_cast<float*>(angles + 128);

  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, run = blockIdx.x;
  const BlockPlace at = place_of(p);
  const int position = p.batch.positions[at.row];
  const int32_t* pages =
      p.batch.pages + p.batch.row_pages[p.kv.group * p.batch.token_capacity + at.row];
  if (lane == 0) {
    for (int s = 0; s < R::kStages; ++s) barrier_init(&full[warp][s], 1);
    barrier_init_done();
  }
  const RowRuns runs = runs_of(p.runs, position, p.window);
  if (run >= runs.active) return;  // at once: it holds a multiprocessor
  const int begin = runs.first(run) + warp, end = runs.first(run + 1);
  const int turns = max(0, (end - begin + kWarps - 1) / kWarps);  // units of this warp
  // Lane i has the page of turn i, of 32 at a time.
  auto pages_from = [&](int turn) {
    const int unit = begin + (turn + lane) * kWarps;
    return unit < end ? pages[unit / kUnitsOfPage] : 0;
  };
  int page = pages_from(0);
  const uint32_t ring = rings + warp * R::kBytes;
  auto copy = [&](int turn, int stage) {
    if (turn > 0 && turn % 32 == 0) page = pages_from(turn);
    const int of_turn = __shfl_sync(0xffffffffu, page, turn & 31);
    if (lane == 0) {
      uint64_t* barrier = &full[warp][stage];
      barrier_expect(barrier, R::kStage);
#pragma unroll
      for (int half = 0; half < R::kHalves; ++half)
        copy_box5(raw + (ring - shared_address(raw)) + stage * R::kStage + half * 2 * R::kTile,
                  &params.kv, barrier, half * 64, (begin + turn * kWarps) % kUnitsOfPage * kUnit,
                  at.kv_head, 0, of_turn);
    }
    __syncwarp();
  };
  if (!p.fused) {
    grid_dependency_wait();
    copies_see_writes();
  }
  __syncwarp();
#pragma unroll 1
  for (int t = 0; t < min(turns, R::kStages); ++t) copy(t, t);

  if (p.fused) {
#pragma unroll 1
    for (int i = threadIdx.x; i < p.rotation.pairs; i += kWarps * 32)
      angles[i] = rotation_of(p.rotation, i, position);
    __syncwarp();
    __syncthreads();
    grid_dependency_wait();
  }
  const bool has_last = run == runs.active - 1;
  fetch_queries<D, H, false, kWarps>(p, at, position, pages, p.fused && has_last, q_shared, fresh,
                                     rotation_scratch + warp * D, angles);
  __syncthreads();

  uint32_t q_frag[D / 16][2];
  load_queries<D>(q_frag, q_shared);
  WarpState<D> state;
  state.clear();

  // A lane's row of a matrix of K and of V, and what the swizzle makes of its 16 bytes' place.
  const uint32_t k_row = (lane & 15) * R::kRowBytes, k_swizzle = ((lane & 7) ^ (lane >> 4)) * 16,
                 v_row = R::kTile + ((lane & 7) + ((lane >> 4) << 3)) * R::kRowBytes,
                 v_swizzle = ((lane & 7) ^ ((lane >> 3) & 1)) * 16;
  int stage = 0, parity = 0;
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    const uint32_t tile = ring + stage * R::kStage;
    const int unit = begin + turn * kWarps;
    barrier_wait(&full[warp][stage], parity);
    if (has_last && unit == runs.end - 1) {
      // The new token among the cached ones; V of rows beyond it may be anything but numbers.
      const int last = position % kUnit, chunk = lane % (D / 8), which = lane / (D / 8);
      if (p.fused && which < 2) {
        const float* from = fresh + which * D + chunk * 8;
        const uint4 row = make_uint4(pack2<H>(from[0], from[1]), pack2<H>(from[2], from[3]),
                                     pack2<H>(from[4], from[5]), pack2<H>(from[6], from[7]));
        store_shared16(tile + (chunk / 8 * 2 + which) * R::kTile + last * R::kRowBytes +
                           ((chunk ^ last) & 7) * 16,
                       row);
      }
#pragma unroll
      for (int half = 0; half < R::kHalves; ++half)
        for (int i = (last + 1) * R::kRowBytes + lane * 16; i < R::kTile; i += 32 * 16)
          store_shared16(tile + (half * 2 + 1) * R::kTile + i, make_uint4(0, 0, 0, 0));
      __syncwarp();
    }
    float even[4] = {}, odd[4] = {};
#pragma unroll
    for (int kk = 0; kk < D / 16; ++kk) {
      uint32_t a[4];
      load_matrix4_at(a, tile + kk / 4 * 2 * R::kTile + k_row + (k_swizzle ^ (kk % 4 * 32)));
      mma_16816<H>(kk & 1 ? odd : even, a, q_frag[kk][0], q_frag[kk][1]);
    }
    float s[4], shrink[2];
    uint32_t probabilities[2];
#pragma unroll
    for (int n = 0; n < 4; ++n) s[n] = even[n] + odd[n];
    unit_softmax<H>(p, runs.from_token, position, unit * kUnit, s, state, shrink, probabilities);
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
#pragma unroll
      for (int k = 0; k < 4; ++k) state.o[n][k] *= shrink[k & 1];
      uint32_t a[4];
      load_matrix4_transposed_at(a,
                                 tile + n / 4 * 2 * R::kTile + v_row + (v_swizzle ^ (n % 4 * 32)));
      mma_16816<H>(state.o[n], a, probabilities[0], probabilities[1]);
    }
    __syncwarp();
    if (turn + R::kStages < turns) copy(turn + R::kStages, stage);
    if (++stage == R::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }

  // Every warp's part lies in its ring, which nothing is on its way to any more.
  float* all = reinterpret_cast<float*>(raw + (rings - shared_address(raw)));
  constexpr int kStride = R::kBytes / 4, kTilesOfHead = D / 32;
  __shared__ WarpMerge<D, kWarps> merge;
  merge.gather(state, at.tile_heads, all, kStride);
  const int64_t row_head = int64_t{at.row} * p.heads + at.first_head;
  if (runs.active == 1) {
    for (int tile = warp; tile < at.tile_heads * kTilesOfHead; tile += kWarps) {
      const int h = tile / kTilesOfHead, first = tile % kTilesOfHead * 32;
      const float sum = merge.state[h].y, value = merge.value(all, kStride, h, first + lane);
      store_outputs(p, at.row, at.first_head + h, first, sum > 0 ? __fdividef(value, sum) : 0.f);
    }
    return;
  }
  for (int i = threadIdx.x; i < at.tile_heads * (D / 2); i += kWarps * 32) {
    const int h = i / (D / 2), d = i % (D / 2) * 2;
    *reinterpret_cast<float2*>(p.scratch.partial + ((row_head + h) * p.scratch.runs + run) * D +
                               d) = merge.value2(all, kStride, h, d);
  }
  if (threadIdx.x < at.tile_heads)
    p.scratch.state[(row_head + threadIdx.x) * p.scratch.runs + run] = merge.state[threadIdx.x];
#endif
}

template <int D, typename H>
void run_long(const DecodeParams& p, dim3 grid, const Launch& where) {
  LongParams params = {};
  params.p = p;
  const cuuint64_t sizes[5] = {D, kKvPageTokens, static_cast<cuuint64_t>(p.kv_heads), 2,
                               cuuint64_t{1} << 24};
  const cuuint64_t strides[4] = {D * 2, static_cast<cuuint64_t>(p.kv.head_bytes),
                                 static_cast<cuuint64_t>(p.kv.v_offset),
                                 static_cast<cuuint64_t>(p.kv.page_bytes)};
  const cuuint32_t box[5] = {64, kUnit, 1, 2, 1};
  APUD_CHECK(make_map(&params.kv, std::is_same_v<H, __nv_bfloat16>, 5, p.kv.base, sizes, strides,
                      box, Ring<D>::kRowBytes, false),
             "the pages of a head are a tensor");
  auto kernel = long_kernel<D, H>;
  const size_t shared = kLongShared<D> + rotation_bytes<D>(p, kWarps);
  APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared)));
  launch(where, kernel, grid, dim3(kWarps * 32), shared, params);
}

}  // namespace
}  // namespace decode

int long_runs(const HeadShape& shape, int multiprocessors) {
  if (!long_width(shape.dim) || !tensor_copies()) return 0;
  const int blocks = shape.kv_heads * ceil_div(shape.heads / shape.kv_heads, decode::kHeads);
  const int runs = std::min(multiprocessors / blocks, decode::kMostRuns);
  return runs * blocks >= multiprocessors * 7 / 8 ? runs : 0;
}

void attention_long(const decode::DecodeParams& p, dim3 grid, const Launch& where) {
  using namespace decode;
  APUD_CHECK(long_width(p.dim) && p.kv.type != KvType::kI8, "widths and pages that this is for");
  const bool fp16 = p.kv.type == KvType::kF16;
  if (p.dim == 64)
    fp16 ? run_long<64, __half>(p, grid, where) : run_long<64, __nv_bfloat16>(p, grid, where);
  else
    fp16 ? run_long<128, __half>(p, grid, where) : run_long<128, __nv_bfloat16>(p, grid, where);
}

}  // namespace apud::cuda
