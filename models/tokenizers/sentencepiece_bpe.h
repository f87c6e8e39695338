// Encoder for SentencePiece's BPE vocabularies: the library's ids in time that stays linear, apart
// from a logarithm, on one run of many megabytes (the library's own takes a minute for 10 MB of
// `a`).
//
// Threads: immutable after construction.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/sentencepiece_model.h"

namespace apud {

class SentencePieceBpe {
 public:
  /// Whether a model's normalisation is the plain one: spaces become U+2581, nothing else changes.
  static bool fits(const SentencePieceModel& model);
  /// For a model that check_sentencepiece_model passed and that fits. Throws kBadData for a
  /// user-defined piece of more than 512 bytes (it is looked for at every byte of a text).
  SentencePieceBpe(const SentencePieceModel& model, const std::string& file);

  /// Appends the ids of a text; ill-formed UTF-8 counts as U+FFFD per byte, as in the library.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

 private:
  std::string normalize(std::string_view text) const;
  void encode_normal(std::string_view text, std::vector<int32_t>& ids) const;
  /// Bytes of the longest user-defined piece that `text` begins with, 0 for none.
  size_t user_defined(std::string_view text) const;
  /// Id of a piece that text may become, or -1.
  int32_t find(std::string_view piece) const;
  std::string_view piece(int32_t id) const {
    return std::string_view(text_).substr(begin_[id], begin_[id + 1] - begin_[id]);
  }

  std::string text_;             // all pieces, one after the other
  std::vector<size_t> begin_;    // [pieces + 1] into text_
  std::vector<uint32_t> ranks_;  // [pieces] 0 = highest score
  std::vector<bool> unused_;     // [pieces]
  std::vector<int32_t> slots_;   // open addressing by hash of the piece, -1 = free
  uint64_t seed_;                // per vocabulary, so that a hostile file cannot aim at one chain
  size_t longest_ = 0;           // bytes of the longest piece
  std::vector<int32_t> user_;    // user-defined pieces in the order of their bytes
  std::array<uint32_t, 257> user_begin_{};  // by first byte, into user_
  std::array<int32_t, 256> byte_ids_;
  int32_t unknown_ = 0;
  bool byte_fallback_, dummy_prefix_;
};

}  // namespace apud
