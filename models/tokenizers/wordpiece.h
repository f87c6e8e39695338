// WordPiece as BERT uses it: clean-up, CJK spacing, lower case, accents dropped, punctuation split,
// then the longest known pieces from the left.
//
// Threads: immutable after construction.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/tokenizers/special_tokens.h"

namespace apud {

struct WordPieceSource {
  std::string file;                 // for messages
  std::vector<std::string> tokens;  // continuing pieces begin with "##"
  bool lowercase = true;            // lower case, and accents dropped
  size_t max_word = 100;            // code points; longer words are unknown
  TokenRoles roles;
};

class WordPieceTokenizer : public TokenizerBase {
 public:
  /// Throws kBadData when [UNK], [CLS] or [SEP] is missing.
  explicit WordPieceTokenizer(WordPieceSource source);
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  /// A word's first piece comes with a space before it: WordPiece keeps no white space.
  std::string decode_token(int32_t id, bool special) const override;
  std::string decode(std::span<const int32_t> ids, bool special) const override;
  std::string fingerprint() const override { return fingerprint_; }
  std::string kind() const override { return "wordpiece"; }

 protected:
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const override;

 private:
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;

  std::vector<std::string> tokens_;
  std::unordered_map<std::string_view, int32_t> ids_;  // keys point into tokens_
  size_t longest_ = 0;                                 // bytes of the longest token
  bool lowercase_;
  size_t max_word_;
  int32_t unknown_ = 0;
  std::string fingerprint_;
};

}  // namespace apud
