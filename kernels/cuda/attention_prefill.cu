// Prefill attention: FlashAttention-2's loop (Dao 2023) on mma.sync. A block takes a tile of query
// rows of one sequence and one head; its eight (four for wide heads) warps own 16 rows each and
// walk the keys in tiles of 64, which is one KV page, so a tile is one contiguous copy. New tokens
// against a cached prefix, sliding windows, soft caps; encoders use the same loop over packed k and
// v.
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/mma.cuh"

namespace apud::cuda {
namespace {

constexpr int kKeys = 64;
constexpr float kLog2e = 1.4426950408889634f;

struct PrefillParams {
  Matrix q, k, v, out;
  int heads, kv_heads, dim, window;
  float scale, softcap;
  KvView kv;
  BatchView batch;
};

/// Warps of a block, and query rows of a warp.
template <int D>
constexpr int warps() {
  return D > 128 ? 4 : 8;
}
template <int D>
constexpr int warp_rows() {
  return 16;
}
template <int D>
constexpr size_t prefill_shared(int stages) {
  return (static_cast<size_t>(warps<D>()) * warp_rows<D>() +
          static_cast<size_t>(stages) * 2 * kKeys) *
         (D + 8) * 2;
}

/// PRECOND: warps * 32 threads; grid (query tiles, heads); dim <= D, dim % 8 == 0; k and v rows
/// 16-byte aligned.
template <int D, typename H, bool kPaged, bool kI8, int kStages>
__global__ void __launch_bounds__(warps<D>() * 32, D > 128 ? 1 : 2)
    prefill_kernel(const __grid_constant__ PrefillParams p) {
  extern __shared__ __align__(16) uint8_t shared[];
  grid_dependency_trigger();
  grid_dependency_wait();
  constexpr int kWarps = warps<D>();
  constexpr int kLd = D + 8, kRows = kWarps * warp_rows<D>(), kTiles = warp_rows<D>() / 16;
  H* q_shared = reinterpret_cast<H*>(shared);
  H* stages = q_shared + kRows * kLd;
  auto tile_at = [&](int stage, int which) { return stages + (stage * 2 + which) * kKeys * kLd; };

  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int tile = gridDim.x - 1 - blockIdx.x;  // the host lists short ones first: start with long
  const int sequence = p.batch.tiles[2 * tile], tile_row = p.batch.tiles[2 * tile + 1];
  const int head = blockIdx.y, kv_head = head / (p.heads / p.kv_heads), dim = p.dim;
  const int first = p.batch.first[sequence], count = p.batch.count[sequence];
  const int start = kPaged ? p.batch.position[sequence] : 0;
  const int32_t* pages =
      kPaged ? p.batch.pages + p.batch.page_offset[p.kv.group * p.batch.capacity + sequence]
             : nullptr;
  const int rows = min(kRows, count - tile_row);
  const int total = start + count;  // keys there are
  const int q_first = start + tile_row, q_last = q_first + rows - 1;
  int key_begin = 0, key_end = total;
  if constexpr (kPaged) {
    key_end = q_last + 1;
    if (p.window > 0) key_begin = max(0, q_first + 1 - p.window);
  } else if (p.window > 0) {
    key_begin = max(0, q_first - p.window / 2);
    key_end = min(total, q_last + p.window / 2 + 1);
  }

  auto load = [&](int key0, int stage) {
    constexpr int kChunks = D / 8;
    if (key0 < key_end) {
      const uint8_t* block = nullptr;
      if constexpr (kPaged)
        block = p.kv.base + pages[key0 / kKeys] * p.kv.page_bytes + kv_head * p.kv.head_bytes;
      if constexpr (kPaged && !kI8) {
        if (dim == D) {  // a page's rows lie one behind another
          const uint8_t* from = block + threadIdx.x * 16;
          const int left = (total - key0) * kChunks;
#pragma unroll
          for (int which = 0; which < 2; ++which) {
            H* to = tile_at(stage, which);
#pragma unroll
            for (int c0 = 0; c0 < kKeys * kChunks; c0 += kWarps * 32) {
              int c = c0 + threadIdx.x;
              copy_async16(to + c / kChunks * kLd + c % kChunks * 8,
                           from + which * p.kv.v_offset + c0 * 16, c < left);
            }
          }
          copy_commit();
          return;
        }
      }
#pragma unroll 1
      for (int c = threadIdx.x; c < 2 * kKeys * kChunks; c += kWarps * 32) {
        int which = c / (kKeys * kChunks), t = (c / kChunks) % kKeys, d8 = (c % kChunks) * 8;
        bool valid = key0 + t < total && d8 < dim;
        H* to = tile_at(stage, which) + t * kLd + d8;
        if constexpr (!kPaged) {
          const Matrix& m = which ? p.v : p.k;
          const H* from = static_cast<const H*>(m.data) +
                          (valid ? (first + key0 + t) * m.ld + int64_t{kv_head} * dim + d8 : 0);
          copy_async16(to, from, valid);
        } else if constexpr (!kI8) {
          const uint8_t* from =
              block + which * p.kv.v_offset + (valid ? (int64_t{t} * dim + d8) * 2 : 0);
          copy_async16(to, from, valid);
        } else {
          uint4 packed = make_uint4(0, 0, 0, 0);
          if (valid) {
            const uint8_t* at = block + which * p.kv.v_offset;
            float scale = reinterpret_cast<const float*>(at + 64 * dim)[t];
            uint2 bytes = *reinterpret_cast<const uint2*>(at + int64_t{t} * dim + d8);
            uint32_t words[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              uint32_t b = (k < 2 ? bytes.x : bytes.y) >> (16 * (k & 1));
              words[k] = pack2<H>(static_cast<float>(static_cast<int8_t>(b & 255)) * scale,
                                  static_cast<float>(static_cast<int8_t>((b >> 8) & 255)) * scale);
            }
            packed = make_uint4(words[0], words[1], words[2], words[3]);
          }
          *reinterpret_cast<uint4*>(to) = packed;
        }
      }
    }
    copy_commit();
  };

  const int tile_begin = key_begin / kKeys * kKeys;
  // Query rows: 16-bit ones are copied, floats converted.
  {
    constexpr int kChunks = D / 8;
    for (int c = threadIdx.x; c < kRows * kChunks; c += kWarps * 32) {
      int r = c / kChunks, d8 = (c % kChunks) * 8;
      bool valid = r < rows && d8 < dim;
      int64_t at = valid ? (first + tile_row + r) * p.q.ld + int64_t{head} * dim + d8 : 0;
      H* to = q_shared + r * kLd + d8;
      if (p.q.half16) {
        copy_async16(to, static_cast<const H*>(p.q.data) + at, valid);
      } else {
        const float* from = static_cast<const float*>(p.q.data) + at;
        for (int i = 0; i < 8; ++i) to[i] = to_h16<H>(valid ? ld_stream(from + i) : 0.f);
      }
    }
  }
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) load(tile_begin + s * kKeys, s);

  float o[kTiles][D / 8][4];
  float m[kTiles][2], l[kTiles][2];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[t][n][i] = 0;
    m[t][0] = m[t][1] = -INFINITY;
    l[t][0] = l[t][1] = 0;
  }
  const int warp_row = warp * warp_rows<D>();

  int stage = 0;
  for (int key0 = tile_begin; key0 < key_end; key0 += kKeys) {
    if constexpr (kStages > 1) {
      int next = stage + kStages - 1;
      load(key0 + (kStages - 1) * kKeys, next >= kStages ? next - kStages : next);
    } else {
      load(key0, 0);
    }
    copy_wait<kStages - 1>();
    __syncthreads();
    const H* k_tile = tile_at(stage, 0);
    const H* v_tile = tile_at(stage, 1);

    float s[kTiles][8][4];
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[t][n][i] = 0;
#pragma unroll
    for (int kk = 0; kk < D / 16; ++kk) {
      uint32_t a[kTiles][4];
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        load_matrix4(
            a[t], q_shared + (warp_row + t * 16 + (lane & 15)) * kLd + kk * 16 + (lane >> 4) * 8);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        uint32_t b[4];
        load_matrix4(b, k_tile + (n * 16 + (lane & 7) + ((lane >> 4) << 3)) * kLd + kk * 16 +
                            ((lane >> 3) & 1) * 8);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          mma_16816<H>(s[t][2 * n], a[t], b[0], b[1]);
          mma_16816<H>(s[t][2 * n + 1], a[t], b[2], b[3]);
        }
      }
    }

    const bool inner = p.softcap == 0 && key0 >= key_begin && key0 + kKeys <= total &&
                       (kPaged ? key0 + kKeys - 1 <= q_first : true) &&
                       (p.window == 0 || (kPaged ? key0 + p.window > q_last
                                                 : q_last - key0 <= p.window / 2 &&
                                                       key0 + kKeys - 1 - q_first <= p.window / 2));
    const float scale2 = p.scale * kLog2e;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      float top[2] = {m[t][0], m[t][1]};
      if (inner) {
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            s[t][n][i] *= scale2;
            top[i >> 1] = fmaxf(top[i >> 1], s[t][n][i]);
          }
      } else {
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            int key = key0 + n * 8 + (lane & 3) * 2 + (i & 1);
            int query = q_first + warp_row + t * 16 + (lane >> 2) + 8 * (i >> 1);
            float x = s[t][n][i] * p.scale;
            if (p.softcap > 0) x = p.softcap * tanhf(x / p.softcap);
            bool seen = key < total;
            if constexpr (kPaged) {
              seen = seen && key <= query && (p.window == 0 || key > query - p.window);
            } else {
              seen = seen && (p.window == 0 || abs(query - key) <= p.window / 2);
            }
            x = seen ? x * kLog2e : -INFINITY;
            s[t][n][i] = x;
            top[i >> 1] = fmaxf(top[i >> 1], x);
          }
      }
      float base[2], shrink[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
        top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
        base[r] = top[r] == -INFINITY ? 0.f : top[r];
        shrink[r] = exp2f(m[t][r] - base[r]);
        m[t][r] = top[r];
        l[t][r] *= shrink[r];
      }
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[t][n][i] = exp2f(s[t][n][i] - base[i >> 1]);
          l[t][i >> 1] += s[t][n][i];
        }
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) o[t][n][i] *= shrink[i >> 1];
    }
#pragma unroll
    for (int kk = 0; kk < 4; ++kk) {
      uint32_t a[kTiles][4];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        a[t][0] = pack2<H>(s[t][2 * kk][0], s[t][2 * kk][1]);
        a[t][1] = pack2<H>(s[t][2 * kk][2], s[t][2 * kk][3]);
        a[t][2] = pack2<H>(s[t][2 * kk + 1][0], s[t][2 * kk + 1][1]);
        a[t][3] = pack2<H>(s[t][2 * kk + 1][2], s[t][2 * kk + 1][3]);
      }
#pragma unroll
      for (int n = 0; n < D / 16; ++n) {
        uint32_t b[4];
        load_matrix4_transposed(b,
                                v_tile + (kk * 16 + (lane & 15)) * kLd + n * 16 + (lane >> 4) * 8);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          mma_16816<H>(o[t][2 * n], a[t], b[0], b[1]);
          mma_16816<H>(o[t][2 * n + 1], a[t], b[2], b[3]);
        }
      }
    }
    __syncthreads();
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  copy_wait<0>();

#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = l[t][r];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      float inverse = sum > 0 ? 1.f / sum : 0.f;
      int q_row = warp_row + t * 16 + (lane >> 2) + 8 * r;
      if (q_row >= rows) continue;
      int64_t at = (first + tile_row + q_row) * p.out.ld + int64_t{head} * dim;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        int d = n * 8 + (lane & 3) * 2;
        if (d >= dim) continue;
        float a = o[t][n][2 * r] * inverse, b = o[t][n][2 * r + 1] * inverse;
        if (p.out.half16) {
          *reinterpret_cast<uint32_t*>(static_cast<H*>(p.out.data) + at + d) = pack2<H>(a, b);
        } else {
          float* out = static_cast<float*>(p.out.data) + at + d;
          out[0] = a;
          out[1] = b;
        }
      }
    }
}

template <int D, typename H, bool kPaged, bool kI8>
void run_prefill(const PrefillParams& p, dim3 grid, const Launch& where) {
  int device = 0, limit = 0;
  APUD_CUDA(cudaGetDevice(&device));
  APUD_CUDA(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  auto kernel = prefill_kernel<D, H, kPaged, kI8, 2>;
  size_t shared = prefill_shared<D>(2);
  if (shared > static_cast<size_t>(limit)) {
    kernel = prefill_kernel<D, H, kPaged, kI8, 1>;
    shared = prefill_shared<D>(1);
  }
  APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared)));
  launch(where, kernel, grid, dim3(warps<D>() * 32), shared, p);
}

template <int D>
void run_prefill_type(const PrefillParams& p, bool paged, Half16 half16, dim3 grid,
                      const Launch& where) {
  if (!paged) {
    if (half16 == Half16::kFp16)
      run_prefill<D, __half, false, false>(p, grid, where);
    else
      run_prefill<D, __nv_bfloat16, false, false>(p, grid, where);
    return;
  }
  // With 16-bit q the KV type must be the same 16-bit type; the executor sees to it.
  if (p.kv.type == KvType::kI8)
    run_prefill<D, __half, true, true>(p, grid, where);
  else if (p.kv.type == KvType::kF16)
    run_prefill<D, __half, true, false>(p, grid, where);
  else
    run_prefill<D, __nv_bfloat16, true, false>(p, grid, where);
}

}  // namespace

int prefill_tile_rows(int dim) {
  return dim > 128 ? warps<256>() * warp_rows<256>() : warps<128>() * warp_rows<128>();
}

void attention_prefill(const AttentionArgs& a, const Launch& where) {
  APUD_CHECK(a.shape.dim % 8 == 0 && a.shape.dim <= 256, "head width");
  APUD_CHECK(a.paged || (a.k.half16 && a.v.half16), "encoders keep k and v in 16 bits");
  bool kv_fp16 = a.kv.type != KvType::kBF16;
  APUD_CHECK(!a.paged || (!a.q.half16 && !a.out.half16) || kv_fp16 == (a.half16 == Half16::kFp16),
             "16-bit activations have the KV cache's type");
  PrefillParams p = {a.q,         a.k,      a.v,     a.out,     a.shape.heads, a.shape.kv_heads,
                     a.shape.dim, a.window, a.scale, a.softcap, a.kv,          a.batch};
  if (a.tiles == 0 || attention_hopper(a, where)) return;
  dim3 grid(a.tiles, a.shape.heads);
  int dim = a.shape.dim;
  if (dim <= 32)
    run_prefill_type<32>(p, a.paged, a.half16, grid, where);
  else if (dim <= 64)
    run_prefill_type<64>(p, a.paged, a.half16, grid, where);
  else if (dim <= 96)
    run_prefill_type<96>(p, a.paged, a.half16, grid, where);
  else if (dim <= 128)
    run_prefill_type<128>(p, a.paged, a.half16, grid, where);
  else
    run_prefill_type<256>(p, a.paged, a.half16, grid, where);
}

}  // namespace apud::cuda
