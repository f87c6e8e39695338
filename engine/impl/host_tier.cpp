#include "engine/impl/host_tier.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"

namespace apud {

namespace {
constexpr size_t kChunkBytes = size_t{64} << 20;
}

HostTier::HostTier(KvStore& store, size_t page_bytes, uint64_t limit_bytes,
                   double cost_per_position)
    : chain_("host"),
      store_(store),
      chunk_pages_(static_cast<int>(std::max<size_t>(1, kChunkBytes / page_bytes))),
      page_bytes_(page_bytes),
      cost_per_position_(cost_per_position) {
  auto pages = static_cast<size_t>(limit_bytes / page_bytes);
  slots_.resize(pages);
  for (size_t i = pages; i-- > 0;) free_.push_back(static_cast<int>(i));
}

bool HostTier::has_memory(int slot) {
  while (static_cast<size_t>(slot / chunk_pages_) >= memory_.size()) {
    const int first = static_cast<int>(memory_.size()) * chunk_pages_;
    const int pages = std::min(chunk_pages_, page_count() - first);
    try {
      memory_.push_back(store_.host_memory(static_cast<size_t>(pages) * page_bytes_));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kBusy) throw;
      return false;  // a cache makes do with what there is
    }
  }
  return true;
}

std::span<std::byte> HostTier::bytes(int slot) {
  return memory_[static_cast<size_t>(slot / chunk_pages_)]->bytes().subspan(
      static_cast<size_t>(slot % chunk_pages_) * page_bytes_, page_bytes_);
}

void HostTier::use(int slot) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  order_.erase({{s.credit, s.tick}, slot});
  s.tick = ++tick_;
  s.credit = clock_ + 1 + cost_per_position_ * s.block * kKvPageTokens;
  order_.insert({{s.credit, s.tick}, slot});
}

void HostTier::drop(int slot) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  order_.erase({{s.credit, s.tick}, slot});
  auto found = by_parent_.find(s.parent);
  std::erase(found->second, slot);
  if (found->second.empty()) by_parent_.erase(found);
  s = Slot();
  free_.push_back(slot);
}

HostTier::Page HostTier::find(std::span<const int32_t> tokens, int block) {
  Page best;
  auto found = by_parent_.find(chain_.before(tokens, block));
  if (found == by_parent_.end()) return best;
  std::span<const int32_t> wanted = block_tokens(tokens, block);
  for (int slot : found->second) {
    const std::vector<int32_t>& held = slots_[static_cast<size_t>(slot)].tokens;
    auto differ = std::mismatch(held.begin(), held.end(), wanted.begin(), wanted.end());
    int same = static_cast<int>(differ.first - held.begin());
    if (same > best.valid_tokens) best = {slot, same};
  }
  if (best.slot >= 0) use(best.slot);
  return best;
}

int HostTier::match_length(std::span<const int32_t> tokens, int from) {
  int end = from;
  for (int block = from / kKvPageTokens; end < static_cast<int>(tokens.size()); ++block) {
    Page page = find(tokens, block);
    int reached = block * kKvPageTokens + page.valid_tokens;
    if (reached <= end) break;
    end = reached;
    if (page.valid_tokens < kKvPageTokens) break;
  }
  return end;
}

int HostTier::put(std::span<const int32_t> tokens, int block) {
  std::string parent = chain_.before(tokens, block);
  std::span<const int32_t> mine = block_tokens(tokens, block);
  if (auto found = by_parent_.find(parent); found != by_parent_.end()) {
    for (int slot : std::vector<int>(found->second)) {
      const Slot& s = slots_[static_cast<size_t>(slot)];
      size_t shorter = std::min(s.tokens.size(), mine.size());
      if (!std::equal(s.tokens.begin(), s.tokens.begin() + static_cast<ptrdiff_t>(shorter),
                      mine.begin()))
        continue;
      if (s.tokens.size() >= mine.size()) {
        use(slot);
        return -1;
      }
      if (s.holds == 0) drop(slot);  // this one continues it
    }
  }
  if (free_.empty()) {
    auto victim = std::find_if(order_.begin(), order_.end(), [&](const auto& entry) {
      return slots_[static_cast<size_t>(entry.second)].holds == 0;
    });
    if (victim == order_.end()) return -1;
    clock_ = std::max(clock_, victim->first.first);
    drop(victim->second);
  }
  int slot = free_.back();
  if (!has_memory(slot)) return -1;
  free_.pop_back();
  Slot& s = slots_[static_cast<size_t>(slot)];
  s.parent = std::move(parent);
  s.tokens.assign(mine.begin(), mine.end());
  s.block = block;
  by_parent_[s.parent].push_back(slot);
  use(slot);
  return slot;
}

void HostTier::release_held() {
  for (Slot& s : slots_) s.holds = 0;
}

void HostTier::clear() {
  for (int slot = 0; slot < page_count(); ++slot) {
    if (!slots_[static_cast<size_t>(slot)].parent.empty()) drop(slot);
  }
}

}  // namespace apud
