// Beam search without the engine: which continuations go on, which ended ones are kept, when the
// search is over.
//
// Source: BeamSearchScorer and BeamHypotheses of Hugging Face transformers 4.46
// (src/transformers/generation/beam_search.py) with their defaults length_penalty = 1 and
// early_stopping = False. As there:
// - a hypothesis scores the sum of its tokens' natural log-probabilities over their number, the end
//   token counted in both;
// - a step looks at the max(2, 1 + end tokens) * width most probable pairs of beam and token; a
//   pair that ends its text is kept where it is among the first `width`, else passed over; of the
//   others the first `width` are the next beams;
// - it is over when `width` hypotheses are kept and the best pair's sum over its length does not
//   exceed the worst one's score: log-probabilities only fall, so no beam is expected to catch up.
// A text may also end by a stop string, which counts like an end token. Equal sums go by beam, then
// by token id.
//
// Threads: one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"
#include "kernels/sampling.h"

namespace apud {

class BeamSearch {
 public:
  explicit BeamSearch(int width) : width_(width) {}
  int width() const { return width_; }
  /// Pairs that a step looks at with a vocabulary of so many end tokens.
  int pairs(int end_tokens) const { return std::max(2, 1 + end_tokens) * width_; }

  struct Pair {
    int beam = 0;
    SampledToken token;
    double sum = 0;  // of log-probabilities, the token's included
  };
  /// The best `count` pairs, best first. tokens[b]: most probable tokens of beam b, best first, at
  /// least `count` where there are so many; sums[b]: of that beam.
  static std::vector<Pair> best_pairs(std::span<const std::vector<SampledToken>> tokens,
                                      std::span<const double> sums, int count);

  /// Offers a hypothesis of `length` tokens (end token included, >= 1); true where it is kept.
  bool keep(Completion hypothesis, double sum, int length);
  /// No beam can be expected to beat what is kept. best_sum: of the step's best pair, whose text
  /// has `length` tokens.
  bool over(double best_sum, int length) const;
  /// What is kept, best first; of equal scores the earlier one.
  std::vector<Completion> take();

 private:
  int width_;
  std::vector<Completion> kept_;  // best first
};

}  // namespace apud
