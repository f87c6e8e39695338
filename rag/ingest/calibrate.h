// Fits a collection's fusion weight and abstain line with its own headings as questions (rag.md,
// section 5 and "The pipeline"): heading -> its text with the heading removed.
#pragma once

#include "base/cancel.h"
#include "rag/embedder.h"
#include "rag/index.h"
#include "rag/store.h"

namespace apud {

/// Measures. `queries` is 0 in the result when the collection has too few headings, or on cancel.
/// Costs two short and one chunk-long embedding for each of at most 64 headings.
Calibration calibrate(Store& store, TextEmbedder& embedder, const CollectionInfo& collection,
                      const VectorIndex& index, const CancelFlag* cancel);

}  // namespace apud
