// Which sentences go into the prompt: a pure function of scored sentences, a budget and a counter.
//
// Threads: free functions on values.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rag/document.h"
#include "rag/embedder.h"
#include "rag/packer.h"

namespace apud {

/// A document as the packer sees it.
struct PackSource {
  int64_t document = 0;
  std::string collection;
  std::string path;
  std::string title;
  std::shared_ptr<const DocumentText> whole;
  const std::string& text() const { return whole->text; }
};

/// A stretch of one section that hits fell into; becomes at most one passage.
struct PackRegion {
  size_t source = 0;  // into sources
  std::string heading_path;
  int rank = 0;          // best rank of its hits, 1-based; 0: not from retrieval
  double hit_score = 0;  // of that hit
};

struct PackSentence {
  size_t region = 0;
  size_t begin = 0;  // in the source's text
  size_t end = 0;
  double score = 0;
  std::vector<std::string> terms;  // distinct, sorted; for near-duplicates
  int sent = 0;                    // id of the passage that shows it already; 0: none
  std::optional<float> match;      // with the question, where the search compared its tokens
};

struct PackInput {
  std::vector<PackSource> sources;
  std::vector<PackRegion> regions;      // by (source, position)
  std::vector<PackSentence> sentences;  // by (region, position), not overlapping
  std::vector<size_t> whole;            // regions to take in whole when that fits
  bool named = false;  // sentences that hold an exact name of the question have the highest scores
};

/// Fills options.budget; the result is within it by the counter's own count of the rendered text.
/// Sentences that were sent take their place in the budget, not in the result.
Packed select_sentences(const PackInput& input, const TokenCounter& counter,
                        const PackOptions& options);

}  // namespace apud
