// KV page bookkeeping: which pages of a KvStore are free and who refers to the others.
//
// All KV groups of a model run in lockstep: page p exists in every group and holds the same 64
// tokens there, so one number names a block of a sequence. (Sliding-window groups keep their full
// KV; their memory is not yet given back behind the window.)
//
// Ownership: a page belongs to everybody who holds a reference; the last release frees it. Who
// allocated a page may append to it; everybody else copies it first (copy-on-write).
// Threads: one thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/program.h"

namespace apud {

class PagePool {
 public:
  explicit PagePool(int pages);

  int page_count() const { return static_cast<int>(refs_.size()); }
  int free_count() const { return static_cast<int>(free_.size()); }
  /// A page with one reference, or kNone when all are taken. Lowest free number first.
  int alloc();
  void retain(int page);
  /// Returns true when that was the last reference and the page is free now.
  bool release(int page);
  int refs(int page) const { return refs_[static_cast<size_t>(page)]; }

 private:
  std::vector<int32_t> refs_;
  std::vector<int32_t> free_;  // min-heap
};

/// Blocks that `tokens` tokens fill.
inline int kv_blocks(int tokens) { return (tokens + kKvPageTokens - 1) / kKvPageTokens; }

}  // namespace apud
