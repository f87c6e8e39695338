// What rag needs from the engine: vectors for texts, and token counts. app adapts the engine to it.
//
// Threads: embed() is called by one thread at a time; everything else by any thread at any time,
// also while embed() runs (parsers count tokens while the embedder works).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"

namespace apud {

enum class EmbedKind { kQuery, kPassage };

/// Of a part that lies beyond what the model takes, or has no tokens.
inline constexpr float kUnread = -1;

/// Vectors of one text's single tokens, (tokens, token_width), unit, prompt and special tokens left
/// out; parts: tokens of each part, 0 for those beyond what the model takes.
using TokenRowsOf =
    std::function<void(size_t text, std::span<const float> rows, std::span<const int> parts)>;

class TextEmbedder {
 public:
  virtual ~TextEmbedder() = default;
  /// Identity of weights, tokenizer, prompts and dimension: vectors of one fingerprint compare.
  virtual std::string fingerprint() const = 0;
  virtual std::string name() const = 0;
  virtual int dimension() const = 0;
  /// Tokens of a text that the model takes beside its own prompt and special tokens.
  virtual int max_tokens() const = 0;
  /// Tokens of `text` alone.
  virtual int count_tokens(std::string_view text) const = 0;
  /// False for models that know English only: readers of other scripts are warned.
  virtual bool multilingual() const = 0;
  /// out (texts.size(), dimension): unit vectors. A vector does not depend on its batch neighbours.
  /// Texts longer than max_tokens() are a bug of the caller (CHECK).
  virtual void embed(std::span<const std::string> texts, EmbedKind kind, std::span<float> out) = 0;
  /// Width of the vectors of single tokens; 0 where they mean nothing on their own.
  virtual int token_width() const { return 0; }
  /// As embed(), of texts in parts, such as a heading and sentences; `each` is called once a text.
  /// REQUIRES: token_width() > 0.
  virtual void embed_parts(std::span<const std::vector<std::string>> /*texts*/, EmbedKind /*kind*/,
                           std::span<float> /*out*/, const TokenRowsOf& /*each*/) {
    APUD_CHECK(false, "an embedder with a token_width() has embed_parts()");
  }
};

/// Counts tokens as the chat model's tokenizer does, for packing.
/// Threads: one at a time.
class TokenCounter {
 public:
  virtual ~TokenCounter() = default;
  virtual int count(std::string_view text) const = 0;
};

/// Counts the embedder's tokens, where packing is measured without a chat model.
class EmbedderCounter : public TokenCounter {
 public:
  explicit EmbedderCounter(const TextEmbedder& embedder) : embedder_(embedder) {}
  int count(std::string_view text) const override { return embedder_.count_tokens(text); }

 private:
  const TextEmbedder& embedder_;
};

}  // namespace apud
