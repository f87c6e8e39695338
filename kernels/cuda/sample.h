// Drawing tokens on the device, by the rules of kernels/sampling.h: cuts as thresholds on (logit,
// id), survivors walked in order of id. Masses are fixed-point integers, so a draw never depends on
// the order in which threads add.
//
// Threads: launchers only enqueue.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/sampling.h"

namespace apud::cuda {

/// One row's parameters on the device.
struct SampleRow {
  float temperature, top_p, min_p;
  int top_k;
  float repetition, presence, frequency;
  int seen_begin, seen_count;  // in `seen`
  int64_t allowed_begin;       // words of `allowed`; -1: all tokens
  double uniform;              // of (seed, counter)
};

/// A decode step that leaves the device ready for the next one: the drawn tokens are its tokens.
struct SampleAdvance {
  int32_t* tokens = nullptr;     // (rows); null: not wanted
  int32_t* positions = nullptr;  // (rows), each one more afterwards
  int32_t* starts = nullptr;     // of sequences, likewise
};
struct SampleArgs {
  const float* logits = nullptr;  // (rows, vocab), leading dimension ld
  int64_t ld = 0;
  int vocab = 0;
  int rows = 0;
  const SampleRow* row = nullptr;  // (rows), device
  const int32_t* seen = nullptr;
  const uint64_t* allowed = nullptr;
  bool plain_greedy = false;  // every row: greedy, no mask, no penalties
  float* work = nullptr;      // (rows, vocab)
  int* counts = nullptr;      // (rows, vocab), zero between launches
  float4* partial = nullptr;  // (rows, kSampleChunks)
  /// (rows); id -1: no finite logit. With `advance`, row r of position p is in advanced_slot(r, p):
  /// the next step may be drawn before this one has been read.
  SampledToken* out = nullptr;
  SampleAdvance advance;  // plain greedy alone
};
inline constexpr int kSampleChunks = 128;
inline constexpr int kMostDrawn = 64;  // rows of `out`, twice
constexpr int advanced_slot(int row, int position) { return row + kMostDrawn * (position & 1); }
void sample(const SampleArgs& a, const Launch& where);
/// The token, or kBadData where its row of `vocab` logits had no finite one.
SampledToken checked(const SampledToken& drawn, int vocab);

}  // namespace apud::cuda
