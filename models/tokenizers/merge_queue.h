// The order in which a BPE encoder merges, for byte-level and SentencePiece vocabularies.
//
// Threads: one queue belongs to one call.
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <unordered_map>
#include <utility>
#include <vector>

namespace apud {

/// Queue of (rank, position), smallest first. Few ranks occur at a time and positions arrive nearly
/// in order, so each rank keeps a sorted run plus a heap for stragglers: a run of one letter costs
/// constant time per symbol.
class MergeQueue {
 public:
  void push(uint32_t rank, uint32_t position) {
    auto [at, fresh] = index_.try_emplace(rank, buckets_.size());
    if (fresh) buckets_.emplace_back();
    Bucket& bucket = buckets_[at->second];
    if (!bucket.listed) {
      bucket.listed = true;
      ranks_.push({rank, static_cast<uint32_t>(at->second)});
    }
    if (bucket.cursor == bucket.run.size()) {
      bucket.run.clear();
      bucket.cursor = 0;
    }
    if (bucket.run.empty() || position >= bucket.run.back()) {
      bucket.run.push_back(position);
    } else {
      bucket.late.push(position);
    }
  }

  bool pop(uint32_t& rank, uint32_t& position) {
    while (!ranks_.empty()) {
      auto [top, slot] = ranks_.top();
      Bucket& bucket = buckets_[slot];
      bool run = bucket.cursor < bucket.run.size();
      if (!run && bucket.late.empty()) {
        bucket.listed = false;
        ranks_.pop();
        continue;
      }
      rank = top;
      if (run && (bucket.late.empty() || bucket.run[bucket.cursor] <= bucket.late.top())) {
        position = bucket.run[bucket.cursor++];
      } else {
        position = bucket.late.top();
        bucket.late.pop();
      }
      return true;
    }
    return false;
  }

 private:
  template <class T>
  using MinHeap = std::priority_queue<T, std::vector<T>, std::greater<T>>;
  struct Bucket {
    std::vector<uint32_t> run;
    size_t cursor = 0;
    MinHeap<uint32_t> late;
    bool listed = false;
  };
  std::unordered_map<uint32_t, size_t> index_;
  std::vector<Bucket> buckets_;
  MinHeap<std::pair<uint32_t, uint32_t>> ranks_;
};

}  // namespace apud
