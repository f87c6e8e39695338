// Ingest: files into a collection. Parsing, embedding and writing overlap; one transaction per
// document, so that an interruption at any moment loses at most the document being written and a
// rerun completes the work.
//
// Threads: ingest() runs its own workers; callbacks come from one thread at a time.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/file.h"
#include "rag/chunker.h"
#include "rag/document.h"
#include "rag/embedder.h"
#include "rag/loader.h"
#include "rag/store.h"
#include "rag/walk.h"

namespace apud {

struct IngestOptions {
  std::string collection = "default";
  WalkOptions walk;  // which files are taken
  LoadOptions loading;
  std::optional<ChunkOptions>
      chunking;                     // of a new collection; default: chunk_options_for(embedder)
  int jobs = 0;                     // parser threads; 0: usable CPUs
  bool prune = false;               // remove vanished documents instead of keeping them
  bool dry_run = false;             // events only; nothing is written, nothing embedded
  bool wait = false;                // wait for another writer instead of kBusy
  bool calibrate = true;            // fit fusion weight and abstain line when content changed
  std::vector<LoadStatus> fail_on;  // such a file makes the report `failed`
};

/// What happened to one file.
enum class FileOutcome : uint8_t {
  kIndexed,    // new
  kReplaced,   // content changed
  kUnchanged,  // a stat was enough, or the same content with another mtime
  kMoved,      // known content under a new path, old path gone
  kDuplicate,  // same content as another document of the collection: indexed once, see reason
  kEmpty,      // no text; remembered so that it is not read again
  kSkipped,    // see status and reason; an earlier good version stays retrievable
  kVanished,   // no longer there: not retrieved, kept
  kPruned,     // removed
};
const char* file_outcome_name(FileOutcome outcome);

struct FileEvent {
  std::string path;
  FileOutcome outcome = FileOutcome::kIndexed;
  LoadStatus status = LoadStatus::kOk;
  std::string reason;  // of skips and partial yields; "duplicate of PATH"
  std::vector<int> pages_without_text;
  int64_t chunks = 0;
  int64_t tokens = 0;
};

struct IngestProgress {
  int64_t files_total = 0;  // known after the walk
  int64_t files_done = 0;
  int64_t chunks_total = 0;  // parsed so far
  int64_t chunks_done = 0;   // written
  double seconds = 0;
  const FileEvent* event = nullptr;  // the file just finished, or null for a tick
};

struct IngestReport {
  int64_t counts[9] = {};  // by FileOutcome
  int64_t count(FileOutcome outcome) const { return counts[static_cast<int>(outcome)]; }
  int64_t files = 0;
  int64_t chunks = 0;  // written
  int64_t tokens = 0;
  int64_t embedded = 0;  // chunks that needed the embedder
  struct SkipCount {
    std::string reason;  // "binary", "hidden", "secret", …
    int64_t files = 0;
  };
  std::vector<SkipCount>
      skips;             // by reason, most frequent first; secrets and ignored ones included
  double cjk_share = 0;  // of the new text; with an English-only embedder above .05: warn
  double seconds = 0;
  double embed_seconds = 0;  // embedder busy
  double idle_seconds = 0;   // embedder idle while files were read, embedded and written
  bool all_skipped = false;  // nothing could be read: exit 65
  bool failed = false;       // a file of `fail_on` was met
  bool cancelled = false;
  std::vector<std::string> warnings;
};

using IngestCallback = std::function<void(const IngestProgress&)>;

/// Brings `paths` (files or folders) into the collection, creating it when absent.
/// Throws kNoInput when a path does not exist, when a known root is gone, or when more than half of
/// a root's documents vanished (nothing is changed then); kUsage when the collection belongs to
/// another embedder (advice names the ways out); kBusy when another writer is at work; kIo.
IngestReport ingest(Store& store, TextEmbedder& embedder, std::span<const Path> paths,
                    const IngestOptions& options, const IngestCallback& progress = {},
                    const CancelFlag* cancel = nullptr);

}  // namespace apud
