// Launches of split-KV decode attention (attention_decode.cuh).
#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/attention_long.h"

namespace apud::cuda {
namespace {

using decode::DecodeParams;
using decode::kHeads;
using decode::kUnit;

/// Clusters of 16 blocks: the H100's and H200's.
bool clusters() {
  static const bool hopper = [] {
    int device = 0, major = 0, minor = 0;
    APUD_CUDA(cudaGetDevice(&device));
    APUD_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    APUD_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return major == 9 && minor == 0;
  }();
  return hopper;
}

// Two units a warp in flight where heads are narrow, else one; more would crowd out the blocks of
// the products before and after.
constexpr int kDecodeWarps = 8;
template <int D>
constexpr int kDecodeStages = D <= 64 ? 2 : 1;

/// Blocks of decode attention that the card holds at once: two a multiprocessor.
int resident_blocks() {
  static const int blocks = [] {
    int device = 0, multiprocessors = 0;
    APUD_CUDA(cudaGetDevice(&device));
    APUD_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    return 2 * multiprocessors;
  }();
  return blocks;
}

// Blocks of all clusters together.
constexpr int kClusterBlocks = 192;

/// Runs in global memory to a row's outputs.
void merge(const DecodeParams& p, int runs, int rows, const Launch& where) {
  if (runs == 1) return;
  dim3 grid(ceil_div(p.heads * ceil_div(p.dim, 32), decode::kMergeWarps), rows);
  auto kernel = runs <= 8    ? decode::merge_kernel<8>
                : runs <= 16 ? decode::merge_kernel<16>
                : runs <= 32 ? decode::merge_kernel<32>
                             : decode::merge_kernel<decode::kMostRuns>;
  launch(where, kernel, grid, dim3(decode::kMergeWarps * 32), 0, p);
}

/// The share of a multiprocessor's memory, in percent, that clusters of attention ask to be shared
/// memory; a multiprocessor that is never empty keeps it, so that the products around them have the
/// rest as their L1. Measured on the H200: 100 KB where one block of it lies on a multiprocessor
/// (what the driver chooses is 1 to 2 % slower), 196 KB where two do (164 KB: 1 % slower, 228 KB:
/// 8 %); on few multiprocessors the driver's choice is as good.
int carveout(dim3 grid, size_t shared, int multiprocessors) {
  constexpr size_t kOne = 98 * 1024, kTwo = 194 * 1024, kOfSystem = 1024;
  const int blocks = static_cast<int>(grid.x * grid.y * grid.z);
  const size_t block = shared + 1024 + kOfSystem;  // its static shared memory is below 1 KB
  if (blocks > multiprocessors) return 2 * block <= kTwo ? 80 : cudaSharedmemCarveoutDefault;
  if (4 * blocks < multiprocessors) return cudaSharedmemCarveoutDefault;
  return block <= kOne ? 40 : cudaSharedmemCarveoutDefault;
}

/// `cluster`: the runs of a head are one.
template <int D, typename H, bool kI8>
void run_decode(const DecodeParams& p, dim3 grid, bool cluster, const Launch& where) {
  int device = 0, limit = 0, multiprocessors = 0;
  APUD_CUDA(cudaGetDevice(&device));
  APUD_CUDA(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  APUD_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const size_t several =
      p.runs_each == 1 ? 0
                       : decode::several_bytes<D>(p, kDecodeWarps, grid.x == 1 ? p.runs.few : 0);
  auto run = [&](auto kernel, int warps, int stages, int size) {
    const size_t shared = decode::decode_shared<D>(warps, stages) + decode::inbox_bytes(size) +
                          several + decode::rotation_bytes<D>(p, warps);
    APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared)));
    if (size > 0)
      APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                     carveout(grid, shared, multiprocessors)));
    if (size > 8)
      APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    launch_cluster(size, where, kernel, grid, dim3(warps * 32), shared, p);
  };
  constexpr int kWarps = kDecodeWarps, kStages = kDecodeStages<D>;
  if (cluster)
    return run(decode::decode_kernel<D, H, kI8, kWarps, kStages, true>, kWarps, kStages,
               static_cast<int>(grid.x));
  // Cards with 99 KB a block: half of the warps for wide heads.
  if (decode::decode_shared<D>(kWarps, kStages) + decode::rotation_bytes<D>(p, kWarps) >
      static_cast<size_t>(limit))
    run(decode::decode_kernel<D, H, kI8, 4, 1, false>, 4, 1, 0);
  else
    run(decode::decode_kernel<D, H, kI8, kWarps, kStages, false>, kWarps, kStages, 0);
}

template <int D>
void run_decode_type(const DecodeParams& p, dim3 grid, bool cluster, const Launch& where) {
  switch (p.kv.type) {
    case KvType::kF16:
      return run_decode<D, __half, false>(p, grid, cluster, where);
    case KvType::kBF16:
      return run_decode<D, __nv_bfloat16, false>(p, grid, cluster, where);
    case KvType::kI8:
      return run_decode<D, __half, true>(p, grid, cluster, where);
    case KvType::kF32:
      break;
  }
  APUD_CHECK(false, "refused when the store is made");
}

/// Calls f.template operator()<D>() for the kernels' width that holds `dim` values.
template <typename F>
auto with_width(int dim, F&& f) {
  if (dim <= 32) return f.template operator()<32>();
  if (dim <= 64) return f.template operator()<64>();
  if (dim <= 96) return f.template operator()<96>();
  if (dim <= 128) return f.template operator()<128>();
  return f.template operator()<256>();
}

}  // namespace

DecodeRuns decode_runs(const HeadShape& shape, int multiprocessors) {
  const int blocks = shape.kv_heads * ceil_div(shape.heads / shape.kv_heads, kHeads);
  DecodeRuns runs;
  // Two blocks fit a multiprocessor; one more than that would wait for a second round.
  runs.many = std::clamp(2 * multiprocessors / blocks, 1, decode::kMostRuns);
  runs.whole = long_runs(shape, multiprocessors);
  if (!clusters()) return runs;
  // Clusters must find room side by side: of 32 clusters of 8 blocks the H200 holds 31, and the
  // second round would cost more than the whole attention.
  // No more than eight where the outputs of a head group fit: sixteen multiprocessors with room
  // side by side are there only when the product before has ended.
  const int outputs = std::min(shape.heads / shape.kv_heads, kHeads) *
                      with_width(shape.dim, [&]<int D>() { return D / 32; });
  const int most = std::clamp(ceil_div(outputs, decode::kInboxTiles), 8, decode::kMaxCluster);
  runs.few = std::clamp(kClusterBlocks / blocks, 1, most);
  if (runs.few == 1) return runs;
  // Up to rows that give each warp a unit; up to eight where many runs are hardly more.
  runs.short_units = runs.few * kDecodeWarps * (runs.many < 2 * runs.few ? 8 : 1);
  return runs;
}

void attention_decode(const AttentionArgs& a, const RotaryArgs* fused, const DecodeScratch& scratch,
                      const DecodeRuns& runs, bool long_rows, const Launch& where) {
  APUD_CHECK(!a.q.half16 && !a.out.half16, "decode attention works on floats");
  APUD_CHECK(a.rows <= scratch.max_rows && a.shape.dim % 8 == 0 && a.shape.dim <= 256,
             "decode shape");
  DecodeParams p = {};
  p.q = static_cast<const float*>(a.q.data);
  p.k = static_cast<const float*>(a.k.data);
  p.v = static_cast<const float*>(a.v.data);
  p.out = static_cast<float*>(a.out.data);
  p.q_ld = a.q.ld;
  p.k_ld = a.k.ld;
  p.v_ld = a.v.ld;
  p.out_ld = a.out.ld;
  p.heads = a.shape.heads;
  p.kv_heads = a.shape.kv_heads;
  p.dim = a.shape.dim;
  p.gqa = a.shape.heads / a.shape.kv_heads;
  p.query_tiles = ceil_div(p.gqa, kHeads);
  p.window = a.window;
  p.scale = a.scale;
  p.softcap = a.softcap;
  p.kv = a.kv;
  p.batch = a.batch;
  p.runs = runs;
  p.scratch = scratch;
  if (a.shape.dim % 32 == 0) p.quantised = a.quantised;
  p.fused = fused != nullptr;
  if (fused) {
    p.rotation = {fused->turns, fused->pairs, fused->magnitude, fused->norm_eps,
                  fused->norm_offset};
    p.q_norm = fused->q_norm;
    p.k_norm = fused->k_norm;
  }
  const int dim = a.shape.dim;
  const bool all_short =
      !long_rows || (a.window > 0 && ceil_div(a.window, kUnit) + 1 <= runs.short_units);
  const bool few = runs.short_units > 0 && all_short &&
                   std::min(p.gqa, kHeads) * with_width(dim, [&]<int D>() { return D / 32; }) <=
                       runs.few * decode::kInboxTiles;
  const int heads = a.shape.kv_heads * p.query_tiles;
  p.runs_each = 1;
  // Clusters that are not resident at once would wait for one another's ends.
  const int places = few ? std::max(1, resident_blocks() / (heads * a.rows)) : runs.few;
  if (places < runs.few) {
    p.runs_each = ceil_div(runs.few, places);
    dim3 grid(ceil_div(runs.few, p.runs_each), heads, a.rows);
    with_width(dim, [&]<int D>() { run_decode_type<D>(p, grid, false, where); });
    if (grid.x > 1) merge(p, runs.few, a.rows, where);
    return;
  }
  const bool cluster = few;
  if (!cluster && runs.whole > 0 && long_width(dim) && a.kv.type != KvType::kI8) {
    p.runs.many = runs.whole;
    // One row is a long one; of several, some may have few runs.
    const int most = a.rows == 1 ? runs.whole : std::max(runs.few, runs.whole);
    attention_long(p, dim3(most, heads, a.rows), where);
    merge(p, most, a.rows, where);
    return;
  }
  dim3 grid(cluster ? runs.few : scratch.runs, heads, a.rows);
  with_width(dim, [&]<int D>() { run_decode_type<D>(p, grid, cluster, where); });
  if (!cluster) merge(p, scratch.runs, a.rows, where);
}

}  // namespace apud::cuda
