// Byte-level BPE: merges adjacent symbols, lowest rank first, leftmost first among equals. Linear
// apart from a logarithm, also for one piece of many megabytes.
//
// Threads: immutable after construction.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/pretokenizer.h"
#include "models/tokenizers/special_tokens.h"

namespace apud {

/// Merge rules by the ids of the two halves: an open-addressing table.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  explicit MergeTable(size_t count);
  /// The last of two equal pairs counts.
  void add(int32_t left, int32_t right, Merge merge);
  /// The rule for a pair; rank is kNone when there is none.
  Merge find(int32_t left, int32_t right) const {
    uint64_t key =
        static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    for (size_t i = hash(key) & mask_;; i = (i + 1) & mask_) {
      if (slots_[i].merge.rank == kNone) return {kNone, -1};
      if (slots_[i].key == key) return slots_[i].merge;
    }
  }
  static constexpr uint32_t kNone = UINT32_MAX;

 private:
  struct Slot {
    uint64_t key = 0;
    Merge merge{kNone, -1};
  };
  uint64_t hash(uint64_t key) const;
  uint64_t seed_;  // per table, so that a hostile file cannot aim at one chain
  size_t mask_;
  std::vector<Slot> slots_;
};

/// What a file says about a byte-level BPE vocabulary.
struct BpeSource {
  std::string file;                 // for messages
  std::vector<std::string> tokens;  // normal ones in GPT-2's visible spelling of bytes
  std::vector<TokenKind> kinds;     // [tokens.size()]
  std::vector<std::pair<std::string, std::string>> merges;  // best first, spelled like tokens
  PreTokenizerKind pretokenizer = PreTokenizerKind::kGpt2;
  bool nfc = false;            // text is brought to form C first
  bool ignore_merges = false;  // a piece that is a token is taken whole (Llama 3)
  TokenRoles roles;
};

class BpeTokenizer : public TokenizerBase {
 public:
  /// Throws kBadData when a byte that ordinary text is made of has no token, or a merge names
  /// something outside the vocabulary.
  explicit BpeTokenizer(BpeSource source);
  int32_t vocab_size() const override { return static_cast<int32_t>(bytes_.size()); }
  std::string decode_token(int32_t id, bool special) const override;
  std::string fingerprint() const override { return fingerprint_; }
  std::string kind() const override;

 protected:
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const override;

 private:
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_short(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_long(std::string_view piece, std::vector<int32_t>& ids) const;

  PreTokenizerKind pretokenizer_;
  bool nfc_;
  std::array<int32_t, 256> byte_ids_{};  // -1: no token, the byte is dropped as the reference does
  bool all_bytes_ = true;
  MergeTable merges_;
  std::vector<std::string> bytes_;  // [vocab_size] as they stand in running text
  std::vector<int32_t> whole_;      // ignore_merges: ids sorted by bytes_, else empty
  std::string fingerprint_;
};

/// Bytes behind GPT-2's visible spelling of a token; a token with a character outside that alphabet
/// stands for its own text.
std::string bytes_of_visible(std::string_view token);
/// The visible spelling of one byte.
std::string visible_of_byte(uint8_t byte);

}  // namespace apud
