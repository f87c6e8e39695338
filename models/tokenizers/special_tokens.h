// Control tokens: which ids they are, and where a text with origins spells them. Shared by all
// kinds of tokenizer; kinds add only how plain text becomes ids.
//
// Threads: immutable after construction.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizer.h"

namespace apud {

/// Types of vocabulary entries, numbered as in GGUF's tokenizer.ggml.token_type.
enum class TokenKind : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

/// A token that only the scaffold may spell. `strip_left` / `strip_right`: white space of the
/// scaffold next to it belongs to it (Hugging Face's lstrip and rstrip).
struct AddedToken {
  std::string text;
  int32_t id = 0;
  bool strip_left = false;
  bool strip_right = false;
};

/// What a tokenizer's file says besides vocabulary and rules.
struct TokenRoles {
  std::vector<AddedToken> added;
  std::vector<char> control;  // [vocab_size], 1 = never produced from content, no text when decoded
  std::optional<int32_t> bos, eos;
  bool add_bos = false, add_eos = false;
  std::vector<int32_t> stop;  // completed by finish_stop_tokens
};

/// Adds EOS and the known end-of-turn tokens of chat models to roles.stop (sorted, no repeats).
void finish_stop_tokens(TokenRoles& roles);

/// Finds added tokens by their text: leftmost, then longest.
class SpecialMatcher {
 public:
  SpecialMatcher() = default;
  /// Entries with an empty text are left out; of two with the same text the first counts. Throws
  /// kBadData for a text longer than kMaxText (matching is O(length) at every scaffold byte).
  SpecialMatcher(const std::vector<AddedToken>& added, const std::string& file);

  struct Match {
    size_t begin, end;  // bytes of the token itself
    size_t from, to;    // with the white space that it strips
    int32_t id;
  };
  /// The next match at or after `pos` whose bytes are all scaffold.
  std::optional<Match> next(const OriginText& text, size_t pos) const;
  std::optional<int32_t> find(std::string_view text) const;

  static constexpr size_t kMaxText = 512;

 private:
  std::map<std::string, AddedToken, std::less<>> tokens_;
  std::vector<std::vector<size_t>> lengths_;  // [256] by first byte: lengths, longest first
};

/// The part of Tokenizer that all kinds share.
class TokenizerBase : public Tokenizer {
 public:
  TokenizerBase(TokenRoles roles, const std::string& file);
  std::vector<int32_t> encode(std::string_view content) const override;
  std::vector<int32_t> encode(const OriginText& text) const override;
  std::string decode(std::span<const int32_t> ids, bool special) const override;
  bool is_control(int32_t id) const override;
  std::optional<int32_t> bos() const override { return roles_.bos; }
  std::optional<int32_t> eos() const override { return roles_.eos; }
  bool add_bos() const override { return roles_.add_bos; }
  bool add_eos() const override { return roles_.add_eos; }
  const std::vector<int32_t>& stop_tokens() const override { return roles_.stop; }
  std::optional<int32_t> find_special(std::string_view text) const override;

 protected:
  /// Appends the ids of plain text.
  virtual void encode_plain(std::string_view text, std::vector<int32_t>& ids) const = 0;

 private:
  TokenRoles roles_;
  SpecialMatcher matcher_;
};

}  // namespace apud
