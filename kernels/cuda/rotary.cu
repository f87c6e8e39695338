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

/// Eight values of a row, as floats.
template <typename H>
__device__ __forceinline__ void unpack8(const uint4& v, float (&x)[8]) {
  H h[8];
  memcpy(h, &v, 16);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = to_float(h[i]);
}
template <typename H>
__device__ __forceinline__ uint4 pack8(const float (&x)[8]) {
  return make_uint4(pack2<H>(x[0], x[1]), pack2<H>(x[2], x[3]), pack2<H>(x[4], x[5]),
                    pack2<H>(x[6], x[7]));
}

/// The same for 16-bit rows whose whole heads rotate: a thread takes eight values of a head's first
/// half and the eight that they rotate with. PRECOND: dim = 2 * pairs; a head's units, pairs / 8,
/// a power of two up to 16; K is the pages' type.
template <typename H, typename K>
__global__ void __launch_bounds__(256) rotary_wide_kernel(const __grid_constant__ RotaryParams p) {
  constexpr int kAhead = 3;
  __shared__ float2 angles[128];
  const int64_t row = blockIdx.x;
  const int half = p.dim / 2, units = half / 8, position = p.batch.positions[row];
  const int shift = 31 - __clz(units);
  const int heads = p.heads + p.kv_heads * (p.kv.base ? 2 : 1), work = heads * units;
  auto source = [&](int w) {
    const int item = w >> shift;
    const int kind = item < p.heads ? 0 : item < p.heads + p.kv_heads ? 1 : 2;
    const int head = kind == 0 ? item : item - p.heads - (kind - 1) * p.kv_heads;
    const Matrix& m = kind == 0 ? p.q : kind == 1 ? p.k : p.v;
    return static_cast<H*>(m.data) + row * m.ld + int64_t{head} * p.dim + (w & (units - 1)) * 8;
  };
  uint4 low[kAhead], high[kAhead];
  auto load = [&](int base) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int w = base + i * 256 + threadIdx.x;
      if (w >= work) continue;
      const H* from = source(w);
      low[i] = *reinterpret_cast<const uint4*>(from);
      high[i] = *reinterpret_cast<const uint4*>(from + half);
    }
  };
  load(0);
  uint8_t* page = nullptr;
  if (p.kv.base)
    page = p.kv.base + p.batch.pages[p.batch.row_pages[p.kv.group * p.batch.token_capacity + row] +
                                     position / kKvPageTokens] *
                           p.kv.page_bytes;
  if (threadIdx.x < half) angles[threadIdx.x] = rotation_of(p.rotation, threadIdx.x, position);
  __syncthreads();
  const int slot = position % kKvPageTokens;
  for (int base = 0; base < work; base += kAhead * 256) {
    if (base > 0) load(base);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int w = base + i * 256 + threadIdx.x, item = w >> shift, at = (w & (units - 1)) * 8;
      const int kind = item < p.heads ? 0 : item < p.heads + p.kv_heads ? 1 : 2;
      float a[8], b[8];
      unpack8<H>(low[i], a);
      unpack8<H>(high[i], b);
      const float* norm = kind == 0 ? p.q_norm : kind == 1 ? p.k_norm : nullptr;
      if (p.q_norm || p.k_norm) {  // every lane of a head's units takes part
        float ss = 0;
#pragma unroll
        for (int k = 0; k < 8; ++k) ss += a[k] * a[k] + b[k] * b[k];
        for (int k = units / 2; k > 0; k >>= 1) ss += __shfl_xor_sync(0xffffffffu, ss, k);
        if (norm && w < work) {
          const float factor = rsqrtf(ss / static_cast<float>(p.dim) + p.rotation.norm_eps);
#pragma unroll
          for (int k = 0; k < 8; ++k) {
            a[k] *= factor * (norm[at + k] + p.rotation.norm_offset);
            b[k] *= factor * (norm[half + at + k] + p.rotation.norm_offset);
          }
        }
      }
      if (w >= work) continue;
      if (kind < 2) {
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const float2 c = angles[at + k];
          const float x = a[k], y = b[k];
          a[k] = x * c.x - y * c.y;
          b[k] = y * c.x + x * c.y;
        }
      }
      if (kind == 0 || !page) {
        H* to = source(w);
        *reinterpret_cast<uint4*>(to) = pack8<H>(a);
        *reinterpret_cast<uint4*>(to + half) = pack8<H>(b);
      } else {
        const int head = item - p.heads - (kind - 1) * p.kv_heads;
        K* to =
            reinterpret_cast<K*>(page + head * p.kv.head_bytes + (kind == 2 ? p.kv.v_offset : 0)) +
            slot * p.dim + at;
        *reinterpret_cast<uint4*>(to) = pack8<K>(a);
        *reinterpret_cast<uint4*>(to + half) = pack8<K>(b);
      }
    }
  }
}

/// False where the shape or the types need the general kernel.
template <typename H>
bool rotary_wide(const RotaryParams& p, const Launch& where) {
  auto wide = [](const Matrix& m) {
    return m.half16 && m.ld % 8 == 0 && reinterpret_cast<uintptr_t>(m.data) % 16 == 0;
  };
  const int units = p.dim / 16;
  if (p.dim != 2 * p.rotation.pairs || p.dim % 16 != 0 || units > 16 || (units & (units - 1)) ||
      !wide(p.q) || !wide(p.k) || (p.kv.base && (!wide(p.v) || p.kv.type == KvType::kI8)))
    return false;
  if (!p.kv.base || p.kv.type == KvType::kF16)
    launch(where, rotary_wide_kernel<H, __half>, dim3(p.rows), dim3(256), 0, p);
  else
    launch(where, rotary_wide_kernel<H, __nv_bfloat16>, dim3(p.rows), dim3(256), 0, p);
  return true;
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
  if (!where.programmatic && (a.half16 == Half16::kFp16 ? rotary_wide<__half>(p, where)
                                                        : rotary_wide<__nv_bfloat16>(p, where)))
    return;
  dim3 grid(a.rows);
  if (a.half16 == Half16::kFp16)
    launch(where, rotary_kernel<__half>, grid, dim3(kWarps * 32), 0, p);
  else
    launch(where, rotary_kernel<__nv_bfloat16>, grid, dim3(kWarps * 32), 0, p);
}

}  // namespace apud::cuda
