#include "engine/impl/beam_search.h"

#include <algorithm>
#include <utility>

namespace apud {

std::vector<BeamSearch::Pair> BeamSearch::best_pairs(
    std::span<const std::vector<SampledToken>> tokens, std::span<const double> sums, int count) {
  std::vector<Pair> pairs;
  for (size_t beam = 0; beam < tokens.size(); ++beam) {
    for (const SampledToken& token : tokens[beam])
      pairs.push_back({static_cast<int>(beam), token, sums[beam] + token.logprob});
  }
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const Pair& a, const Pair& b) { return a.sum > b.sum; });
  pairs.resize(std::min(pairs.size(), static_cast<size_t>(count)));
  return pairs;
}

bool BeamSearch::keep(Completion hypothesis, double sum, int length) {
  hypothesis.score = sum / length;
  auto at =
      std::upper_bound(kept_.begin(), kept_.end(), hypothesis,
                       [](const Completion& a, const Completion& b) { return a.score > b.score; });
  auto place = at - kept_.begin();
  if (place >= width_) return false;
  kept_.insert(at, std::move(hypothesis));
  if (static_cast<int>(kept_.size()) > width_) kept_.pop_back();
  return true;
}

bool BeamSearch::over(double best_sum, int length) const {
  return static_cast<int>(kept_.size()) == width_ && kept_.back().score >= best_sum / length;
}

std::vector<Completion> BeamSearch::take() { return std::exchange(kept_, {}); }

}  // namespace apud
