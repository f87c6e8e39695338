#include "rag/fusion.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "rag/feedback.h"

namespace apud {
namespace {

/// Scales to 0..1 over what the side found; what it did not find counts 0.
class MinMax {
 public:
  void see(double value) {
    low_ = std::min(low_, value);
    high_ = std::max(high_, value);
  }
  double operator()(double value) const {
    if (high_ <= low_) return value >= high_ ? 1.0 : 0.0;
    return std::clamp((value - low_) / (high_ - low_), 0.0, 1.0);
  }

 private:
  double low_ = HUGE_VAL;
  double high_ = -HUGE_VAL;
};

/// Of the `best` highest values, which come first then.
MinMax scale_of_best(std::vector<double>& values, int best) {
  MinMax scale;
  const auto span = std::min<size_t>(values.size(), static_cast<size_t>(best));
  std::partial_sort(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(span),
                    values.end(), std::greater<>());
  for (size_t i = 0; i < span; ++i) scale.see(values[i]);
  return scale;
}

}  // namespace

void fuse(Candidates& candidates, size_t queries, int best, std::span<const double> dense_weights,
          size_t names) {
  for (size_t q = 0; q < queries; ++q) {
    std::vector<double> cosines, moved;
    MinMax bm25_scale;
    for (auto& [chunk, c] : candidates) {
      if (c.by_query[q].dense) cosines.push_back(*c.by_query[q].dense);
      if (c.by_query[q].around) moved.push_back(*c.by_query[q].around);
      if (c.by_query[q].bm25) bm25_scale.see(*c.by_query[q].bm25);
    }
    // The dense scales span the side's own best; other sides' finds below them count 0.
    const MinMax dense_scale = scale_of_best(cosines, best),
                 around_scale = scale_of_best(moved, best);
    for (auto& [chunk, c] : candidates) {
      const SideScores& s = c.by_query[q];
      double d = s.dense ? dense_scale(*s.dense) : 0;
      if (s.around) d = std::max(d, around_scale(*s.around));
      const double b = s.bm25 ? bm25_scale(*s.bm25) : 0;
      const double weight = dense_weights[c.collection];
      c.fused += (weight * d + (1 - weight) * b) / static_cast<double>(queries);
    }
  }
  for (auto& [chunk, c] : candidates) {
    if (c.named > 0) c.fused += kNamed * c.named / static_cast<double>(names);
  }
}

Order by_fused_score(const Candidates& candidates) {
  Order order;
  order.reserve(candidates.size());
  for (const auto& [chunk, c] : candidates) order.emplace_back(chunk, &c);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    if (a.second->fused != b.second->fused) return a.second->fused > b.second->fused;
    return a.first < b.first;
  });
  return order;
}

std::vector<std::optional<TokenMatch>> reorder(Store& store,
                                               std::span<const TokenQuestion> questions,
                                               size_t width, size_t dimension,
                                               const ChunkVectors& vectors, Order& order) {
  const size_t n = std::min(order.size(), kMostMatched);
  std::vector<int64_t> ids;
  std::map<size_t, std::vector<size_t>> places;  // by collection
  for (size_t i = 0; i < n; ++i) {
    ids.push_back(order[i].first);
    places[order[i].second->collection].push_back(i);
  }
  std::vector<std::optional<TokenMatch>> matches(n);
  if (!questions.empty()) matches = match_chunks(store, questions, width, ids);
  double sum = 0, matched = 0;
  for (const auto& m : matches) {
    if (!m) continue;
    sum += m->all;
    matched += 1;
  }
  std::vector<double> scores;
  for (size_t i = 0; i < n; ++i) {
    const double match = matched == 0 ? 0 : matches[i] ? matches[i]->all : sum / matched;
    scores.push_back(order[i].second->fused + kMatchWeight * match);
  }
  std::vector<float> rows(n * dimension);
  for (const auto& [collection, at] : places) {
    std::vector<int64_t> chunks;
    for (size_t i : at) chunks.push_back(ids[i]);
    const std::vector<float> found = vectors(collection, chunks);
    for (size_t i = 0; i < at.size(); ++i)
      std::copy_n(found.data() + i * dimension, dimension, rows.data() + at[i] * dimension);
  }
  scores = with_feedback(scores, rows, dimension);
  std::vector<size_t> ranked(n);
  std::iota(ranked.begin(), ranked.end(), size_t{0});
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  Order ordered;
  std::vector<std::optional<TokenMatch>> moved;
  for (size_t place : ranked) {
    ordered.push_back(order[place]);
    moved.push_back(std::move(matches[place]));
  }
  std::copy(ordered.begin(), ordered.end(), order.begin());
  return moved;
}

}  // namespace apud
