// What a search found, and in which order: candidates of the dense and of the keyword side fused by
// a weighted min-max sum, the best of them then ordered anew by their tokens and by feedback.
//
// Threads: free functions on values; reorder() as the store's.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "rag/token_match.h"

namespace apud {

/// Scores of one candidate for one of the searched texts.
struct SideScores {
  std::optional<float> dense;   // cosine
  std::optional<float> around;  // product with the text's vector less its language's centre
  std::optional<double> bm25;
};

struct Candidate {
  size_t collection = 0;             // position among the searched ones
  std::vector<SideScores> by_query;  // (queries)
  int named = 0;                     // exact names of the question that few chunks hold, and this
  double fused = 0;
};

using Candidates = std::unordered_map<int64_t, Candidate>;        // by chunk
using Order = std::vector<std::pair<int64_t, const Candidate*>>;  // chunks, best first

/// Added to the fused score, 0..1, of a chunk for what it holds of the exact names of the question
/// that few chunks hold: who asks for E14 wants those first.
inline constexpr double kNamed = 2;

/// Sets each candidate's fused score: for each of `queries` searched texts the sum of both sides,
/// scaled to 0..1 over the side's `best` finds, then the mean of the texts, and kNamed x the share
/// of `names` exact names that it holds. dense_weights: of each collection, 0..1.
void fuse(Candidates& candidates, size_t queries, int best, std::span<const double> dense_weights,
          size_t names);

/// By fused score, chunks of one score by id. Borrows the candidates.
Order by_fused_score(const Candidates& candidates);

/// Vectors of chunks of a collection, (chunks, dimension).
using ChunkVectors = std::function<std::vector<float>(size_t, std::span<const int64_t>)>;

/// Puts the best candidates in the order of fused score, match and nearness to the best and gives
/// their matches in that order; none of them where there are no questions. One without codes counts
/// as the mean of the others.
std::vector<std::optional<TokenMatch>> reorder(Store& store,
                                               std::span<const TokenQuestion> questions,
                                               size_t width, size_t dimension,
                                               const ChunkVectors& vectors, Order& order);

}  // namespace apud
