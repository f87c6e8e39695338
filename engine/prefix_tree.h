// Radix tree over token ids: which prefixes have their KV in pages, and which pages those are.
//
// A node is a run of tokens [begin, end) of a path and holds, for every block that these tokens
// touch, a page whose first tokens are right up to the node's end. Where a node begins inside a
// block, its first page also holds the tokens before it: the page of the deepest node of a path is
// the one to use. So prefixes are shared token by token: no token is computed again because a page
// was not full (whoever continues inside a page copies the valid part first).
//
// Eviction takes the last page of the leaf with the lowest credit. credit = clock + cost of
// recomputing the page; the clock follows the credits that were evicted (GreedyDual, Young 1994;
// Cao and Irani 1997): with equal costs this is least recently used, ties go to the older use.
//
// Ownership: the tree holds one reference per node and page. Threads: one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "engine/kv_pages.h"

namespace apud {

class PrefixTree {
 public:
  /// cost_per_position: cost of recomputing a page = 1 + cost_per_position * (its first position).
  explicit PrefixTree(PagePool& pool, double cost_per_position = 0);
  ~PrefixTree();
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  struct Match {
    int tokens = 0;              // length of the longest known prefix
    std::vector<int32_t> pages;  // of its blocks, each retained for the caller; the last one may be
                                 // partly filled (tokens % 64) and must be copied before appending
  };
  /// Longest prefix of `tokens` that the tree holds; counts as a use.
  Match match(std::span<const int32_t> tokens);
  /// Length of the longest known prefix; no use, no references.
  int match_length(std::span<const int32_t> tokens) const;

  /// Makes `tokens`, whose KV lies in `pages` (one per block), known. Only pages beyond what the
  /// tree held are taken (retained); the caller keeps its own references. Counts as a use.
  void insert(std::span<const int32_t> tokens, std::span<const int32_t> pages);

  /// Keeps the longest known prefix of `tokens` from eviction until unpin() with the same tokens
  /// cut to the returned length. Pins nest.
  int pin(std::span<const int32_t> tokens);
  void unpin(std::span<const int32_t> tokens);

  /// Drops the last page of the leaf with the lowest credit among those that nobody uses. False
  /// when nothing can be dropped. One call may free no page (a page that two nodes share); call
  /// again.
  bool evict_one();
  /// Called with the path of tokens whose last block lies in `page`, just before evict_one() frees
  /// it: the last moment to keep it elsewhere.
  using OnEvict = std::function<void(std::span<const int32_t> tokens, int page)>;
  void set_on_evict(OnEvict callback) { on_evict_ = std::move(callback); }
  /// Pages that repeated evict_one() would free now.
  int evictable_pages() const;
  /// Drops everything that nobody pinned.
  void clear();

  int64_t cached_tokens() const { return cached_tokens_; }
  int node_count() const { return node_count_; }
  /// CHECKs every invariant: links, page counts, references. For tests; linear in the tree.
  void check() const;

 private:
  struct Node;
  struct ByCredit {
    bool operator()(const Node* a, const Node* b) const;
  };
  struct Walk {
    Node* node;  // deepest node touched
    int offset;  // tokens of it that match
  };
  Walk walk(std::span<const int32_t> tokens) const;
  void touch(Node* node);
  void split(Node* node, int at);
  void unify(Node* node);
  void remove_leaf(Node* node);
  bool used_by_others(int page) const;
  void take(int page);
  void drop(int page);
  void update_leaf(Node* node);
  void tell_evicted(const Node* node) const;

  PagePool& pool_;
  double cost_per_position_;
  std::unique_ptr<Node> root_;
  std::set<Node*, ByCredit> leaves_;
  std::vector<int32_t> tree_refs_;  // by page
  OnEvict on_evict_;
  uint64_t tick_ = 0;
  double clock_ = 0;
  int64_t cached_tokens_ = 0;
  int node_count_ = 0;
};

}  // namespace apud
