#include "kernels/cuda/sample.h"

#include <cmath>

namespace apud::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr double kMassUnit = 1099511627776.0;  // 2^40: a weight of 1

/// Order of floats as unsigned integers, then lower ids first.
__device__ uint64_t rank_of(float logit, int id) {
  uint32_t bits = __float_as_uint(logit);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (static_cast<uint64_t>(bits) << 32) | (0xffffffffu - static_cast<uint32_t>(id));
}

struct Best {
  float value;
  int id;
};
__device__ Best better_of(Best a, Best b) {
  if (b.id >= 0 && (a.id < 0 || b.value > a.value || (b.value == a.value && b.id < a.id))) return b;
  return a;
}
__device__ Best warp_best(Best v) {
  for (int i = 16; i > 0; i >>= 1)
    v = better_of(
        v, {__shfl_xor_sync(0xffffffffu, v.value, i), __shfl_xor_sync(0xffffffffu, v.id, i)});
  return v;
}

/// Per chunk of a row: best allowed finite logit, its id, and the sum of exp(x - best). Copies the
/// allowed logits (others -inf) to `work` unless every row is plain greedy.
__global__ void __launch_bounds__(256) scan_kernel(const __grid_constant__ SampleArgs a) {
  grid_dependency_trigger();
  grid_dependency_wait();
  __shared__ Best bests[8];
  __shared__ float sums[33];
  int row = blockIdx.y, chunk = blockIdx.x, per = (a.vocab + kSampleChunks - 1) / kSampleChunks;
  int begin = chunk * per, end = min(a.vocab, begin + per);
  const float* logits = a.logits + row * a.ld;
  const uint64_t* allowed = !a.plain_greedy && a.row[row].allowed_begin >= 0
                                ? a.allowed + a.row[row].allowed_begin
                                : nullptr;
  // Calls use(i, logit, allowed and finite), several loads in flight.
  auto each = [&](auto use) {
    constexpr int kAhead = 4;
    for (int first = begin + threadIdx.x; first < end; first += 256 * kAhead) {
      float x[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k)
        x[k] = first + 256 * k < end ? ld_stream(logits + first + 256 * k) : -INFINITY;
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int i = first + 256 * k;
        if (i >= end) break;
        use(i, x[k], isfinite(x[k]) && (!allowed || ((allowed[i / 64] >> (i % 64)) & 1)));
      }
    }
  };
  Best best = {-INFINITY, -1};
  each([&](int i, float x, bool ok) {
    if (ok) best = better_of(best, {x, i});
    if (!a.plain_greedy) a.work[int64_t{row} * a.vocab + i] = ok ? x : -INFINITY;
  });
  best = warp_best(best);
  if ((threadIdx.x & 31) == 0) bests[threadIdx.x >> 5] = best;
  __syncthreads();
  best = bests[0];
  for (int w = 1; w < 8; ++w) best = better_of(best, bests[w]);
  float sum = 0;
  each([&](int, float x, bool ok) {
    if (ok) sum += __expf(x - best.value);
  });
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0)
    a.partial[row * kSampleChunks + chunk] =
        make_float4(best.value, __int_as_float(best.id), sum, 0);
}

/// By a whole warp.
__device__ float log_sum_exp(const float4* partial, Best* best) {
  constexpr int kEach = kSampleChunks / 32;
  const int lane = threadIdx.x & 31;
  float4 chunk[kEach];
  Best b = {-INFINITY, -1};
#pragma unroll
  for (int k = 0; k < kEach; ++k) chunk[k] = __ldcg(partial + k * 32 + lane);
#pragma unroll
  for (int k = 0; k < kEach; ++k) b = better_of(b, {chunk[k].x, __float_as_int(chunk[k].y)});
  b = warp_best(b);
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kEach; ++k)
    if (__float_as_int(chunk[k].y) >= 0) sum += chunk[k].z * __expf(chunk[k].x - b.value);
  *best = b;
  return b.value + logf(warp_sum(sum));
}

/// A block of one warp a row.
__global__ void greedy_kernel(const __grid_constant__ SampleArgs a) {
  grid_dependency_trigger();
  grid_dependency_wait();
  const int row = blockIdx.x;
  Best best;
  const float lse = log_sum_exp(a.partial + row * kSampleChunks, &best);
  if (threadIdx.x != 0) return;
  const SampledToken drawn = {best.id, best.id >= 0 ? best.value - lse : 0.f};
  if (!a.advance.tokens) {
    a.out[row] = drawn;
    return;
  }
  const int position = a.advance.positions[row];
  a.out[advanced_slot(row, position)] = drawn;
  a.advance.tokens[row] = max(best.id, 0);
  a.advance.positions[row] = position + 1;
  a.advance.starts[row] += 1;
}

struct Shared {
  unsigned long long histogram[256];
  unsigned long long scan[kThreads];
  Best bests[32];
  unsigned long long prefix, have;
  int done;
};

/// Best of the row's working logits; the same for every thread.
__device__ Best row_best(const float* work, int vocab, Shared& s) {
  Best best = {-INFINITY, -1};
  for (int i = threadIdx.x; i < vocab; i += kThreads)
    if (work[i] > -INFINITY) best = better_of(best, {work[i], i});
  best = warp_best(best);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) s.bests[threadIdx.x >> 5] = best;
  __syncthreads();
  best = s.bests[0];
  for (int w = 1; w < 32; ++w) best = better_of(best, s.bests[w]);
  return best;
}

/// Largest rank R such that the mass of the survivors ranked >= R is at least `wanted`: radix
/// selection, 8 bits a pass.
template <typename Mass>
__device__ uint64_t select_rank(const float* work, int vocab, uint64_t wanted, Shared& s,
                                Mass&& mass) {
  if (threadIdx.x == 0) {
    s.prefix = 0;
    s.have = 0;
  }
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += kThreads) s.histogram[i] = 0;
    __syncthreads();
    uint64_t prefix = s.prefix;
    for (int i = threadIdx.x; i < vocab; i += kThreads) {
      uint64_t rank = rank_of(work[i], i);
      if (shift < 56 && (rank >> (shift + 8)) != (prefix >> (shift + 8))) continue;
      unsigned long long w = mass(i, rank);
      if (w) atomicAdd(&s.histogram[(rank >> shift) & 255], w);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 255;
      while (digit > 0 && s.have + s.histogram[digit] < wanted) s.have += s.histogram[digit--];
      s.prefix |= static_cast<uint64_t>(digit) << shift;
    }
    __syncthreads();
  }
  uint64_t result = s.prefix;
  __syncthreads();
  return result;
}

/// One block per row.
__global__ void __launch_bounds__(kThreads) draw_kernel(const __grid_constant__ SampleArgs a) {
  grid_dependency_trigger();
  grid_dependency_wait();
  __shared__ Shared s;
  const int row = blockIdx.x;
  const SampleRow p = a.row[row];
  float* work = a.work + int64_t{row} * a.vocab;
  Best raw;
  float lse = log_sum_exp(a.partial + row * kSampleChunks, &raw);
  if (raw.id < 0) {
    if (threadIdx.x == 0) a.out[row] = {-1, 0.f};
    return;
  }
  auto answer = [&](int id) { a.out[row] = {id, a.logits[row * a.ld + id] - lse}; };

  if (p.seen_count > 0) {
    int* counts = a.counts + int64_t{row} * a.vocab;
    const int32_t* seen = a.seen + p.seen_begin;
    for (int i = threadIdx.x; i < p.seen_count; i += kThreads) atomicAdd(counts + seen[i], 1);
    __syncthreads();
    for (int i = threadIdx.x; i < p.seen_count; i += kThreads) {
      int n = atomicExch(counts + seen[i], 0);
      if (n == 0) continue;
      float x = work[seen[i]];
      if (x > -INFINITY) {
        x = x > 0 ? x / p.repetition : x * p.repetition;
        work[seen[i]] = x - (p.presence + p.frequency * static_cast<float>(n));
      }
    }
    __syncthreads();
  }
  Best best = row_best(work, a.vocab, s);
  if (!(p.temperature > 0)) {
    if (threadIdx.x == 0) answer(best.id);
    return;
  }

  const float inverse_t = 1.f / p.temperature;
  const float min_weight = p.min_p > 0 ? fminf(p.min_p, 1.f) : 0.f;
  uint64_t cut = 0;
  auto weight = [&](int i) { return expf((work[i] - best.value) * inverse_t); };
  auto mass = [&](int i, uint64_t rank) -> unsigned long long {
    if (rank < cut || work[i] == -INFINITY) return 0;
    float w = weight(i);
    return w < min_weight ? 0 : static_cast<unsigned long long>(static_cast<double>(w) * kMassUnit);
  };
  if (p.top_k > 0 && p.top_k < a.vocab)
    cut = select_rank(work, a.vocab, p.top_k, s,
                      [&](int i, uint64_t) -> unsigned long long { return work[i] > -INFINITY; });

  auto total_mass = [&]() {
    int per = (a.vocab + kThreads - 1) / kThreads, begin = threadIdx.x * per;
    unsigned long long sum = 0;
    for (int i = begin; i < min(a.vocab, begin + per); ++i) sum += mass(i, rank_of(work[i], i));
    __syncthreads();
    s.scan[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 1; step < kThreads; step *= 2) {
      unsigned long long before =
          static_cast<int>(threadIdx.x) >= step ? s.scan[threadIdx.x - step] : 0;
      __syncthreads();
      s.scan[threadIdx.x] += before;
      __syncthreads();
    }
    return s.scan[kThreads - 1];
  };
  unsigned long long total = total_mass();
  if (p.top_p < 1) {
    double wanted = ceil(static_cast<double>(fmaxf(p.top_p, 0.f)) * static_cast<double>(total));
    uint64_t end = select_rank(work, a.vocab, static_cast<uint64_t>(fmax(wanted, 1.0)), s, mass);
    cut = cut > end ? cut : end;
    total = total_mass();
  }
  // scan holds inclusive sums of runs of ids: the thread whose run holds the target walks it.
  auto target = static_cast<unsigned long long>(p.uniform * static_cast<double>(total));
  if (target >= total) target = total - 1;
  unsigned long long before = threadIdx.x ? s.scan[threadIdx.x - 1] : 0;
  if (before <= target && target < s.scan[threadIdx.x]) {
    int per = (a.vocab + kThreads - 1) / kThreads, begin = threadIdx.x * per;
    for (int i = begin; i < min(a.vocab, begin + per); ++i) {
      before += mass(i, rank_of(work[i], i));
      if (before > target) {
        answer(i);
        break;
      }
    }
  }
}

}  // namespace

SampledToken checked(const SampledToken& drawn, int vocab) {
  if (drawn.id < 0)
    throw Error(ErrorKind::kBadData, "all " + std::to_string(vocab) + " logits are NaN or infinite",
                "the model file is damaged or its weights overflow");
  return drawn;
}

void sample(const SampleArgs& a, const Launch& where) {
  launch(where, scan_kernel, dim3(kSampleChunks, a.rows), dim3(256), 0, a);
  if (a.plain_greedy)
    launch(where, greedy_kernel, dim3(a.rows), dim3(32), 0, a);
  else
    launch(where, draw_kernel, dim3(a.rows), dim3(kThreads), 0, a);
}

}  // namespace apud::cuda
