// Prefill attention on Hopper: FlashAttention-3's loop (Shah et al. 2024). A block takes 128 query
// rows of one sequence and one head. One thread of a producer warpgroup keeps tiles of K and V
// coming through the tensor copy engine (a KV page of a head is one box of a five-dimensional
// tensor: value, token, head, K or V, page); two consumer warpgroups own 64 rows each. A
// warpgroup's scores of the next tile are computed while its last probabilities are multiplied with
// V, and the two take turns so that one's exponentials run under the other's products.
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace apud::cuda {
namespace {

constexpr int kRows = 128, kStages = 2;
constexpr float kLog2e = 1.4426950408889634f;

/// Keys of a tile, and the widths of the boxes that cross to shared memory.
template <int D>
struct Tile {
  static constexpr int kKeys = D == 32 ? 64 : 128;
  static constexpr int kBox = D < 64 ? D : 64;  // values of a row of shared memory
  static constexpr int kRowBytes = kBox * 2;
  static constexpr int kBlocks = D / kBox;
  static constexpr int kBytes = kKeys * D * 2;
  static constexpr size_t kShared = 1024 + size_t{kRows} * D * 2 + size_t{2} * kStages * kBytes;
  // Narrow heads need few registers: two blocks a multiprocessor hide the starts and ends.
  static constexpr int kResident = D == 32 ? 2 : 1;
  // Consumers first; the producer is a whole warpgroup where it hands its registers on.
  static constexpr int kThreads = kResident == 1 ? 384 : 288;
};

struct HopperParams {
  CUtensorMap q, k, v;  // k also holds v where the cache is paged
  void* out;
  int64_t out_ld;
  int heads, kv_heads, window;
  float scale, softcap;
  int kv_group;
  BatchView batch;
};

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// To about 1e-6: 1 - 2 / (1 + e^2x).
__device__ __forceinline__ float tanh_fast(float x) {
  return 1.f - __fdividef(2.f, 1.f + exp2_fast(x * (2 * kLog2e)));
}
/// Two probabilities, which need no saturation.
template <typename H>
__device__ __forceinline__ uint32_t pack_unit(float a, float b) {
  uint32_t bits;
  if constexpr (std::is_same_v<H, __half>)
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(b), "f"(a));
  else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(b), "f"(a));
  return bits;
}

/// PRECOND: grid tiles * heads; Tile<D>::kThreads threads; Tile<D>::kShared bytes; head width D.
template <int D, typename H, bool kPaged>
__global__ void __launch_bounds__(Tile<D>::kThreads, Tile<D>::kResident)
    hopper_kernel(const __grid_constant__ HopperParams p) {
#ifdef APUD_SM90A
  using T = Tile<D>;
  constexpr int kKeys = T::kKeys, kBox = T::kBox;
  extern __shared__ uint8_t raw[];
  __shared__ uint64_t q_full, k_full[kStages], v_full[kStages], k_empty[kStages], v_empty[kStages];
  H* q_shared = reinterpret_cast<H*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  H* k_shared = q_shared + kRows * D;
  H* v_shared = k_shared + kStages * kKeys * D;

  const int tiles = gridDim.x / p.heads;
  const int tile = tiles - 1 - blockIdx.x / p.heads;  // long ones first
  const int head = blockIdx.x % p.heads, kv_head = head / (p.heads / p.kv_heads);
  const int sequence = p.batch.tiles[2 * tile], tile_row = p.batch.tiles[2 * tile + 1];
  const int first = p.batch.first[sequence], count = p.batch.count[sequence];
  const int start = kPaged ? p.batch.position[sequence] : 0;
  const int rows = min(kRows, count - tile_row);
  const int total = start + count;
  const int q_first = start + tile_row, q_last = q_first + rows - 1;
  int key_begin = 0, key_end = total;
  if constexpr (kPaged) {
    key_end = q_last + 1;
    if (p.window > 0) key_begin = max(0, q_first + 1 - p.window);
  } else if (p.window > 0) {
    key_begin = max(0, q_first - p.window / 2);
    key_end = min(total, q_last + p.window / 2 + 1);
  }
  const int tile_begin = key_begin / kKvPageTokens * kKvPageTokens;
  const int steps = (key_end - tile_begin + kKeys - 1) / kKeys;

  if (threadIdx.x == 0) {
    barrier_init(&q_full, 1);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(&k_full[s], 1);
      barrier_init(&v_full[s], 1);
      barrier_init(&k_empty[s], 8);  // consumer warps
      barrier_init(&v_empty[s], 8);
    }
    barrier_init_done();
  }
  __syncthreads();

  if (threadIdx.x >= 256) {
    if constexpr (T::kResident == 1) give_registers<24>();
    if (threadIdx.x != 256) return;
    const int32_t* pages =
        kPaged ? p.batch.pages + p.batch.page_offset[p.kv_group * p.batch.capacity + sequence]
               : nullptr;
    const int last_page = (total - 1) / kKvPageTokens;
    barrier_expect(&q_full, kRows * D * 2);
    for (int b = 0; b < T::kBlocks; ++b)
      copy_box2(q_shared + b * kRows * kBox, &p.q, &q_full, head * D + b * kBox, first + tile_row);
    auto load = [&](int step, int which, H* to, uint64_t* full) {
      barrier_expect(full, T::kBytes);
      const int key0 = tile_begin + step * kKeys;
      for (int b = 0; b < T::kBlocks; ++b) {
        H* block = to + b * kKeys * kBox;
        if constexpr (kPaged) {
          // Beyond the last page: that page again, whose keys the mask drops.
          for (int i = 0; i < kKeys / kKvPageTokens; ++i)
            copy_box5(block + i * kKvPageTokens * kBox, &p.k, full, b * kBox, 0, kv_head, which,
                      pages[min(key0 / kKvPageTokens + i, last_page)]);
        } else {
          copy_box2(block, which ? &p.v : &p.k, full, kv_head * D + b * kBox, first + key0);
        }
      }
    };
    for (int step = 0; step < steps; ++step) {
      const int stage = step % kStages, turn = step / kStages;
      if (turn > 0) barrier_wait(&k_empty[stage], (turn - 1) & 1);
      load(step, 0, k_shared + stage * kKeys * D, &k_full[stage]);
      if (turn > 0) barrier_wait(&v_empty[stage], (turn - 1) & 1);
      load(step, 1, v_shared + stage * kKeys * D, &v_full[stage]);
    }
    return;
  }

  if constexpr (T::kResident == 1) take_registers<240>();
  const int group = threadIdx.x / 128;
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  const int row0 = group * 64 + warp * 16 + (lane >> 2);  // and row0 + 8
  // Turns: group g issues its products between taking barrier 1 + g and handing on the other's.
  auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); };
  auto hand_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(2 - group) : "memory"); };
  if (group == 1) hand_turn();

  float s[kKeys / 2], o[D / 2];
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  uint32_t probabilities[kKeys / 16][4];
#pragma unroll
  for (int i = 0; i < D / 2; ++i) o[i] = 0;
  const float scale2 = p.softcap > 0 ? kLog2e : p.scale * kLog2e;
  const float cap_scale = p.softcap > 0 ? p.scale / p.softcap : 0.f;

  auto scores = [&](int stage) {
    const H* q = q_shared + group * 64 * kBox;
    const H* k = k_shared + stage * kKeys * D;
#pragma unroll
    for (int kk = 0; kk < D / 16; ++kk) {
      const int block = kk * 16 / kBox, in = kk * 16 % kBox;
      product_shared<H>(s, shared_operand<T::kRowBytes>(q + block * kRows * kBox + in, 16),
                        shared_operand<T::kRowBytes>(k + block * kKeys * kBox + in, 16), kk > 0);
    }
  };
  auto values = [&](int stage) {
    const H* v = v_shared + stage * kKeys * D;
#pragma unroll
    for (int kk = 0; kk < kKeys / 16; ++kk)
      product_registers<H>(o, probabilities[kk],
                           shared_operand<T::kRowBytes>(v + kk * 16 * kBox, kKeys * T::kRowBytes));
  };
  auto release = [&](uint64_t* b) {
    if (lane == 0) barrier_arrive(b);
  };
  // Scores to probabilities in place; returns what the sums so far shrink by.
  auto softmax = [&](int step, float(&shrink)[2]) {
    const int key0 = tile_begin + step * kKeys, q0 = q_first + group * 64;
    const bool inner = p.softcap == 0 && key0 >= key_begin && key0 + kKeys <= total &&
                       (!kPaged || key0 + kKeys - 1 <= q0) &&
                       (p.window == 0 || (kPaged ? key0 + p.window > q_last
                                                 : q_last - key0 <= p.window / 2 &&
                                                       key0 + kKeys - 1 - q_first <= p.window / 2));
    if (p.softcap > 0) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) s[i] = p.softcap * tanh_fast(s[i] * cap_scale);
    }
    if (!inner) {
      // Keys of this thread: from `key` on, in steps of 1 and 8; a row sees [low, high).
      const int key = key0 + (lane & 3) * 2;
      int low[2], high[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int query = q_first + row0 + 8 * r;
        low[r] = p.window == 0 ? 0 : kPaged ? query - p.window + 1 : query - p.window / 2;
        high[r] = total;
        if constexpr (kPaged)
          high[r] = min(total, query + 1);
        else if (p.window > 0)
          high[r] = min(total, query + p.window / 2 + 1);
        low[r] -= key;
        high[r] -= key;
      }
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = n * 8 + (i & 1);
          if (at < low[i >> 1] || at >= high[i >> 1]) s[n * 4 + i] = -INFINITY;
        }
    }
    float now[2] = {top[0], top[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) now[i >> 1] = fmaxf(now[i >> 1], s[n * 4 + i]);
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      now[r] = fmaxf(now[r], __shfl_xor_sync(0xffffffffu, now[r], 1));
      now[r] = fmaxf(now[r], __shfl_xor_sync(0xffffffffu, now[r], 2));
      base[r] = now[r] == -INFINITY ? 0.f : now[r] * scale2;
      shrink[r] = exp2_fast(fmaf(top[r], scale2, -base[r]));
      top[r] = now[r];
      sum[r] *= shrink[r];
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float x = exp2_fast(fmaf(s[n * 4 + i], scale2, -base[i >> 1]));
        s[n * 4 + i] = x;
        sum[i >> 1] += x;
      }
  };
  auto pack = [&] {
#pragma unroll
    for (int kk = 0; kk < kKeys / 16; ++kk)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        probabilities[kk][i] = pack_unit<H>(s[kk * 8 + i * 2], s[kk * 8 + i * 2 + 1]);
  };

  float shrink[2];
  barrier_wait(&q_full, 0);
  barrier_wait(&k_full[0], 0);
  take_turn();
  product_fence();
  scores(0);
  product_commit();
  hand_turn();
  product_wait<0>();
  pin(s);
  release(&k_empty[0]);
  softmax(0, shrink);
  pack();
#pragma unroll 1
  for (int step = 1; step < steps; ++step) {
    const int stage = step % kStages, parity = step / kStages & 1;
    const int before = (step - 1) % kStages, before_parity = (step - 1) / kStages & 1;
    barrier_wait(&k_full[stage], parity);
    take_turn();
    product_fence();
    scores(stage);
    product_commit();
    barrier_wait(&v_full[before], before_parity);
    values(before);
    product_commit();
    hand_turn();
    product_wait<1>();
    pin(s);
    release(&k_empty[stage]);
    softmax(step, shrink);
    pin(s);  // done before the wait, under the products with V
    product_wait<0>();
    pin(o);
    release(&v_empty[before]);
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) o[n * 4 + i] *= shrink[i >> 1];
    pack();
  }
  {
    const int last = (steps - 1) % kStages;
    barrier_wait(&v_full[last], (steps - 1) / kStages & 1);
    product_fence();
    values(last);
    product_commit();
    product_wait<0>();
    pin(o);
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    const float inverse = sum[r] > 0 ? 1.f / sum[r] : 0.f;
    const int row = row0 + 8 * r;
    H* out = static_cast<H*>(p.out) + (first + tile_row + row) * p.out_ld + int64_t{head} * D;
#pragma unroll
    for (int n0 = 0; n0 < D / 8; n0 += 4) {
      uint32_t words[4];
#pragma unroll
      for (int k = 0; k < 4; ++k)
        words[k] =
            pack2<H>(o[(n0 + k) * 4 + 2 * r] * inverse, o[(n0 + k) * 4 + 2 * r + 1] * inverse);
      const uint4 whole = row_of_quad(words, lane);
      if (row < rows) *reinterpret_cast<uint4*>(out + (n0 + (lane & 3)) * 8) = whole;
    }
  }
#endif
}

template <int D, typename H, bool kPaged>
bool run(const AttentionArgs& a, const Launch& where) {
  using T = Tile<D>;
  HopperParams p = {};
  const bool bf16 = std::is_same_v<H, __nv_bfloat16>;
  if (!make_matrix_map(&p.q, bf16, a.q, a.shape.heads * D, a.rows, T::kBox, kRows)) return false;
  if constexpr (kPaged) {
    const cuuint64_t sizes[5] = {D, kKvPageTokens, static_cast<cuuint64_t>(a.shape.kv_heads), 2,
                                 cuuint64_t{1} << 24};
    const cuuint64_t strides[4] = {D * 2, static_cast<cuuint64_t>(a.kv.head_bytes),
                                   static_cast<cuuint64_t>(a.kv.v_offset),
                                   static_cast<cuuint64_t>(a.kv.page_bytes)};
    const cuuint32_t box[5] = {T::kBox, kKvPageTokens, 1, 1, 1};
    if (!make_map(&p.k, bf16, 5, a.kv.base, sizes, strides, box, T::kRowBytes)) return false;
  } else {
    const int cols = a.shape.kv_heads * D;
    if (!make_matrix_map(&p.k, bf16, a.k, cols, a.rows, T::kBox, T::kKeys) ||
        !make_matrix_map(&p.v, bf16, a.v, cols, a.rows, T::kBox, T::kKeys))
      return false;
  }
  p.out = a.out.data;
  p.out_ld = a.out.ld;
  p.heads = a.shape.heads;
  p.kv_heads = a.shape.kv_heads;
  p.window = a.window;
  p.scale = a.scale;
  p.softcap = a.softcap;
  p.kv_group = a.kv.group;
  p.batch = a.batch;
  auto kernel = hopper_kernel<D, H, kPaged>;
  APUD_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(T::kShared)));
  launch(where, kernel, dim3(a.tiles * a.shape.heads), dim3(T::kThreads), T::kShared, p);
  return true;
}

template <int D>
bool run_type(const AttentionArgs& a, const Launch& where) {
  if (a.half16 == Half16::kFp16)
    return a.paged ? run<D, __half, true>(a, where) : run<D, __half, false>(a, where);
  return a.paged ? run<D, __nv_bfloat16, true>(a, where) : run<D, __nv_bfloat16, false>(a, where);
}

bool aligned16(const Matrix& m) {
  return m.half16 && m.ld % 8 == 0 && reinterpret_cast<uintptr_t>(m.data) % 16 == 0;
}

}  // namespace

bool attention_hopper(const AttentionArgs& a, const Launch& where) {
  if (!tensor_copies() || !(a.scale > 0) || !aligned16(a.q) || !aligned16(a.out)) return false;
  if (a.paged) {
    const KvType same = a.half16 == Half16::kFp16 ? KvType::kF16 : KvType::kBF16;
    if (a.kv.type != same) return false;
  } else if (!aligned16(a.k) || !aligned16(a.v)) {
    return false;
  }
  switch (a.shape.dim) {
    case 32:
      return run_type<32>(a, where);
    case 64:
      return run_type<64>(a, where);
    case 128:
      return run_type<128>(a, where);
    default:
      return false;
  }
}

}  // namespace apud::cuda
