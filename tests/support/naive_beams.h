// Beam search by the book, the oracle of the engine's: every text of every beam is run from its
// first token at each step, in KV of its own, and all pairs of beam and token are sorted. A
// transcription of transformers 4.46's BeamSearchScorer (length_penalty 1, early_stopping False).
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <set>
#include <vector>

#include "engine/kv_pages.h"
#include "kernels/backend.h"

namespace apud::test {

struct NaiveHypothesis {
  std::vector<int32_t> tokens;  // without the end token
  double score = 0;
};

class NaiveBeams {
 public:
  NaiveBeams(Executor& executor, std::set<int32_t> ends)
      : executor_(executor), ends_(std::move(ends)) {}

  /// Best first.
  std::vector<NaiveHypothesis> search(const std::vector<int32_t>& prompt, int width,
                                      int max_tokens) {
    width_ = static_cast<size_t>(width);
    kept_.clear();
    std::vector<std::vector<int32_t>> beams(width_);
    std::vector<double> scores(width_, -1e9);
    scores[0] = 0;
    bool done = false;
    for (int length = 1; length <= max_tokens && !done; ++length) {
      std::vector<double> all;
      for (size_t b = 0; b < width_; ++b) {
        std::vector<int32_t> text = prompt;
        text.insert(text.end(), beams[b].begin(), beams[b].end());
        for (double logprob : next_logprobs(text)) all.push_back(scores[b] + logprob);
      }
      const size_t vocab = all.size() / width_;
      std::vector<size_t> order(all.size());
      std::iota(order.begin(), order.end(), 0);
      size_t looked_at = std::max<size_t>(2, 1 + ends_.size()) * width_;
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return all[a] > all[b]; });
      std::vector<std::vector<int32_t>> next;
      std::vector<double> next_scores;
      for (size_t rank = 0; rank < looked_at && next.size() < width_; ++rank) {
        std::vector<int32_t> text = beams[order[rank] / vocab];
        auto token = static_cast<int32_t>(order[rank] % vocab);
        if (ends_.contains(token)) {
          if (rank < width_) add(text, all[order[rank]] / length);
          continue;
        }
        text.push_back(token);
        next.push_back(text);
        next_scores.push_back(all[order[rank]]);
      }
      beams = next;
      scores = next_scores;
      done = kept_.size() == width_ && worst() >= all[order[0]] / length;
    }
    if (!done) {
      for (size_t b = 0; b < width_; ++b) add(beams[b], scores[b] / max_tokens);
    }
    std::stable_sort(kept_.begin(), kept_.end(),
                     [](const auto& a, const auto& b) { return a.score > b.score; });
    return kept_;
  }

  /// Natural log-probabilities of every token after `text`.
  std::vector<double> next_logprobs(const std::vector<int32_t>& text) {
    const Program& program = executor_.program();
    std::vector<int> count(program.kv_groups.size(), kv_blocks(static_cast<int>(text.size())));
    auto store = executor_.make_kv(count, executor_.default_kv_type());
    std::vector<int32_t> pages(static_cast<size_t>(count[0]));
    std::iota(pages.begin(), pages.end(), 0);
    std::vector<float> logits(
        static_cast<size_t>(program.values[static_cast<size_t>(program.result)].cols));
    SequenceSlice slice;
    slice.token_count = static_cast<int>(text.size());
    for (size_t g = 0; g < count.size(); ++g) slice.pages[g] = pages;
    std::vector<SequenceSlice> slices{slice};
    std::vector<int32_t> last{slice.token_count - 1};
    executor_.run({text, slices, last}, store.get(), logits);
    double highest = *std::max_element(logits.begin(), logits.end()), sum = 0;
    for (float value : logits) sum += std::exp(value - highest);
    std::vector<double> out;
    for (float value : logits) out.push_back(value - highest - std::log(sum));
    return out;
  }

 private:
  double worst() const {
    double lowest = kept_[0].score;
    for (const auto& one : kept_) lowest = std::min(lowest, one.score);
    return lowest;
  }
  void add(const std::vector<int32_t>& tokens, double score) {
    if (kept_.size() == width_ && !(score > worst())) return;
    kept_.push_back({tokens, score});
    if (kept_.size() <= width_) return;
    kept_.erase(std::min_element(kept_.begin(), kept_.end(),
                                 [](const auto& a, const auto& b) { return a.score < b.score; }));
  }

  Executor& executor_;
  std::set<int32_t> ends_;
  size_t width_ = 0;
  std::vector<NaiveHypothesis> kept_;
};

}  // namespace apud::test
