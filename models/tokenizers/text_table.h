// Numbers by text, for the loading of vocabularies: one hash and one compared text a look-up. (The
// standard's hash maps took a third of the time that 150,000 to 250,000 pieces need.)
//
// Holds views: a text must stay where it is. Threads: find is const.
#pragma once

#include <bit>
#include <cstdint>
#include <random>
#include <string_view>
#include <vector>

#include "base/hash.h"

namespace apud {

class TextTable {
 public:
  /// For at most `most` texts.
  explicit TextTable(size_t most) : slots_(std::bit_ceil(2 * most + 2)) {
    // A seed of its own, so that a hostile file cannot aim at one chain.
    std::random_device random;
    seed_ = static_cast<uint64_t>(random()) << 32 | random();
    texts_.reserve(most);
  }

  /// False, and nothing changes, when the text is there.
  bool insert(std::string_view text, int32_t number) {
    uint64_t hash = xxh3_64(text, seed_);
    Slot& slot = slots_[place(text, hash)];
    if (slot.entry != kEmpty) return false;
    slot = {static_cast<uint32_t>(hash >> 32), static_cast<uint32_t>(texts_.size()), number};
    texts_.push_back(text);
    return true;
  }
  /// -1 when it is not there.
  int32_t find(std::string_view text) const {
    return slots_[place(text, xxh3_64(text, seed_))].number;
  }

 private:
  static constexpr uint32_t kEmpty = UINT32_MAX;
  struct Slot {
    uint32_t tag = 0;
    uint32_t entry = kEmpty;
    int32_t number = -1;
  };
  size_t place(std::string_view text, uint64_t hash) const {
    auto tag = static_cast<uint32_t>(hash >> 32);
    size_t at = hash & (slots_.size() - 1);
    while (slots_[at].entry != kEmpty &&
           (slots_[at].tag != tag || texts_[slots_[at].entry] != text)) {
      at = (at + 1) & (slots_.size() - 1);
    }
    return at;
  }

  uint64_t seed_;
  std::vector<Slot> slots_;
  std::vector<std::string_view> texts_;
};

}  // namespace apud
