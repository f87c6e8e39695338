// Sampling one token from logits: the host implementation, and the parameters that device
// implementations share. A row's result depends only on its logits, parameters, seed and counter:
// never on other rows, so a seed reproduces an answer in any batch.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace apud {

/// Order of application: bias and forbidden tokens, penalties, temperature, top_k, min_p, top_p.
struct SamplingRow {
  float temperature = 0;  // <= 0: greedy (lowest id wins ties)
  int top_k = 0;          // 0: off
  float top_p = 1;        // 1: off
  float min_p = 0;        // 0: off; keeps p >= min_p * max p
  float repetition_penalty =
      1;                        // >1 divides positive and multiplies negative logits of seen tokens
  float presence_penalty = 0;   // subtracted once for each seen token
  float frequency_penalty = 0;  // subtracted times the count
  /// Tokens counted by the penalties, with repeats, oldest first.
  std::span<const int32_t> seen;
  /// Bit i set = token i may be chosen; empty: all. ceil(vocab / 64) words. An all-zero mask is a
  /// bug.
  std::span<const uint64_t> allowed;
  uint64_t seed = 0;
  uint64_t counter = 0;  // position of the token to be drawn
};

struct SampledToken {
  int32_t id = 0;
  float logprob = 0;  // natural log of the softmax of the raw logits (after bias, before the rest)
};

/// Uniform number in [0, 1) from (seed, counter): Philox-4x32-10 (Salmon et al., SC'11).
double uniform_from(uint64_t seed, uint64_t counter);

/// Throws apud::Error (kBadData) when no finite logit is left ("all logits are NaN or infinite").
SampledToken sample_row(std::span<const float> logits, const SamplingRow& row);

/// The `count` most probable tokens that row.allowed leaves (fewer where fewer are left), best
/// first, ties by lower id; nothing else of the row counts. Throws as sample_row.
std::vector<SampledToken> most_probable(std::span<const float> logits, const SamplingRow& row,
                                        int count);

}  // namespace apud
