#include "rag/feedback.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "rag/statistics.h"

namespace apud {
namespace {

double norm(std::span<const float> row) {
  double sum = 0;
  for (float x : row) sum += double{x} * x;
  return std::sqrt(sum);
}

/// Unit vectors around the mean of those that are there; rows of zeros stay.
std::vector<float> centred(std::span<const float> vectors, size_t dimension) {
  std::vector<double> mean(dimension, 0);
  std::vector<float> out(vectors.begin(), vectors.end());
  double there = 0;
  for (size_t at = 0; at < out.size(); at += dimension) {
    if (norm(std::span(out).subspan(at, dimension)) == 0) continue;
    for (size_t d = 0; d < dimension; ++d) mean[d] += out[at + d];
    there += 1;
  }
  for (size_t at = 0; at < out.size(); at += dimension) {
    std::span<float> row(out.data() + at, dimension);
    if (norm(row) == 0) continue;
    for (size_t d = 0; d < dimension; ++d) row[d] -= static_cast<float>(mean[d] / there);
    const double length = norm(row);
    if (length == 0) continue;  // the mean itself: near nothing
    for (float& x : row) x = static_cast<float>(x / length);
  }
  return out;
}

}  // namespace

std::vector<double> with_feedback(std::span<const double> scores, std::span<const float> vectors,
                                  size_t dimension) {
  APUD_CHECK(vectors.size() == scores.size() * dimension, "a vector for every score");
  std::vector<double> out(scores.begin(), scores.end());
  if (scores.empty()) return out;
  const std::vector<float> rows = centred(vectors, dimension);
  std::vector<size_t> best(scores.size());
  std::iota(best.begin(), best.end(), size_t{0});
  std::stable_sort(best.begin(), best.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  best.resize(std::min(best.size(), kFeedbackBest));
  std::vector<float> wanted(dimension, 0);
  for (size_t rank = 0; rank < best.size(); ++rank) {
    for (size_t d = 0; d < dimension; ++d)
      wanted[d] += rows[best[rank] * dimension + d] / static_cast<float>(rank + 1);
  }
  const double length = norm(wanted);
  if (length == 0) return out;
  const double weight = kFeedbackWeight * spread_of(scores).deviation / length;
  for (size_t i = 0; i < scores.size(); ++i) {
    double cosine = 0;
    for (size_t d = 0; d < dimension; ++d) cosine += double{rows[i * dimension + d]} * wanted[d];
    out[i] += weight * cosine;
  }
  return out;
}

}  // namespace apud
