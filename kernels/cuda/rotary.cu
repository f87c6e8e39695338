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

/// One warp per (row, head); heads are q's, then k's, then (where pages are written) v's.
template <typename H>
__global__ void __launch_bounds__(kWarps * 32) rotary_kernel(const __grid_constant__ RotaryParams p) {
  __shared__ float heads[kWarps][256];
  grid_dependency_trigger();
  grid_dependency_wait();
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int per_row = p.heads + p.kv_heads * (p.kv.base ? 2 : 1);
  int64_t item = int64_t{blockIdx.x} * kWarps + warp;
  if (item >= int64_t{p.rows} * per_row) return;
  int64_t row = item / per_row;
  int head = static_cast<int>(item % per_row), kind = 0;
  if (head >= p.heads) {
    head -= p.heads;
    kind = 1;
    if (head >= p.kv_heads) {
      head -= p.kv_heads;
      kind = 2;
    }
  }
  const Matrix& m = kind == 0 ? p.q : kind == 1 ? p.k : p.v;
  const int64_t at = row * m.ld + int64_t{head} * p.dim;
  float* mine = heads[warp];
  for (int i = lane; i < p.dim; i += 32)
    mine[i] = m.half16 ? to_float(static_cast<const H*>(m.data)[at + i])
                       : ld_stream(static_cast<const float*>(m.data) + at + i);
  __syncwarp();
  const int position = p.batch.positions[row];
  if (kind < 2) {
    rotate_head(mine, p.dim, kind == 0 ? p.q_norm : p.k_norm, position, p.rotation);
    if (kind == 0 || !p.kv.base)
      for (int i = lane; i < p.dim; i += 32) {
        if (m.half16) static_cast<H*>(m.data)[at + i] = to_h16<H>(mine[i]);
        else static_cast<float*>(m.data)[at + i] = mine[i];
      }
  }
  if (kind > 0 && p.kv.base) {
    const int32_t* pages = p.batch.pages +
                           p.batch.page_offset[p.kv.group * p.batch.capacity + p.batch.row_sequence[row]];
    uint8_t* block = p.kv.base + pages[position / kKvPageTokens] * p.kv.page_bytes + head * p.kv.head_bytes +
                     (kind == 2 ? p.kv.v_offset : 0);
    store_kv_row(block, p.kv.type, p.dim, position % kKvPageTokens, mine);
  }
}

}  // namespace

void rotary(const AttentionArgs& a, const RotaryArgs& r, const Launch& where) {
  RotaryParams p = {a.q, a.k, a.v, r.shape.heads, r.shape.kv_heads, r.shape.dim, a.rows,
                    {r.turns, r.pairs, r.magnitude, r.norm_eps, r.norm_offset},
                    r.q_norm, r.k_norm, a.kv, a.batch};
  APUD_CHECK(r.shape.dim <= 256, "head width");
  int per_row = r.shape.heads + r.shape.kv_heads * (a.kv.base ? 2 : 1);
  dim3 grid(ceil_div(int64_t{a.rows} * per_row, kWarps));
  if (a.half16 == Half16::kFp16) launch(where, rotary_kernel<__half>, grid, dim3(kWarps * 32), 0, p);
  else launch(where, rotary_kernel<__nv_bfloat16>, grid, dim3(kWarps * 32), 0, p);
}

}  // namespace apud::cuda
