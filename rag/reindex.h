// A collection cut and embedded anew (other embedder, other size of chunks) beside the live one:
// built as its shadow (Store::shadow_name), swapped in by Store::adopt_shadow(). Until then every
// query sees the live one, and a kill at any point leaves it as it was; a shadow that a kill left
// behind is gone on with when its settings are the same, else made anew.
//
// Threads: as ingest().
#pragma once

#include <string>
#include <vector>

#include "rag/ingest.h"

namespace apud {

struct ReindexOptions {
  ChunkOptions chunking;
  int jobs = 0;  // parser threads; 0: usable CPUs
  bool wait = false;
};

struct Shadow {
  IngestReport report;
  int64_t generation = 0;  // of the live collection that it covers, for adopt_shadow()
  /// "path (reason)" of documents that the live collection can find and the shadow could not read:
  /// to adopt it would lose them.
  std::vector<std::string> lost;
};

/// Builds, or completes, the shadow of a collection from the files of its documents. Throws
/// kNoInput for an unknown collection and where files of retrievable documents are gone (nothing is
/// built then); as ingest() otherwise.
Shadow build_shadow(Store& store, TextEmbedder& embedder, const std::string& collection,
                    const ReindexOptions& options, const IngestCallback& progress = {},
                    const CancelFlag* cancel = nullptr);

}  // namespace apud
