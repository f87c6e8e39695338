// Reads one file of any known format into a Document. Faults of a file are never exceptions: they
// are its status and reason, so that a run over many files goes on.
//
// Threads: load_file and load_bytes are re-entrant (PDF and HTML run child processes,
// base/child.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/cancel.h"
#include "base/file.h"
#include "rag/document.h"

namespace apud {

struct LoadOptions {
  uint64_t max_bytes = 512ull << 20;  // larger files are skipped (kTooLarge)
  double parser_seconds = 20;         // CPU and wall limit of one run of a child parser
  uint64_t parser_memory = 1ull << 30;
  const CancelFlag* cancel = nullptr;
};

/// What was read, so that the caller stores the hash of that and not of what stat says.
struct LoadedFile {
  Document document;
  std::string sha256;  // of the bytes read; empty when the file could not be read
  uint64_t size = 0;
  int64_t mtime_ns = 0;
};

/// Did an earlier version of a loader make a document ("docx/1"), from which today's takes another
/// text?
bool outdated_loader(std::string_view loader);

/// Loads a regular file. A file that changes while being read is read again, twice, then skipped as
/// kChanging. A raised cancel flag gives status kLimit with the reason "cancelled".
LoadedFile load_file(const Path& path, const LoadOptions& options = {});

/// As load_file, for bytes in memory (standard input, tests); `name` chooses the loader by
/// extension.
Document load_bytes(std::string_view name, std::string_view bytes, const LoadOptions& options = {});

}  // namespace apud
