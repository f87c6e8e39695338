// Norm and rotation of q and k, and the write of k and v into their pages, for steps of many rows.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/rope.cuh"

namespace apud::cuda {
namespace {

constexpr int kWarps = 8;

struct RotaryParams {
  Matrix q, k, v;
  int heads, kv_heads, dim, rows;
  HeadRotation rotation;
  const float* q_norm;
  const float* k_norm;
  KvView kv;  // base null: encoder
  BatchView batch;
};

/// One block per row; its warps take the heads in turn: q's, then k's, then (where pages are
/// written) v's.
template <typename H>
__global__ void __launch_bounds__(kWarps * 32)
    rotary_kernel(const __grid_constant__ RotaryParams p) {
  __shared__ float heads[kWarps][256];
  __shared__ float2 angles[128];
  grid_dependency_trigger();
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int64_t row = blockIdx.x;
  const int position = p.batch.positions[row];
  for (int i = threadIdx.x; i < p.rotation.pairs; i += kWarps * 32)
    angles[i] = rotation_of(p.rotation, i, position);
  const int slot = position % kKvPageTokens;
  uint8_t* page = nullptr;
  if (p.kv.base)
    page = p.kv.base + p.batch.pages[p.batch.row_pages[p.kv.group * p.batch.token_capacity + row] +
                                     position / kKvPageTokens] *
                           p.kv.page_bytes;
  __syncthreads();
  grid_dependency_wait();
  const int items = p.heads + p.kv_heads * (page ? 2 : 1);
  float* mine = heads[warp];
  for (int item = warp; item < items; item += kWarps) {
    const int kind = item < p.heads ? 0 : item < p.heads + p.kv_heads ? 1 : 2;
    const int head = kind == 0 ? item : item - p.heads - (kind - 1) * p.kv_heads;
    const Matrix& m = kind == 0 ? p.q : kind == 1 ? p.k : p.v;
    const int64_t at = row * m.ld + int64_t{head} * p.dim;
    for (int i = lane; i < p.dim; i += 32)
      mine[i] = m.half16 ? to_float(static_cast<const H*>(m.data)[at + i])
                         : ld_stream(static_cast<const float*>(m.data) + at + i);
    __syncwarp();
    if (kind < 2) {
      rotate_head(mine, p.dim, kind == 0 ? p.q_norm : p.k_norm, p.rotation,
                  [&](int i) { return angles[i]; });
      if (kind == 0 || !page)
        for (int i = lane; i < p.dim; i += 32) {
          if (m.half16)
            static_cast<H*>(m.data)[at + i] = to_h16<H>(mine[i]);
          else
            static_cast<float*>(m.data)[at + i] = mine[i];
        }
    }
    if (kind > 0 && page)
      store_kv_row(page + head * p.kv.head_bytes + (kind == 2 ? p.kv.v_offset : 0), p.kv.type,
                   p.dim, slot, mine);
    __syncwarp();
  }
}

}  // namespace

void rotary(const AttentionArgs& a, const RotaryArgs& r, const Launch& where) {
  RotaryParams p = {a.q,
                    a.k,
                    a.v,
                    r.shape.heads,
                    r.shape.kv_heads,
                    r.shape.dim,
                    a.rows,
                    {r.turns, r.pairs, r.magnitude, r.norm_eps, r.norm_offset},
                    r.q_norm,
                    r.k_norm,
                    a.kv,
                    a.batch};
  APUD_CHECK(r.shape.dim <= 256, "head width");
  dim3 grid(a.rows);
  if (a.half16 == Half16::kFp16)
    launch(where, rotary_kernel<__half>, grid, dim3(kWarps * 32), 0, p);
  else
    launch(where, rotary_kernel<__nv_bfloat16>, grid, dim3(kWarps * 32), 0, p);
}

}  // namespace apud::cuda
