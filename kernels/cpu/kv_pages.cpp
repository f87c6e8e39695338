#include "kernels/cpu/kv_pages.h"

#include <cstring>

#include "base/check.h"

namespace apud::cpu {

KvHeadLayout kv_head_layout(KvType type, int dim) {
  auto align = [](size_t x) { return (x + 63) / 64 * 64; };
  KvHeadLayout layout;
  layout.type = type;
  layout.dim = dim;
  layout.v_cols = (dim + 15) / 16 * 16;
  size_t element = type == KvType::kF32 ? 4 : type == KvType::kI8 ? 1 : 2;
  layout.v_offset = align(static_cast<size_t>(dim) * kKvPageTokens * element);
  layout.scale_offset =
      layout.v_offset + align(static_cast<size_t>(layout.v_cols) * kKvPageTokens * element);
  layout.bytes =
      layout.scale_offset + (type == KvType::kI8 ? 2 * kKvPageTokens * sizeof(float) : 0);
  return layout;
}

KvPages::KvPages(const Program& program, std::span<const int> pages_per_group, KvType type)
    : type_(type) {
  APUD_CHECK(pages_per_group.size() == program.kv_groups.size(), "a page count per KV group");
  for (size_t g = 0; g < pages_per_group.size(); ++g) {
    const KvGroup& from = program.kv_groups[g];
    Group group;
    group.head = kv_head_layout(type, from.head_dim);
    group.layers = from.layers;
    group.kv_heads = from.kv_heads;
    group.pages = pages_per_group[g];
    group.page_bytes =
        group.head.bytes * static_cast<size_t>(from.layers) * static_cast<size_t>(from.kv_heads);
    group.memory = Arena(group.page_bytes * static_cast<size_t>(group.pages), "the KV cache");
    groups_.push_back(std::move(group));
  }
}

std::string KvPages::layout_id() const {
  // The last number rises with any change of layout or of the numbers that kernels compute: pages
  // of an older build must not meet newer ones.
  return std::string("cpu-kt64-") + kv_type_name(type_) + "-4";
}

std::byte* KvPages::page(int group, int page) {
  Group& g = groups_[static_cast<size_t>(group)];
  APUD_CHECK(page >= 0 && page < g.pages, "KV page in range");
  return g.memory.data() + static_cast<size_t>(page) * g.page_bytes;
}

std::byte* KvPages::head(int group, int page_index, int layer, int kv_head) {
  Group& g = groups_[static_cast<size_t>(group)];
  auto slot =
      static_cast<size_t>(layer) * static_cast<size_t>(g.kv_heads) + static_cast<size_t>(kv_head);
  return page(group, page_index) + slot * g.head.bytes;
}

void KvPages::copy_page(int group, int from, int to, int tokens) {
  // K is transposed: whole pages are copied; what lies behind `tokens` is overwritten before it is
  // seen.
  APUD_CHECK(tokens >= 0 && tokens <= kKvPageTokens, "tokens of a page");
  std::memcpy(page(group, to), page(group, from), page_bytes(group));
}

void KvPages::export_page(int group, int index, std::span<std::byte> out) {
  APUD_CHECK(out.size() == page_bytes(group), "size of a page");
  std::memcpy(out.data(), page(group, index), out.size());
}

void KvPages::import_page(int group, int index, std::span<const std::byte> bytes) {
  APUD_CHECK(bytes.size() == page_bytes(group), "size of a page");
  std::memcpy(page(group, index), bytes.data(), bytes.size());
}

}  // namespace apud::cpu
