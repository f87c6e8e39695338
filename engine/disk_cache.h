// The disk tier of the prefix cache: KV pages as checksummed files, found by the hash chain of
// their tokens. docs/formats.md describes the files.
//
// A page file is keyed by model, KV layout and rope settings (one folder per key) and by the chain
// of all tokens before it, and states its own tokens: a look-up compares tokens, so a page that
// shares only its first tokens with the request is used that far. Nothing is used before the whole
// file verifies; whatever does not is deleted, counted and recomputed. Files are replaced by rename
// and several processes may share the folder. Writing happens on a thread of its own.
//
// Threads: DiskCache belongs to one thread, which may let others call read(); its writer is
// internal. The free functions are re-entrant.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "kernels/backend.h"

namespace apud {

struct DiskCacheOptions {
  Path folder;                          // empty: no disk tier
  uint64_t limit_bytes = 10ull << 30;   // of all keys together
  double free_share = 0.1;              // and never more than this share of the free space
  uint64_t queue_bytes = 256ull << 20;  // pages waiting to be written; more are not taken
  bool write = true;                    // false: read only (--no-save)
  bool always_restore = false;          // also where recomputing is predicted to be faster
};

/// Everything that decides whether pages made there may be used here.
struct DiskCacheKey {
  std::string model;         // name, for people
  std::string fingerprint;   // of weights, tokenizer, template
  std::string layout;        // KvStore::layout_id()
  std::string program;       // hash of the op list: rope, scales, windows
  std::string executor;      // numbers differ between executors
  std::string hash() const;  // 32 hex digits
};

/// Hash of a chain of blocks: SHA-256 cut to 32 hex digits. `parent` is empty for the first block.
std::string kv_chain_hash(const std::string& key_hash, const std::string& parent,
                          std::span<const int32_t> tokens);

class DiskCache {
 public:
  /// Opens (creates) the folder of `key` and lists it. Throws apud::Error (kIo) when it cannot.
  DiskCache(const DiskCacheKey& key, const DiskCacheOptions& options, size_t page_bytes);
  ~DiskCache();  // drops what is still queued; finishes the page being written
  DiskCache(const DiskCache&) = delete;
  DiskCache& operator=(const DiskCache&) = delete;

  /// How many tokens of `tokens` the disk holds, from the start. Reads heads of files only.
  int match_length(std::span<const int32_t> tokens);

  /// Reads the page for tokens[block*64 ...] into `page` (page_bytes), verified as a whole. Returns
  /// the leading tokens of the block that are those asked for; 0: not there or not sound, and what
  /// is in `page` then is of no use. Several threads may read pages of the same tokens at once.
  int read(std::span<const int32_t> tokens, int block, PageSink& page);

  /// Whether a page whose tokens begin with those of block `block` of `tokens` is there or queued.
  bool has(std::span<const int32_t> tokens, int block);
  /// Queues a page for writing. False when it was not taken: queue full, disk full, no writing.
  bool write(std::span<const int32_t> tokens, int block, std::vector<std::byte> bytes,
             std::span<const std::string> tags);
  /// Why nothing will be written (no room on the disk, an earlier failure); empty: it will be.
  std::string why_not_writing() const;
  /// Room in the queue for one more page.
  bool can_write() const;
  /// Waits until the queue is written or `budget` is spent. With `drop_rest` what is left then is
  /// dropped. Returns pages left or dropped.
  int flush(std::chrono::milliseconds budget, bool drop_rest);

  struct Counters {
    int64_t pages_read = 0, pages_written = 0, pages_rejected = 0, pages_dropped = 0;
    double read_seconds = 0;  // of pages_read
    std::string
        write_error;  // last failure of writing ("No space left on device"), for the receipt
  };
  Counters counters() const;

  /// Measured speeds kept from process to process, so that the first request can choose.
  struct Rates {
    double prefill_tokens_per_second = 0;  // 0: not known
    double restore_tokens_per_second = 0;
  };
  Rates rates() const;
  void set_rates(const Rates& rates);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// --- `apud cache list|show|clear|limit`, `doc rm`, `session rm`
// -----------------------------------

/// cache_dir()/kv
Path default_kv_cache_dir();

struct CacheFolderInfo {
  std::string key;  // folder name
  std::string model, layout, executor;
  int64_t pages = 0;
  uint64_t bytes = 0;
  int64_t last_used = 0;  // seconds since the epoch
};
std::vector<CacheFolderInfo> list_kv_cache(const Path& folder);

struct CachePageInfo {
  std::string file;
  int tokens = 0;
  uint64_t bytes = 0;
  int64_t last_used = 0;
  std::vector<std::string> tags;
};
/// Pages of one key, most recently used first. Throws kNoInput for an unknown key.
std::vector<CachePageInfo> show_kv_cache(const Path& folder, const std::string& key);
/// Removes all pages (of one key, where given). Returns bytes freed.
uint64_t clear_kv_cache(const Path& folder, const std::optional<std::string>& key = std::nullopt);
/// Removes least recently used pages until at most `bytes` remain. Returns bytes freed.
uint64_t limit_kv_cache(const Path& folder, uint64_t bytes);
/// Removes every page made from something tagged with one of `tags` ("doc:17", "session:ab12"), in
/// one pass over the folder. Returns pages.
int remove_kv_pages_tagged(const Path& folder, std::span<const std::string> tags);
inline int remove_kv_pages_tagged(const Path& folder, const std::string& tag) {
  return remove_kv_pages_tagged(folder, std::span(&tag, 1));
}

}  // namespace apud
