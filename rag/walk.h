// Which files an ingest takes: a walk over folders that honours ignore files, leaves out hidden
// files and secrets, follows no link and opens no special file.
//
// Threads: walk() is re-entrant; the callbacks run in the calling thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/file.h"

namespace apud {

struct WalkOptions {
  std::vector<std::string> include;  // globs; when given, only files that match one are taken
  std::vector<std::string> exclude;  // globs (gitignore syntax) of files and folders left out
  bool hidden = false;               // take hidden files and folders, too (never .git)
  bool no_ignore = false;            // do not read .gitignore and .ignore
  const CancelFlag* cancel = nullptr;
};

/// A regular file to load. `path` begins with the root as it was given.
struct WalkEntry {
  Path path;
  uint64_t size = 0;
  int64_t mtime_ns = 0;
  uint64_t device = 0;
  uint64_t inode = 0;
};

enum class WalkSkip : uint8_t {
  kHidden,
  kIgnored,     // by .gitignore or .ignore
  kExcluded,    // by --exclude, or not matched by --include
  kSecret,      // key and credential files
  kLink,        // symbolic links are not followed
  kSpecial,     // FIFO, socket, device
  kUnreadable,  // folder cannot be opened
  kTooDeep,     // more than 128 folders deep
};
/// Stable name for JSON and summaries: "hidden", "ignored", …
const char* walk_skip_name(WalkSkip reason);

struct WalkCallbacks {
  std::function<void(WalkEntry&&)> file;
  /// What was left out; a folder is reported once and not entered. May be empty.
  std::function<void(const Path&, WalkSkip)> skipped;
};

/// Walks `root`, a folder or one file, in byte order of names, folders and files mixed. A root that
/// is a link is followed; a file named as root is taken even when hidden or ignored, but not a
/// secret. Throws kNoInput when the root does not exist, kIo when it cannot be opened. Returns
/// false when cancelled.
bool walk(const Path& root, const WalkOptions& options, const WalkCallbacks& callbacks);

/// True for names of key and credential files (.env, id_ed25519, *.pem, *.kdbx, .netrc, …).
bool is_secret_name(std::string_view name);

}  // namespace apud
