#include "engine/kv_pages.h"

#include <algorithm>
#include <functional>

#include "base/check.h"

namespace apud {

PagePool::PagePool(int pages)
    : refs_(static_cast<size_t>(pages), 0), free_(static_cast<size_t>(pages)) {
  APUD_CHECK(pages > 0, "a pool needs pages");
  // Ascending order is a valid min-heap.
  for (int i = 0; i < pages; ++i) free_[static_cast<size_t>(i)] = i;
}

int PagePool::alloc() {
  if (free_.empty()) return kNone;
  std::pop_heap(free_.begin(), free_.end(), std::greater<>());
  int page = free_.back();
  free_.pop_back();
  refs_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::retain(int page) {
  APUD_CHECK(page >= 0 && page < page_count() && refs(page) > 0, "retaining a page that is free");
  ++refs_[static_cast<size_t>(page)];
}

bool PagePool::release(int page) {
  APUD_CHECK(page >= 0 && page < page_count() && refs(page) > 0, "page released twice");
  if (--refs_[static_cast<size_t>(page)] > 0) return false;
  free_.push_back(page);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
  return true;
}

}  // namespace apud
