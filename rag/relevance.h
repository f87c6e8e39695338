// How near a question is to a chunk, for the abstain line: the cosine and the question's words
// together.
//
// Embedders score English and Chinese questions on different levels (e5-small: .81 to .88 and .86
// to .93 on one bilingual book), so a line on the cosine alone refuses most good questions of the
// lower one. The share of the question's words that a chunk holds, weighted by how rare they are,
// tells questions of the collection from foreign ones where the cosine does not
// (docs/performance.md, "Retrieval").
//
// Threads: one at a time (the store's connection).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "rag/store.h"

namespace apud {

/// Weight of the overlap beside the cosine.
inline constexpr double kOverlapWeight = 0.2;
/// Best chunks of a question that are looked at.
inline constexpr size_t kRelevanceHits = 10;

/// A text's terms as the keyword index holds them, distinct and sorted.
std::vector<std::string> distinct_terms(Store& store, std::string_view text);
/// The same for a question, without function words (with them where there is nothing else).
std::vector<std::string> question_terms(Store& store, std::string_view question);

/// Which of a question's words a text holds: share of their summed idf, 0..1. A word that is
/// nowhere in the collection weighs most.
class IdfOverlap {
 public:
  /// frequencies[i]: texts among `total` that hold terms[i].
  IdfOverlap(std::vector<std::string> terms, const std::vector<int64_t>& frequencies,
             int64_t total);
  /// Of a question among a collection's chunks.
  IdfOverlap(Store& store, int64_t collection, std::string_view question);
  /// terms: distinct.
  double operator()(const std::vector<std::string>& terms) const;

 private:
  std::unordered_map<std::string, double> idf_;
  double sum_ = 0;
};

/// cosine + kOverlapWeight x overlap, 0..1.2 in practice.
double relevance(Store& store, const IdfOverlap& overlap, double cosine, std::string_view heading,
                 std::string_view text);

}  // namespace apud
