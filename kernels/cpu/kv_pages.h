// KV pages of the CPU executor: [page][layer][kv_head][KvHeadLayout].
//
// Threads: as Executor.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/memory.h"

namespace apud::cpu {

class KvPages : public KvStore {
 public:
  KvPages(const Program& program, std::span<const int> pages_per_group, KvType type);
  int page_count(int group) const override { return groups_[static_cast<size_t>(group)].pages; }
  size_t page_bytes(int group) const override {
    return groups_[static_cast<size_t>(group)].page_bytes;
  }
  std::string layout_id() const override;
  void copy_page(int group, int from, int to, int tokens) override;
  void export_page(int group, int page, std::span<std::byte> out) override;
  void import_page(int group, int page, std::span<const std::byte> bytes) override;

  const KvHeadLayout& head_layout(int group) const {
    return groups_[static_cast<size_t>(group)].head;
  }
  std::byte* head(int group, int page, int layer, int kv_head);

 private:
  struct Group {
    KvHeadLayout head;
    int layers = 0;
    int kv_heads = 0;
    int pages = 0;
    size_t page_bytes = 0;
    Arena memory;
  };
  std::byte* page(int group, int page);
  KvType type_;
  std::vector<Group> groups_;
};

}  // namespace apud::cpu
