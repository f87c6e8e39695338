// Text embedding: texts to unit vectors, through the same executor as everything else.
//
// Texts are batched by length under the executor's token limit; a vector depends on its own text
// only. Prompts (query / passage), special tokens and dimension come from the model.
//
// Ownership: shares the model, owns the executor. Threads: one thread at a time; count_tokens and
// the getters are const and re-entrant.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "kernels/backend.h"
#include "models/model.h"

namespace apud {

enum class EmbeddingKind { kQuery, kPassage };

struct EmbeddingOptions {
  int dimension = 0;  // 0: the model's own; else one of its matryoshka sizes (cut and renormalised)
};

/// The vectors of one text's single tokens.
struct TokenRows {
  size_t text = 0;              // its place among the texts
  std::span<const float> rows;  // (tokens, token_width()), unit; without prompt and special tokens
  std::span<const int> parts;   // tokens of each part; those beyond the model's limit are cut off
};

class Embedding {
 public:
  /// `executor` runs the model's program, or unpooled() of it: then the vectors are the same (their
  /// mean is taken here) and those of single tokens are there, too.
  /// Throws apud::Error: kUsage when the model is no encoder or has no such dimension, kBadData
  /// when its tokenizer lacks the special tokens of its family.
  Embedding(std::shared_ptr<const Model> model, std::unique_ptr<Executor> executor,
            const EmbeddingOptions& options = {});

  /// Identity of weights, tokenizer, prompts, dimension.
  const std::string& fingerprint() const { return fingerprint_; }
  const std::string& name() const { return model_->config().name; }
  int dimension() const { return dimension_; }
  /// Input tokens the model takes, prompt and special tokens included.
  int max_tokens() const { return max_tokens_; }
  /// Tokens that prompt and special tokens take of max_tokens(), the larger of query and passage.
  int overhead_tokens() const { return overhead_; }
  /// Tokens of `text` alone, no prompt, no special tokens.
  int count_tokens(std::string_view text) const;
  /// False for models that know English only.
  bool multilingual() const;

  /// out (texts.size(), dimension()), row-major, unit vectors. Texts longer than max_tokens() are
  /// cut at a token; how many were is returned. Throws kBusy never; cancelled: returns early with
  /// the rest of `out` zero.
  int embed(std::span<const std::string> texts, EmbeddingKind kind, std::span<float> out,
            const CancelFlag* cancel = nullptr);

  /// Width of single tokens' vectors; 0 where they say nothing on their own: the executor runs the
  /// whole program instead of unpooled() of it.
  int token_width() const { return token_width_; }
  /// As embed(), of texts that come in parts, such as a heading and sentences, tokenized one by one
  /// so that each one's tokens are known; `each` is called once for every text with the vectors of
  /// its tokens. A text longer than max_tokens() is cut. REQUIRES: token_width() > 0.
  void embed_parts(std::span<const std::vector<std::string>> texts, EmbeddingKind kind,
                   std::span<float> out, const std::function<void(const TokenRows&)>& each);

 private:
  std::vector<int32_t> encode(std::string_view text, EmbeddingKind kind, bool* cut) const;
  /// Runs the texts' tokens, packed into steps, and writes each one's unit vector. `each` gets the
  /// last layer's rows of a text where the executor gives rows.
  void forward(std::span<const std::vector<int32_t>> texts, std::span<float> out,
               const CancelFlag* cancel,
               const std::function<void(size_t text, std::span<float> rows)>& each);

  std::shared_ptr<const Model> model_;
  std::unique_ptr<Executor> executor_;
  std::string fingerprint_;
  int dimension_ = 0;
  int token_width_ = 0;
  int max_tokens_ = 0;
  int overhead_ = 0;
  int32_t first_token_ = 0;
  int32_t last_token_ = 0;
};

}  // namespace apud
