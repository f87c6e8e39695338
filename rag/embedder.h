// What rag needs from the engine: vectors for texts, and token counts. app adapts the engine to it.
//
// Threads: embed() is called by one thread at a time; everything else by any thread at any time,
// also while embed() runs (parsers count tokens while the embedder works).
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace apud {

enum class EmbedKind { kQuery, kPassage };

/// Of a part that lies beyond what the model takes, or has no tokens.
inline constexpr float kUnread = -1;
/// A passage beside questions, by the vectors of their single tokens.
struct PassageMatch {
  float passage = 0;  // how well its tokens hold the questions' (MaxSim)
  std::vector<float>
      parts;  // cosine of each part, read in the passage, with the questions; kUnread
};

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
  /// Passages in parts, the heading first, beside the questions. Empty where the model has no
  /// vectors of single tokens that mean anything on their own.
  virtual std::vector<PassageMatch> match(std::span<const std::string> /*questions*/,
                                          std::span<const std::vector<std::string>> /*passages*/) {
    return {};
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
