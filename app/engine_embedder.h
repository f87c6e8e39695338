// rag's view of the engine's embedding: the one adapter, so that measurements see what users get.
//
// Ownership: owns the embedding. Threads: as TextEmbedder says.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "engine/embedding.h"
#include "rag/embedder.h"

namespace apud {

class EngineEmbedder : public TextEmbedder {
 public:
  /// id: the model's name in the catalogue or as the user wrote it.
  EngineEmbedder(std::string id, Embedding embedding)
      : id_(std::move(id)), embedding_(std::move(embedding)) {}
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

 private:
  std::string id_;
  Embedding embedding_;
};

}  // namespace apud
