// Candidates of a search beside the question, token by token: their order, and which of their
// sentences answer.
//
// Vectors of whole chunks find candidates; among them the tokens tell better which one answers, and
// a sentence read in its chunk better than one read alone (docs/performance.md, "Retrieval").
//
// Threads: as the store's.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "rag/retriever.h"
#include "rag/token_codes.h"

namespace apud {

/// Candidates that are compared, best fused score first: with 200 the best of them is found where
/// 100 lack it, more cost time for nothing measured.
inline constexpr size_t kMostMatched = 200;
/// Of a match beside the fused score (0..1). Matches of one question's candidates lie within some
/// .1, so they make more than half of the order; 10 to 30 order alike.
inline constexpr double kMatchWeight = 16;

/// An embedder's centres as the store has them; empty: it has none yet, or the embedder no tokens.
/// Throws kBadData where they are not the embedder's.
TokenCenters stored_centers(Store& store, const TextEmbedder& embedder);

/// Matches of chunks with the questions, the mean of several; nothing for a chunk without codes of
/// that width (another embedder's, or none).
std::vector<std::optional<TokenMatch>> match_chunks(Store& store,
                                                    std::span<const TokenQuestion> questions,
                                                    size_t width, std::span<const int64_t> chunks);

/// Matches of the sentences of a chunk that begins at `begin` of its document; none where the codes
/// were made of other sentences.
std::vector<SentenceMatch> sentence_matches(const TokenMatch& match, std::string_view text,
                                            size_t begin);

}  // namespace apud
