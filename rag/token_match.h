// The best hits read beside the question token by token: their order, and which of their sentences
// are near.
//
// Vectors of whole chunks find candidates; among them the vectors of single tokens tell better
// which one answers, and a sentence read in its chunk is nearer to the truth than one read alone
// (docs/performance.md, "Retrieval"). Both come from one forward pass of each chunk.
//
// Threads: one at a time (the embedder's embed()).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "rag/embedder.h"
#include "rag/retriever.h"

namespace apud {

/// Most hits that are read, however short they are.
inline constexpr int kMostMatched = 24;

/// questions: within the embedder's limit. Reads the first hits, as many as `limit` tokens allow,
/// sets Hit::match and Hit::sentences, and puts them in the order of fused score and match
/// together: ranks and scores are given out anew in that order, so that both still fall. Nothing
/// changes where the embedder has no token vectors.
void match_tokens(TextEmbedder& embedder, std::span<const std::string> questions, int limit,
                  std::vector<Hit>& hits);

}  // namespace apud
