// Fits a collection's fusion weight with its own headings as questions (rag.md, section 5 and "The
// pipeline"): heading -> its text with the heading removed; and its abstain line with foreign
// questions (rag/relevance.h).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/cancel.h"
#include "rag/embedder.h"
#include "rag/index.h"
#include "rag/store.h"

namespace apud {

/// Measures. With too few headings the weight stays the general one. `queries` is 0 in the result
/// for an empty collection and on cancel. Costs a short and a chunk-long embedding for each of at
/// most 64 headings, and 32 short ones.
Calibration calibrate(Store& store, TextEmbedder& embedder, const CollectionInfo& collection,
                      const VectorIndex& index, const CancelFlag* cancel);

/// A heading asked as a question, and what retrieval finds for it when the right chunk is without
/// its heading.
struct HeadingTrial {
  std::string heading;
  int64_t gold = 0;                                // the chunk under it
  std::vector<std::pair<int64_t, double>> ranked;  // chunks with fused scores, best first
};

/// Trials with up to `most` headings, spread evenly over the collection, `top` chunks of each; none
/// where it has too few headings, or on cancel.
std::vector<HeadingTrial> heading_trials(Store& store, TextEmbedder& embedder,
                                         const CollectionInfo& collection, const VectorIndex& index,
                                         int most, int top, const CancelFlag* cancel);

}  // namespace apud
