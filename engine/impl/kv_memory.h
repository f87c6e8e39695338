// The engine's KV memory: the pages of one KvStore shared by running sequences, the prefix tree and
// pages on their way to disk; behind it the host tier (executors with memory of their own) and the
// disk tier.
//
// Threads: the engine's thread.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/disk_cache.h"
#include "engine/impl/host_tier.h"
#include "engine/kv_pages.h"
#include "engine/prefix_tree.h"
#include "engine/receipt.h"
#include "kernels/backend.h"
#include "models/model.h"

namespace apud {

/// A sequence's pages, one reference each, for its first `computed` tokens and room for more.
struct KvSequence {
  std::vector<int32_t> pages;
  int computed = 0;
  bool owns_tail = true;  // its last page was allocated for it, so it may append there
};

class KvMemory {
 public:
  struct Options {
    int pages = 0;
    KvType type = KvType::kF16;
    bool prefix_cache = true;
    uint64_t host_bytes = 0;  // 0, or an executor without memory of its own: no host tier
    DiskCacheOptions disk;
  };
  KvMemory(const Model& model, Executor& executor, const Options& options);
  ~KvMemory();
  KvMemory(const KvMemory&) = delete;
  KvMemory& operator=(const KvMemory&) = delete;

  KvStore& store() { return *store_; }
  PrefixTree& tree() { return *tree_; }
  DiskCache* disk() { return disk_.get(); }
  bool prefix_cache() const { return prefix_cache_; }
  int page_count() const { return pool_.page_count(); }
  uint64_t bytes() const;

  /// Gives an empty sequence the longest prefix of tokens[0, limit) that the tree holds.
  void match(KvSequence& sequence, std::span<const int32_t> tokens, int limit);
  struct Restored {
    int host = 0;  // tokens added to sequence.computed from host memory,
    int disk = 0;  //   and from files
    double seconds = 0;
    int ignored = 0;                // files that did not verify
    std::vector<TierChoice> tiers;  // that held more, used or not
  };
  /// Lengthens the prefix from the tiers below, each where that is predicted to be faster than
  /// recomputing. Pages may still be on their way to the device when it returns.
  Restored restore(KvSequence& sequence, std::span<const int32_t> tokens, int limit);
  /// Tokens from the start that the tiers hold together, `device` of them in the tree.
  int reachable(std::span<const int32_t> tokens, int device);
  /// Forgets what this process holds for reuse; the disk stays.
  void clear();
  /// Pages for tokens up to `upto`, the partial last page copied when it belongs to another. Throws
  /// kBusy when every page is in use.
  void grow(KvSequence& sequence, int upto);
  /// Pages that grow(upto) would take.
  int pages_to_grow(const KvSequence& sequence, int upto) const;
  /// Gives an empty sequence all that another has; who writes first copies the partial last page,
  /// unless that is `from`.
  void fork(const KvSequence& from, KvSequence& to);
  /// Makes what the sequence has computed known to others. tokens: at least `computed`.
  void publish(const KvSequence& sequence, std::span<const int32_t> tokens);
  void release(KvSequence& sequence);

  /// Pages that can be had without touching running sequences; pages waiting for the disk are given
  /// up first when `wanted` needs them.
  int available(int wanted);

  /// Queues the computed pages of a sequence for the disk; `only_full` leaves its last, partial
  /// one.
  void save(const KvSequence& sequence, std::span<const int32_t> tokens,
            std::span<const std::string> tags, bool only_full = false);
  /// Hands over at most one page. False when nothing is waiting or the writer is busy.
  bool save_step();
  /// Hands over what is waiting until the deadline.
  void save_until(std::chrono::steady_clock::time_point deadline);
  bool saving() const { return !saves_.empty(); }
  /// Why pages were not written since the last call, or empty.
  std::string take_save_problem();

  /// Measured speed of computing prompts, for the choice in restore().
  void measured_prefill(int tokens, double seconds);

 private:
  struct Save {
    std::vector<int32_t> tokens;
    std::vector<int32_t> pages;  // retained
    int block = 0;
    std::vector<std::string> tags;
  };
  int alloc();
  void drop_save();
  std::vector<std::byte> export_page(int page);
  std::vector<PageTransfer> transfers(int page, std::span<std::byte> host) const;
  void keep_in_host(std::span<const int32_t> tokens, int page);
  /// Waits for transfers and lets go of the host pages they held.
  void settle();
  void place(KvSequence& sequence, int block, int page, int valid_tokens);
  TierChoice choose(const char* tier, const KvSequence& sequence, int found, double rate) const;
  void restore_host(KvSequence& sequence, std::span<const int32_t> tokens, Restored& result);
  void restore_disk(KvSequence& sequence, std::span<const int32_t> tokens, Restored& result);

  Executor& executor_;
  std::unique_ptr<KvStore> store_;
  PagePool pool_;
  std::unique_ptr<PrefixTree> tree_;
  bool prefix_cache_;
  bool always_restore_;
  int groups_;
  size_t page_bytes_ = 0;  // all groups
  std::unique_ptr<HostTier> host_;
  int host_moving_ = 0;     // tokens of the import that settle() will time
  double host_rate_ = 0;    // measured tokens a second from host memory; 0: not yet
  bool in_flight_ = false;  // transfers that settle() must wait for
  std::unique_ptr<DiskCache> disk_;
  std::deque<Save> saves_;
  std::string save_problem_;
  DiskCache::Rates rates_;
};

}  // namespace apud
