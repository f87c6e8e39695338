// Pseudo-relevance feedback among the candidates of a search: the best ones are taken for relevant,
// and what lies near them rises (Rocchio, 1971; with vectors of passages as in ANCE-PRF, Yu et al.,
// CIKM 2021, and Li et al., TOIS 2023, but without a model of its own and without a second search).
//
// Threads: a free function on values.
#pragma once

#include <span>
#include <vector>

namespace apud {

/// Candidates taken for relevant; the first counts once, the second half, the third a third, ….
/// One to five do equally well (docs/performance.md, "Retrieval").
inline constexpr size_t kFeedbackBest = 5;
/// Of the cosine with them, in spreads (standard deviations) of the scores; 2 to 5 do equally well.
inline constexpr double kFeedbackWeight = 2;

/// scores: (n); vectors: (n, dimension), a row of zeros where there is none, which gets nothing.
/// Returns (n) scores. Cosines are around the candidates' mean: they all lie in the question's
/// corner, and only there they tell one from another.
std::vector<double> with_feedback(std::span<const double> scores, std::span<const float> vectors,
                                  size_t dimension);

}  // namespace apud
