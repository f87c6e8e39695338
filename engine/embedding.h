// Text embedding: texts to unit vectors, through the same executor as everything else.
//
// Texts are batched by length under the executor's token limit; a vector depends on its own text
// only. Prompts (query / passage), special tokens and dimension come from the model.
//
// Ownership: shares the model, owns the executor. Threads: one thread at a time; count_tokens and
// the getters are const and re-entrant.
#pragma once

#include <cstdint>
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

/// A passage beside a question, by the vectors of their single tokens.
struct TokenMatch {
  /// Mean over the question's tokens of the highest cosine with a token of the passage.
  float passage = 0;
  /// Cosine of the question with the mean of each part's tokens, read in the passage.
  std::vector<float> parts;
};

class Embedding {
 public:
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

  /// What match() runs: `tokens` executes unpooled() of the model's program.
  void add_token_executor(std::unique_ptr<Executor> tokens);
  bool matches_tokens() const { return tokens_ != nullptr; }
  /// Late interaction without training (ColBERT's MaxSim, Khattab & Zaharia, SIGIR 2020) and late
  /// chunking (Guenther et al., arXiv 2409.04701) from one forward pass of each passage. A passage
  /// comes in parts, its heading first; one longer than max_tokens() is cut, and a part beyond the
  /// cut is as far as can be (-1). Of several questions the mean. REQUIRES: matches_tokens().
  std::vector<TokenMatch> match(std::span<const std::string> questions,
                                std::span<const std::vector<std::string>> passages);

 private:
  std::vector<int32_t> encode(std::string_view text, EmbeddingKind kind, bool* cut) const;
  /// Texts of one step, packed.
  struct Packed {
    std::vector<int32_t> tokens;
    std::vector<SequenceSlice> slices;
  };
  /// As many of texts[order[next]], … as `most` tokens hold, at least one; moves `next` behind
  /// them.
  static Packed pack_step(std::span<const std::vector<int32_t>> texts,
                          std::span<const size_t> order, size_t most, size_t& next);
  std::vector<std::vector<float>> token_rows(std::span<const std::vector<int32_t>> texts);

  std::shared_ptr<const Model> model_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Executor> tokens_;  // of match(); null: without
  std::string fingerprint_;
  int dimension_ = 0;
  int max_tokens_ = 0;
  int overhead_ = 0;
  int32_t first_token_ = 0;
  int32_t last_token_ = 0;
};

}  // namespace apud
