// Tokenizers: text to ids and back, ids equal to the reference implementations'. Content can never
// become a control token: special tokens are matched only where the text's origin says "scaffold".
//
// Threads: immutable after construction, all methods const and re-entrant.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace apud {

/// Text whose every byte knows where it comes from: the template's own text (scaffold), which may
/// spell special tokens, or content (user, document, model output), which never does.
class OriginText {
 public:
  void append_scaffold(std::string_view text) { append(text, true); }
  void append_content(std::string_view text) { append(text, false); }
  void append(const OriginText& other);
  void append(std::string_view text, bool scaffold) {
    text_.append(text);
    scaffold_.insert(scaffold_.end(), text.size(), scaffold ? 1 : 0);
  }
  const std::string& text() const { return text_; }
  /// True when all bytes of [begin, end) are scaffold.
  bool scaffold(size_t begin, size_t end) const;
  bool scaffold_at(size_t i) const { return scaffold_[i] != 0; }
  size_t size() const { return text_.size(); }
  OriginText substr(size_t begin, size_t end) const;

 private:
  std::string text_;
  std::vector<char> scaffold_;  // one per byte of text_
};

/// A control token: matched in scaffold only; never produced from content.
struct SpecialToken {
  std::string text;
  int32_t id = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int32_t vocab_size() const = 0;
  /// Ids of plain content; no special token, no BOS/EOS added. Never throws, any bytes.
  virtual std::vector<int32_t> encode(std::string_view content) const = 0;
  /// Ids of text with origins: special tokens where scaffold spells them; the text between two
  /// special tokens is tokenised as one string.
  virtual std::vector<int32_t> encode(const OriginText& text) const = 0;
  /// Bytes of one token as they stand in running text (may be an incomplete UTF-8 sequence).
  /// Control tokens give their text with `special`, else nothing.
  virtual std::string decode_token(int32_t id, bool special = false) const = 0;
  /// Bytes of a sequence; the leading space that a SentencePiece tokenizer adds is dropped.
  virtual std::string decode(std::span<const int32_t> ids, bool special = false) const = 0;
  virtual bool is_control(int32_t id) const = 0;
  virtual std::optional<int32_t> bos() const = 0;
  virtual std::optional<int32_t> eos() const = 0;
  /// Whether the model's file asks for BOS / EOS around a bare prompt (no chat template).
  virtual bool add_bos() const = 0;
  virtual bool add_eos() const = 0;
  /// Tokens that end a turn: EOS plus end-of-turn tokens of chat models.
  virtual const std::vector<int32_t>& stop_tokens() const = 0;
  virtual std::optional<int32_t> find_special(std::string_view text) const = 0;
  /// Hash of vocabulary and rules, part of the model fingerprint.
  virtual std::string fingerprint() const = 0;
  /// "bpe:qwen2", "sentencepiece:bpe", "wordpiece", …
  virtual std::string kind() const = 0;
};

class GgufFile;
/// From a GGUF file's vocabulary; refuses unknown models and pre-tokenisers by name (kBadData).
std::unique_ptr<Tokenizer> make_gguf_tokenizer(const GgufFile& file);
/// From a Hugging Face folder: tokenizer.model / sentencepiece.bpe.model, tokenizer.json,
/// vocab.txt.
std::unique_ptr<Tokenizer> make_folder_tokenizer(const std::string& folder);

}  // namespace apud
