// rag's view of the engine's embedding: the one adapter, so that measurements see what users get.
//
// Ownership: owns the embedding. Threads: as TextEmbedder says.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/embedding.h"
#include "rag/embedder.h"

namespace apud {

class EngineEmbedder : public TextEmbedder {
 public:
  using MakeExecutor = std::function<std::unique_ptr<Executor>()>;
  /// id: the model's name in the catalogue or as the user wrote it. make_tokens: gives the executor
  /// of match() when that is first needed, or none; null: no match().
  EngineEmbedder(std::string id, Embedding embedding, MakeExecutor make_tokens = nullptr)
      : id_(std::move(id)),
        embedding_(std::move(embedding)),
        make_tokens_(std::move(make_tokens)) {}
  std::string fingerprint() const override { return embedding_.fingerprint(); }
  std::string name() const override { return id_; }
  int dimension() const override { return embedding_.dimension(); }
  int max_tokens() const override { return embedding_.max_tokens() - embedding_.overhead_tokens(); }
  int count_tokens(std::string_view text) const override { return embedding_.count_tokens(text); }
  bool multilingual() const override { return embedding_.multilingual(); }
  void embed(std::span<const std::string> texts, EmbedKind kind, std::span<float> out) override {
    embedding_.embed(
        texts, kind == EmbedKind::kQuery ? EmbeddingKind::kQuery : EmbeddingKind::kPassage, out);
  }
  /// Makes ready what match() needs, where that has not been done.
  void prepare_match() {
    if (!make_tokens_) return;
    if (std::unique_ptr<Executor> tokens = std::exchange(make_tokens_, nullptr)())
      embedding_.add_token_executor(std::move(tokens));
  }
  std::vector<PassageMatch> match(std::span<const std::string> questions,
                                  std::span<const std::vector<std::string>> passages) override {
    std::vector<PassageMatch> out;
    prepare_match();
    if (!embedding_.matches_tokens()) return out;
    for (TokenMatch& match : embedding_.match(questions, passages))
      out.push_back({match.passage, std::move(match.parts)});
    return out;
  }

 private:
  std::string id_;
  Embedding embedding_;
  MakeExecutor make_tokens_;  // null once called
};

}  // namespace apud
