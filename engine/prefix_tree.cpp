#include "engine/prefix_tree.h"

#include <algorithm>
#include <unordered_map>

#include "base/check.h"

namespace apud {

struct PrefixTree::Node {
  Node* parent = nullptr;
  int begin = 0;                                      // position of tokens[0] in its path
  std::vector<int32_t> tokens;                        // empty only in the root
  std::vector<int32_t> pages;                         // of blocks begin/64 .. (end-1)/64
  std::map<int32_t, std::unique_ptr<Node>> children;  // by their first token
  int pins = 0;                                       // pins whose prefix covers the whole node
  uint64_t tick = 0;                                  // last use
  double clock = 0;                                   // clock_ at the last use
  double credit = 0;
  bool listed = false;  // in leaves_

  int end() const { return begin + static_cast<int>(tokens.size()); }
  int first_block() const { return begin / kKvPageTokens; }
};

bool PrefixTree::ByCredit::operator()(const Node* a, const Node* b) const {
  if (a->credit != b->credit) return a->credit < b->credit;
  if (a->tick != b->tick) return a->tick < b->tick;
  return a < b;
}

PrefixTree::PrefixTree(PagePool& pool, double cost_per_position)
    : pool_(pool),
      cost_per_position_(cost_per_position),
      root_(std::make_unique<Node>()),
      tree_refs_(static_cast<size_t>(pool.page_count()), 0) {}

PrefixTree::~PrefixTree() {
  for (size_t page = 0; page < tree_refs_.size(); ++page) {
    for (int i = 0; i < tree_refs_[page]; ++i) pool_.release(static_cast<int>(page));
  }
}

void PrefixTree::take(int page) {
  pool_.retain(page);
  ++tree_refs_[static_cast<size_t>(page)];
}

void PrefixTree::drop(int page) {
  APUD_CHECK(tree_refs_[static_cast<size_t>(page)] > 0, "tree does not hold this page");
  --tree_refs_[static_cast<size_t>(page)];
  pool_.release(page);
}

bool PrefixTree::used_by_others(int page) const {
  return pool_.refs(page) > tree_refs_[static_cast<size_t>(page)];
}

PrefixTree::Walk PrefixTree::walk(std::span<const int32_t> tokens) const {
  Node* node = root_.get();
  size_t pos = 0;
  for (;;) {
    if (pos == tokens.size()) return {node, static_cast<int>(node->tokens.size())};
    auto child = node->children.find(tokens[pos]);
    if (child == node->children.end()) return {node, static_cast<int>(node->tokens.size())};
    node = child->second.get();
    size_t length = std::min(node->tokens.size(), tokens.size() - pos);
    auto differ =
        std::mismatch(node->tokens.begin(), node->tokens.begin() + static_cast<ptrdiff_t>(length),
                      tokens.begin() + static_cast<ptrdiff_t>(pos));
    auto same = static_cast<size_t>(differ.first - node->tokens.begin());
    pos += same;
    if (same < node->tokens.size()) return {node, static_cast<int>(same)};
  }
}

int PrefixTree::match_length(std::span<const int32_t> tokens) const {
  Walk at = walk(tokens);
  return at.node->begin + at.offset;
}

/// Brings leaves_ up to date after a change of the node's children, length or use.
void PrefixTree::update_leaf(Node* node) {
  if (node->listed) {
    leaves_.erase(node);
    node->listed = false;
  }
  if (node == root_.get() || !node->children.empty()) return;
  int last_block = (node->end() - 1) / kKvPageTokens;
  node->credit = node->clock + 1 + cost_per_position_ * last_block * kKvPageTokens;
  leaves_.insert(node);
  node->listed = true;
}

void PrefixTree::touch(Node* node) {
  ++tick_;
  for (; node != root_.get(); node = node->parent) {
    // A listed node must leave the set before its key changes.
    if (node->listed) {
      leaves_.erase(node);
      node->listed = false;
    }
    node->tick = tick_;
    node->clock = clock_;
    update_leaf(node);
  }
}

/// Cuts `node` so that it ends after `at` of its tokens; the rest becomes its only child.
void PrefixTree::split(Node* node, int at) {
  APUD_CHECK(at > 0 && at < static_cast<int>(node->tokens.size()), "split inside a node");
  if (node->listed) {
    leaves_.erase(node);
    node->listed = false;
  }
  auto lower = std::make_unique<Node>();
  lower->parent = node;
  lower->begin = node->begin + at;
  lower->tokens.assign(node->tokens.begin() + at, node->tokens.end());
  lower->pins = node->pins;
  lower->tick = node->tick;
  lower->clock = node->clock;
  auto first = lower->first_block() - node->first_block();
  lower->pages.assign(node->pages.begin() + first, node->pages.end());
  lower->children = std::move(node->children);
  node->children.clear();
  for (auto& [token, child] : lower->children) child->parent = lower.get();

  node->tokens.resize(static_cast<size_t>(at));
  int last = (node->end() - 1) / kKvPageTokens - node->first_block();
  node->pages.resize(static_cast<size_t>(last) + 1);
  // A block that both halves touch is now referred to twice.
  if (last == first) take(lower->pages.front());
  Node* raw = lower.get();
  node->children.emplace(raw->tokens.front(), std::move(lower));
  ++node_count_;
  update_leaf(raw);
}

/// Lets the nodes above `node` use its page where they end inside a block of it: it holds their
/// tokens too, and so a path in use keeps no page beside those that its user holds.
void PrefixTree::unify(Node* node) {
  for (; node->parent != root_.get(); node = node->parent) {
    if (node->begin % kKvPageTokens == 0) continue;
    int32_t& last = node->parent->pages.back();
    int32_t page = node->pages.front();
    if (last == page) continue;
    take(page);
    drop(last);
    last = page;
  }
}

PrefixTree::Match PrefixTree::match(std::span<const int32_t> tokens) {
  Walk at = walk(tokens);
  Match match;
  if (at.node == root_.get()) return match;
  // Only what matched counts as used.
  if (at.offset < static_cast<int>(at.node->tokens.size())) split(at.node, at.offset);
  touch(at.node);
  unify(at.node);
  match.tokens = at.node->end();
  match.pages.assign(static_cast<size_t>(kv_blocks(match.tokens)), kNone);
  int upto = static_cast<int>(match.pages.size());
  for (Node* node = at.node; node != root_.get(); node = node->parent) {
    for (int block = node->first_block(); block < upto; ++block) {
      int page = node->pages[static_cast<size_t>(block - node->first_block())];
      match.pages[static_cast<size_t>(block)] = page;
      pool_.retain(page);
    }
    upto = std::min(upto, node->first_block());
  }
  return match;
}

void PrefixTree::insert(std::span<const int32_t> tokens, std::span<const int32_t> pages) {
  APUD_CHECK(static_cast<int>(pages.size()) >= kv_blocks(static_cast<int>(tokens.size())),
             "a page for every block");
  Walk at = walk(tokens);
  Node* node = at.node;
  if (node != root_.get() && at.offset < static_cast<int>(node->tokens.size())) {
    split(node, at.offset);
  }
  int known = node->end();
  if (known == static_cast<int>(tokens.size())) {
    touch(node);
    return;
  }
  auto rest = tokens.subspan(static_cast<size_t>(known));
  int first = known / kKvPageTokens;
  int blocks = kv_blocks(static_cast<int>(tokens.size()));
  if (node != root_.get() && node->children.empty() && node->pins == 0) {
    // A leaf grows in place.
    if (node->listed) {
      leaves_.erase(node);
      node->listed = false;
    }
    node->tokens.insert(node->tokens.end(), rest.begin(), rest.end());
    if (known % kKvPageTokens != 0) {
      // The caller's page holds the node's last tokens too.
      take(pages[static_cast<size_t>(first)]);
      drop(node->pages.back());
      node->pages.back() = pages[static_cast<size_t>(first)];
    }
    for (int block = kv_blocks(known); block < blocks; ++block) {
      take(pages[static_cast<size_t>(block)]);
      node->pages.push_back(pages[static_cast<size_t>(block)]);
    }
    cached_tokens_ += static_cast<int64_t>(rest.size());
    touch(node);
    unify(node);
    return;
  }
  auto leaf = std::make_unique<Node>();
  leaf->parent = node;
  leaf->begin = known;
  leaf->tokens.assign(rest.begin(), rest.end());
  for (int block = first; block < blocks; ++block) {
    take(pages[static_cast<size_t>(block)]);
    leaf->pages.push_back(pages[static_cast<size_t>(block)]);
  }
  cached_tokens_ += static_cast<int64_t>(rest.size());
  ++node_count_;
  Node* raw = leaf.get();
  node->children.emplace(rest.front(), std::move(leaf));
  update_leaf(node);
  touch(raw);
  unify(raw);
}

int PrefixTree::pin(std::span<const int32_t> tokens) {
  Walk at = walk(tokens);
  Node* node = at.node;
  if (node == root_.get()) return 0;
  if (at.offset < static_cast<int>(node->tokens.size())) split(node, at.offset);
  int length = node->end();
  for (; node != root_.get(); node = node->parent) ++node->pins;
  return length;
}

void PrefixTree::unpin(std::span<const int32_t> tokens) {
  if (tokens.empty()) return;
  Walk at = walk(tokens);
  APUD_CHECK(at.node->end() == static_cast<int>(tokens.size()) &&
                 at.offset == static_cast<int>(at.node->tokens.size()),
             "unpin of a prefix that was not pinned");
  for (Node* node = at.node; node != root_.get(); node = node->parent) {
    APUD_CHECK(node->pins > 0, "unpin of a prefix that was not pinned");
    --node->pins;
  }
}

void PrefixTree::remove_leaf(Node* node) {
  if (node->listed) leaves_.erase(node);
  for (int32_t page : node->pages) drop(page);
  cached_tokens_ -= static_cast<int64_t>(node->tokens.size());
  --node_count_;
  Node* parent = node->parent;
  parent->children.erase(node->tokens.front());
  update_leaf(parent);
}

void PrefixTree::tell_evicted(const Node* node) const {
  int page = node->pages.back();
  if (!on_evict_ || tree_refs_[static_cast<size_t>(page)] > 1) return;
  std::vector<int32_t> path(static_cast<size_t>(node->end()));
  for (const Node* n = node; n != root_.get(); n = n->parent)
    std::copy(n->tokens.begin(), n->tokens.end(), path.begin() + n->begin);
  on_evict_(path, page);
}

bool PrefixTree::evict_one() {
  for (Node* node : leaves_) {
    if (node->pins > 0 || used_by_others(node->pages.back())) continue;
    clock_ = std::max(clock_, node->credit);
    tell_evicted(node);
    int end = (node->end() - 1) / kKvPageTokens * kKvPageTokens;
    if (end <= node->begin) {
      remove_leaf(node);
      return true;
    }
    leaves_.erase(node);
    node->listed = false;
    drop(node->pages.back());
    node->pages.pop_back();
    cached_tokens_ -= node->end() - end;
    node->tokens.resize(static_cast<size_t>(end - node->begin));
    update_leaf(node);
    return true;
  }
  return false;
}

int PrefixTree::evictable_pages() const {
  std::unordered_map<int32_t, int> dropped;  // page -> references given up
  int freed = 0;
  // Explicit stack: a chain of nodes may be as deep as a conversation has turns.
  struct Frame {
    const Node* node;
    std::map<int32_t, std::unique_ptr<Node>>::const_iterator next;
    bool removable = true;
  };
  std::vector<Frame> stack;
  stack.push_back({root_.get(), root_->children.begin()});
  while (!stack.empty()) {
    Frame& frame = stack.back();
    if (frame.next != frame.node->children.end()) {
      const Node* child = (frame.next++)->second.get();
      stack.push_back({child, child->children.begin()});
      continue;
    }
    const Node* node = frame.node;
    bool removable = frame.removable && node->pins == 0 && node != root_.get();
    if (removable) {
      for (auto page = node->pages.rbegin(); page != node->pages.rend(); ++page) {
        if (used_by_others(*page)) {
          removable = false;
          break;
        }
        if (++dropped[*page] == tree_refs_[static_cast<size_t>(*page)]) ++freed;
      }
    }
    stack.pop_back();
    if (!stack.empty() && !removable) stack.back().removable = false;
  }
  return freed;
}

void PrefixTree::clear() {
  while (evict_one()) {
  }
}

void PrefixTree::check() const {
  std::vector<int32_t> refs(tree_refs_.size(), 0);
  int64_t tokens = 0;
  int nodes = 0;
  size_t leaves = 0;
  std::vector<const Node*> stack{root_.get()};
  while (!stack.empty()) {
    const Node* node = stack.back();
    stack.pop_back();
    if (node != root_.get()) {
      ++nodes;
      tokens += static_cast<int64_t>(node->tokens.size());
      APUD_CHECK(!node->tokens.empty(), "node without tokens");
      APUD_CHECK(node->begin == node->parent->end(), "node does not continue its parent");
      APUD_CHECK(
          static_cast<int>(node->pages.size()) == kv_blocks(node->end()) - node->first_block(),
          "a page for every block that a node touches");
      APUD_CHECK(node->parent == root_.get() || node->parent->pins >= node->pins,
                 "a pin covers the whole path");
      for (int32_t page : node->pages) ++refs[static_cast<size_t>(page)];
      APUD_CHECK(node->listed == node->children.empty(), "leaves are listed");
      if (node->listed) {
        ++leaves;
        APUD_CHECK(leaves_.count(const_cast<Node*>(node)) == 1, "leaf found by its key");
      }
    }
    for (const auto& [token, child] : node->children) {
      APUD_CHECK(child->parent == node && child->tokens.front() == token, "child link");
      stack.push_back(child.get());
    }
  }
  APUD_CHECK(refs == tree_refs_, "references of the tree");
  APUD_CHECK(tokens == cached_tokens_ && nodes == node_count_, "counts of the tree");
  APUD_CHECK(leaves == leaves_.size(), "no other node is listed");
  for (size_t page = 0; page < refs.size(); ++page) {
    APUD_CHECK(pool_.refs(static_cast<int>(page)) >= refs[page],
               "pool holds the tree's references");
  }
}

}  // namespace apud
