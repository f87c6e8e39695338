// The host tier of the prefix cache: pages that the device gave up, in host memory that moves to it
// at full speed (pinned). Found by the chain of their tokens, as files are. Evicts like the tree:
// the lowest credit first (last use + cost of recomputing).
//
// A page on its way to or from the device must not be touched: hold() keeps it until
// release_held(), which the owner calls once KvStore::finish_transfers() returned.
//
// Ownership: owns its memory. Threads: the engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/impl/token_chain.h"
#include "kernels/backend.h"

namespace apud {

class HostTier {
 public:
  /// At most limit_bytes / page_bytes pages; their memory is taken when they are first used, some
  /// at a time, since pinning it takes as long as moving it.
  HostTier(KvStore& store, size_t page_bytes, uint64_t limit_bytes, double cost_per_position);

  int page_count() const { return static_cast<int>(slots_.size()); }
  /// Tokens of `tokens`, from `from` on, that the tier holds without a gap: 0 or the end position.
  int match_length(std::span<const int32_t> tokens, int from);

  struct Page {
    int slot = -1;         // -1: not there
    int valid_tokens = 0;  // leading tokens of the block that are those asked for
  };
  /// The page of block `block` that shares most tokens; counts as a use.
  Page find(std::span<const int32_t> tokens, int block);
  /// A page for the tokens of block `block` (those of `tokens` that lie in it), to be filled; -1
  /// where one with these tokens, or more of them, is there already, every page is held or there is
  /// no memory for it.
  int put(std::span<const int32_t> tokens, int block);
  std::span<std::byte> bytes(int slot);
  void hold(int slot) { ++slots_[static_cast<size_t>(slot)].holds; }
  void release_held();
  void clear();

 private:
  struct Slot {
    std::string parent;  // empty: free
    std::vector<int32_t> tokens;
    int block = 0;
    int holds = 0;
    double credit = 0;
    uint64_t tick = 0;
  };
  void use(int slot);
  void drop(int slot);
  bool has_memory(int slot);

  TokenChain chain_;
  KvStore& store_;
  std::vector<std::unique_ptr<HostMemory>> memory_;  // of chunk_pages_ slots each
  int chunk_pages_ = 1;
  size_t page_bytes_;
  double cost_per_position_;
  std::vector<Slot> slots_;
  std::vector<int> free_;
  std::unordered_map<std::string, std::vector<int>> by_parent_;
  std::set<std::pair<std::pair<double, uint64_t>, int>> order_;  // (credit, tick), slot
  double clock_ = 0;
  uint64_t tick_ = 0;
};

}  // namespace apud
