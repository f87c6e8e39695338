// Prefill attention on Hopper: FlashAttention-3's loop (Shah et al. 2024). A block stays for many
// items, each 128 query rows of one sequence and one head. One thread of a producer warpgroup keeps
// tiles of K and V coming through the tensor copy engine (a KV page of a head is one box of a
// five-dimensional tensor: value, token, head, K or V, page); two consumer warpgroups own 64 rows
// each. A warpgroup's scores of the next tile are computed while its last probabilities are
// multiplied with V, and the two take turns so that one's exponentials run under the other's
// products.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace apud::cuda {
namespace {

// Stages of K and V; of queries two, so that the next item's are there when one ends.
constexpr int kRows = 128, kStages = 2, kItems = 2;
constexpr float kLog2e = 1.4426950408889634f;

/// Keys of a tile, and the widths of the boxes that cross to shared memory.
template <int D>
struct Tile {
  static constexpr int kKeys = D == 32 ? 64 : 128;
  static constexpr int kBox = D < 64 ? D : 64;  // values of a row of shared memory
  static constexpr int kRowBytes = kBox * 2;
  static constexpr int kBlocks = D / kBox;
  static constexpr int kBytes = kKeys * D * 2;
  static constexpr size_t kShared =
      1024 + size_t{kItems} * kRows * D * 2 + size_t{2} * kStages * kBytes;
  // Narrow heads need few registers: two blocks a multiprocessor hide the starts and ends.
  static constexpr int kResident = D == 32 ? 2 : 1;
  // Consumers first; the producer is a whole warpgroup where it hands its registers on.
  static constexpr int kThreads = kResident == 1 ? 384 : 288;
};

struct HopperParams {
  CUtensorMap q, k, v;  // k also holds v where the cache is paged
  void* out;
  int64_t out_ld;
  int items, heads, kv_heads, window;
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

/// What of a sequence and head an item takes; positions count from the sequence's first token.
struct Item {
  int head, out_row, rows;    // out_row: of the whole batch
  int q_first, total;         // the first query's position, the sequence's end
  int key_begin, tile_begin;  // what may be seen; where tiles begin
  int steps;
};
/// The block's item of this turn, long ones first; -1 behind the last. Every second turn goes
/// backwards, so that the blocks end together.
__device__ __forceinline__ int item_of_turn(int turn, int items) {
  const int place = turn & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x,
            item = turn * gridDim.x + place;
  return item < items ? item : -1;
}

/// PRECOND: any grid; Tile<D>::kThreads threads; Tile<D>::kShared bytes; head width D.
template <int D, typename H, bool kPaged>
__global__ void __launch_bounds__(Tile<D>::kThreads, Tile<D>::kResident)
    hopper_kernel(const __grid_constant__ HopperParams p) {
#ifdef APUD_SM90A
  grid_dependency_trigger();
  using T = Tile<D>;
  constexpr int kKeys = T::kKeys, kBox = T::kBox;
  extern __shared__ uint8_t raw[];
  static_assert(kItems == kStages);
  __shared__ uint64_t barriers[6][kStages];
  uint64_t *q_full = barriers[0], *q_empty = barriers[1], *k_full = barriers[2],
           *v_full = barriers[3], *k_empty = barriers[4], *v_empty = barriers[5];
  __shared__ Item item_shared[kItems];
  H* q_shared = reinterpret_cast<H*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  H* k_shared = q_shared + kItems * kRows * D;
  H* v_shared = k_shared + kStages * kKeys * D;

  if (threadIdx.x == 0) {
    for (int s = 0; s < kItems; ++s) {
      barrier_init(&q_full[s], 1);
      barrier_init(&q_empty[s], 256);  // consumers: each has read the item
    }
    for (int s = 0; s < kStages; ++s) {
      barrier_init(&k_full[s], 1);
      barrier_init(&v_full[s], 1);
      barrier_init(&k_empty[s], 8);  // their warps
      barrier_init(&v_empty[s], 8);
    }
    barrier_init_done();
  }
  __syncthreads();

  if (threadIdx.x >= 256) {
    if constexpr (T::kResident == 1) give_registers<24>();
    if (threadIdx.x != 256) return;
    // Whoever computes or stores does so behind a copy of this thread.
    grid_dependency_wait();
    copies_see_writes();
    int loaded = 0;  // tiles of K and V
    for (int turn = 0;; ++turn) {
      const int number = item_of_turn(turn, p.items);
      if (number < 0) return;
      const int tile = (p.items - 1 - number) / p.heads;
      const int sequence = p.batch.tiles[2 * tile], tile_row = p.batch.tiles[2 * tile + 1];
      const int first = p.batch.first[sequence], count = p.batch.count[sequence];
      const int start = kPaged ? p.batch.position[sequence] : 0;
      Item item;
      item.head = number % p.heads;
      item.out_row = first + tile_row;
      item.rows = min(kRows, count - tile_row);
      item.q_first = start + tile_row;
      item.total = start + count;
      const int q_last = item.q_first + item.rows - 1;
      int key_end = item.total;
      item.key_begin = 0;
      if constexpr (kPaged) {
        key_end = q_last + 1;
        if (p.window > 0) item.key_begin = max(0, item.q_first + 1 - p.window);
      } else if (p.window > 0) {
        item.key_begin = max(0, item.q_first - p.window / 2);
        key_end = min(item.total, q_last + p.window / 2 + 1);
      }
      item.tile_begin = item.key_begin / kKvPageTokens * kKvPageTokens;
      item.steps = (key_end - item.tile_begin + kKeys - 1) / kKeys;

      const int slot = turn % kItems;
      if (turn >= kItems) barrier_wait(&q_empty[slot], (turn / kItems - 1) & 1);
      item_shared[slot] = item;
      barrier_expect(&q_full[slot], kRows * D * 2);
      for (int b = 0; b < T::kBlocks; ++b)
        copy_box2(q_shared + (slot * D + b * kBox) * kRows, &p.q, &q_full[slot],
                  item.head * D + b * kBox, item.out_row);

      const int kv_head = item.head / (p.heads / p.kv_heads);
      const int32_t* pages =
          kPaged ? p.batch.pages + p.batch.page_offset[p.kv_group * p.batch.capacity + sequence]
                 : nullptr;
      const int last_page = (item.total - 1) / kKvPageTokens;
      auto load = [&](int step, int which, H* to, uint64_t* full) {
        barrier_expect(full, T::kBytes);
        const int key0 = item.tile_begin + step * kKeys;
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
      for (int step = 0; step < item.steps; ++step, ++loaded) {
        const int stage = loaded % kStages, round = loaded / kStages;
        if (round > 0) barrier_wait(&k_empty[stage], (round - 1) & 1);
        load(step, 0, k_shared + stage * kKeys * D, &k_full[stage]);
        if (round > 0) barrier_wait(&v_empty[stage], (round - 1) & 1);
        load(step, 1, v_shared + stage * kKeys * D, &v_full[stage]);
      }
    }
  }

  if constexpr (T::kResident == 1) take_registers<240>();
  const int group = threadIdx.x / 128;
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  const int row0 = group * 64 + warp * 16 + (lane >> 2);  // and row0 + 8
  // Turns: group g issues its products between taking barrier 1 + g and handing on the other's.
  auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); };
  auto hand_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(2 - group) : "memory"); };
  if (group == 1) hand_turn();

  float s[kKeys / 2], o[D / 2], top[2], sum[2];
  uint32_t probabilities[kKeys / 16][4];
  const float scale2 = p.softcap > 0 ? kLog2e : p.scale * kLog2e;
  const float cap_scale = p.softcap > 0 ? p.scale / p.softcap : 0.f;
  const SharedOperand q_operand(shared_operand<T::kRowBytes>(q_shared + group * 64 * kBox, 16)),
      k_operand(shared_operand<T::kRowBytes>(k_shared, 16)),
      v_operand(shared_operand<T::kRowBytes>(v_shared, kKeys * T::kRowBytes));
  // Addresses that are not worked out anew at every use.
  uint32_t first_barrier = shared_address(barriers);
  asm("" : "+r"(first_barrier));
  enum { kQFull, kQEmpty, kKFull, kVFull, kKEmpty, kVEmpty };
  auto barrier_at = [&](int which, uint32_t turn) {
    return first_barrier + (which * kStages + turn % kStages) * 8;
  };
  auto wait = [&](int which, uint32_t turn) {
    barrier_wait_at(barrier_at(which, turn), turn / kStages & 1);
  };
  auto release = [&](int which, uint32_t turn) {
    if (lane == 0) barrier_arrive_at(barrier_at(which, turn));
  };
  uint32_t done = 0;  // tiles of K and V
#pragma unroll 1
  for (uint32_t turn = 0; item_of_turn(turn, p.items) >= 0; ++turn) {
    const uint32_t slot = turn % kItems;
    wait(kQFull, turn);
    // Of the item as little as can be is kept in registers: its keys' tile, and between which keys
    // every row of this warpgroup sees whole tiles.
    const Item& item = item_shared[slot];
    const int steps = item.steps;
    int key0 = item.tile_begin, whole_begin = item.key_begin, whole_end = item.total;
    {
      const int q_first = item.q_first, q_last = q_first + item.rows - 1, half = p.window / 2;
      if (kPaged) whole_end = min(whole_end, q_first + group * 64 + 1);
      if (p.window > 0) {
        whole_begin = max(whole_begin, q_last - (kPaged ? p.window - 1 : half));
        if (!kPaged) whole_end = min(whole_end, q_first + half + 1);
      }
    }
#pragma unroll
    for (int i = 0; i < D / 2; ++i) o[i] = 0;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = -INFINITY;
      sum[r] = 0;
    }
    auto scores = [&](uint32_t stage) {
#pragma unroll
      for (int kk = 0; kk < D / 16; ++kk) {
        const uint32_t block = kk * 16 / kBox, in = kk * 16 % kBox;
        product_shared<H>(s, q_operand.at(slot * (D * kRows / 8) + (block * kBox * kRows + in) / 8),
                          k_operand.at(stage * (D * kKeys / 8) + (block * kBox * kKeys + in) / 8),
                          kk > 0);
      }
    };
    auto values = [&](uint32_t stage) {
#pragma unroll
      for (int kk = 0; kk < kKeys / 16; ++kk)
        product_registers<H>(o, probabilities[kk],
                             v_operand.at(stage * (D * kKeys / 8) + kk * 2 * kBox));
    };
    // Scores to probabilities in place; returns what the sums so far shrink by.
    auto softmax = [&](float(&shrink)[2]) {
      if (p.softcap > 0) {
#pragma unroll
        for (int i = 0; i < kKeys / 2; ++i) s[i] = p.softcap * tanh_fast(s[i] * cap_scale);
      }
      if (key0 < whole_begin || key0 + kKeys > whole_end) {
        // Keys of this thread: from `key` on, in steps of 1 and 8; a row sees [low, high).
        const int key = key0 + (lane & 3) * 2;
        int low[2], high[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int query = item.q_first + row0 + 8 * r, total = item.total;
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
    wait(kKFull, done);
    take_turn();
    product_fence();
    scores(done % kStages);
    product_commit();
    hand_turn();
    product_wait<0>();
    pin(s);
    release(kKEmpty, done);
    softmax(shrink);
    pack();
#pragma unroll 1
    for (int step = 1; step < steps; ++step) {
      const uint32_t before = done++;
      wait(kKFull, done);
      take_turn();
      product_fence();
      scores(done % kStages);
      product_commit();
      wait(kVFull, before);
      product_fence();
      values(before % kStages);
      product_commit();
      hand_turn();
      product_wait<1>();
      pin(s);
      release(kKEmpty, done);
      key0 += kKeys;
      softmax(shrink);
      pin(s);  // done before the wait, under the products with V
      product_wait<0>();
      pin(o);
      release(kVEmpty, before);
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) o[n * 4 + i] *= shrink[i >> 1];
      pack();
    }
    wait(kVFull, done);
    product_fence();
    values(done % kStages);
    product_commit();
    product_wait<0>();
    pin(o);
    release(kVEmpty, done);
    ++done;

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
      const float inverse = sum[r] > 0 ? 1.f / sum[r] : 0.f;
      const int row = row0 + 8 * r;
      H* out = static_cast<H*>(p.out) + (item.out_row + row) * p.out_ld + int64_t{item.head} * D;
#pragma unroll
      for (int n0 = 0; n0 < D / 8; n0 += 4) {
        uint32_t words[4];
#pragma unroll
        for (int k = 0; k < 4; ++k)
          words[k] =
              pack2<H>(o[(n0 + k) * 4 + 2 * r] * inverse, o[(n0 + k) * 4 + 2 * r + 1] * inverse);
        const uint4 whole = row_of_quad(words, lane);
        if (row < item.rows) *reinterpret_cast<uint4*>(out + (n0 + (lane & 3)) * 8) = whole;
      }
    }
    barrier_arrive_at(barrier_at(kQEmpty, turn));
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
  p.items = a.tiles * a.shape.heads;
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
  int device = 0, multiprocessors = 0;
  APUD_CUDA(cudaGetDevice(&device));
  APUD_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const int blocks = std::min(p.items, T::kResident * multiprocessors);
  launch(Launch{where.stream, true}, kernel, dim3(blocks), dim3(T::kThreads), T::kShared, p);
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
