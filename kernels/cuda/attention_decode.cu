// Launches of split-KV decode attention (attention_decode.cuh).
#include "kernels/cuda/attention_decode.cuh"

namespace apud::cuda {
namespace {

using decode::DecodeParams;
using decode::kHeads;
using decode::kMaxSplits;

/// Clusters of 16 blocks: the H100's and H200's.
bool cluster_splits(int splits) {
  static const bool hopper = [] {
    int device = 0, major = 0, minor = 0;
    APUD_CUDA(cudaGetDevice(&device));
    APUD_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    APUD_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return major == 9 && minor == 0;
  }();
  return hopper && splits == 16;
}

template <int D, typename H, bool kI8>
void run_decode(const DecodeParams& p, dim3 grid, const Launch& where) {
  int device = 0, limit = 0;
  APUD_CUDA(cudaGetDevice(&device));
  APUD_CUDA(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  auto run = [&](auto kernel, int groups, int stages, int cluster) {
    const size_t shared =
        decode::decode_shared<D>(groups, stages) + (cluster ? decode::kInboxBytes : 0);
    APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared)));
    if (cluster > 8)
      APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    launch_cluster(cluster, where, kernel, grid, dim3(groups * decode::kPageWarps * 32), shared, p);
  };
  // Two groups of warps and one page in flight each; more would crowd out the blocks of the
  // products before and after. Cards with 99 KB a block: one group.
  constexpr int kStages = D <= 64 ? 2 : 1;
  if (decode::decode_shared<D>(2, kStages) > static_cast<size_t>(limit))
    run(decode::decode_kernel<D, H, kI8, 1, 1, false>, 1, 1, 0);
  else if (cluster_splits(static_cast<int>(grid.x)))
    run(decode::decode_kernel<D, H, kI8, 2, kStages, true>, 2, kStages, static_cast<int>(grid.x));
  else
    run(decode::decode_kernel<D, H, kI8, 2, kStages, false>, 2, kStages, 0);
}

template <int D>
void run_decode_type(const DecodeParams& p, dim3 grid, const Launch& where) {
  switch (p.kv.type) {
    case KvType::kF16:
      return run_decode<D, __half, false>(p, grid, where);
    case KvType::kBF16:
      return run_decode<D, __nv_bfloat16, false>(p, grid, where);
    case KvType::kI8:
      return run_decode<D, __half, true>(p, grid, where);
    case KvType::kF32:
      break;
  }
  APUD_CHECK(false, "refused when the store is made");
}

}  // namespace

int decode_splits(const HeadShape& shape, int multiprocessors) {
  int tiles = shape.kv_heads * ceil_div(shape.heads / shape.kv_heads, kHeads);
  // Two blocks fit a multiprocessor; one more than that would wait for a second round.
  int splits = std::clamp(2 * multiprocessors / tiles, 1, kMaxSplits);
  // Many splits merge faster as a cluster, though it has 16 blocks at most; few merge faster
  // through global memory, which does not wait for room for a whole cluster.
  if (splits > 16 && cluster_splits(16)) splits = 16;
  return splits;
}

void attention_decode(const AttentionArgs& a, const RotaryArgs* fused, const DecodeScratch& scratch,
                      int splits, const Launch& where) {
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
  p.window = a.window;
  p.scale = a.scale;
  p.softcap = a.softcap;
  p.kv = a.kv;
  p.batch = a.batch;
  p.scratch = scratch;
  if (a.shape.dim % 32 == 0) p.quantised = a.quantised;
  p.fused = fused != nullptr;
  if (fused) {
    p.rotation = {fused->turns, fused->pairs, fused->magnitude, fused->norm_eps,
                  fused->norm_offset};
    p.q_norm = fused->q_norm;
    p.k_norm = fused->k_norm;
  }
  int gqa = a.shape.heads / a.shape.kv_heads;
  dim3 grid(splits, a.shape.kv_heads * ceil_div(gqa, kHeads), a.rows);
  int dim = a.shape.dim;
  if (dim <= 32)
    run_decode_type<32>(p, grid, where);
  else if (dim <= 64)
    run_decode_type<64>(p, grid, where);
  else if (dim <= 96)
    run_decode_type<96>(p, grid, where);
  else if (dim <= 128)
    run_decode_type<128>(p, grid, where);
  else
    run_decode_type<256>(p, grid, where);
}

}  // namespace apud::cuda
