// The three overlapping stages of ingest: parser threads load and chunk in the order of the walk,
// the calling thread embeds, one writer thread commits a document at a time.
//
// Order is kept from end to end, so that a run's outcome does not depend on timing. Queues are
// bounded by documents and bytes. The first exception of any stage stops all and is rethrown to the
// caller.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/cancel.h"
#include "rag/chunker.h"
#include "rag/embedder.h"
#include "rag/ingest.h"
#include "rag/loader.h"
#include "rag/store.h"
#include "rag/token_codes.h"
#include "rag/walk.h"

namespace apud {

/// A file to read, with what the store knows of that path.
struct WorkItem {
  WalkEntry entry;
  std::string path;  // absolute
  std::optional<DocumentInfo> known;
};

struct PipelineOptions {
  int64_t collection = 0;
  int jobs = 1;
  ChunkOptions chunking;
  LoadOptions loading;
  const CancelFlag* cancel = nullptr;
  std::vector<std::string> known_keys;  // text_key()s that have a vector (and codes) already
  TokenCenters token_centers;           // of the embedder's tokens; empty: it has none
  /// Content hash -> document that is indexed with it and stays.
  std::unordered_map<std::string, std::pair<int64_t, std::string>> owners;
};

struct PipelineTotals {
  int64_t chunks = 0;  // written
  int64_t tokens = 0;
  int64_t embedded = 0;
  int64_t characters = 0;  // sampled for the share of CJK
  int64_t cjk = 0;
  double embed_seconds = 0;  // embedder busy
  double idle_seconds = 0;   // embedder waiting: for the first and for parsed text, for the writer
};

/// Called in the writer thread after each file is settled (and durable).
using SettledCallback = std::function<void(const FileEvent&, int64_t chunks_parsed)>;

/// Runs `work` to its end or the cancel flag. The store is used by the writer thread alone
/// meanwhile.
PipelineTotals run_pipeline(Store& store, WriteLock& lock, TextEmbedder& embedder,
                            std::vector<WorkItem> work, PipelineOptions options,
                            const SettledCallback& settled);

}  // namespace apud
