// SentencePiece vocabularies: BPE ones of plain normalisation by our own encoder (linear time), all
// others through the library. Special tokens are CONTROL pieces, never made out of text.
//
// Threads: immutable after construction.
#pragma once

#include <memory>
#include <string>

#include "models/tokenizers/sentencepiece_bpe.h"
#include "models/tokenizers/sentencepiece_model.h"
#include "models/tokenizers/sentencepiece_unigram.h"
#include "models/tokenizers/special_tokens.h"

namespace apud {

struct SentencePieceSource {
  std::string file;          // for messages
  SentencePieceModel model;  // not yet checked; special pieces already of kind control
  /// XLM-R numbers its tokens as fairseq did: <s> 0, <pad> 1, </s> 2, <unk> 3, then the pieces from
  /// the fourth on, each one higher; <mask> last.
  bool fairseq = false;
  /// The library encodes whatever the vocabulary: the oracle of tests.
  bool use_library = false;
  TokenRoles roles;  // in the numbering that callers see
};

class SentencePieceTokenizer : public TokenizerBase {
 public:
  explicit SentencePieceTokenizer(SentencePieceSource source);
  ~SentencePieceTokenizer() override;
  int32_t vocab_size() const override { return static_cast<int32_t>(bytes_.size()); }
  std::string decode_token(int32_t id, bool special) const override;
  std::string decode(std::span<const int32_t> ids, bool special) const override;
  std::string fingerprint() const override { return fingerprint_; }
  std::string kind() const override;

 protected:
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const override;

 private:
  struct Library;
  // One of the three encodes.
  std::unique_ptr<Library> library_;
  std::unique_ptr<SentencePieceBpe> encoder_;
  std::unique_ptr<SentencePieceUnigram> unigram_;
  std::vector<std::string> bytes_;  // [vocab_size] as they stand in running text
  bool bpe_, fairseq_, dummy_prefix_;
  std::string fingerprint_;
};

}  // namespace apud
