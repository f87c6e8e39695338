// rag's view of the engine's embedding: the one adapter, so that measurements see what users get.
//
// Ownership: owns the embedding. Threads: as TextEmbedder says.
#pragma once

#include <memory>
#include <optional>
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
    embedding_.embed(texts, engine_kind(kind), out);
  }
  int token_width() const override { return embedding_.token_width(); }
  void embed_parts(std::span<const std::vector<std::string>> texts, EmbedKind kind,
                   std::span<float> out, const TokenRowsOf& each) override {
    embedding_.embed_parts(texts, engine_kind(kind), out,
                           [&](const TokenRows& t) { each(t.text, t.rows, t.parts); });
  }

 private:
  static EmbeddingKind engine_kind(EmbedKind kind) {
    return kind == EmbedKind::kQuery ? EmbeddingKind::kQuery : EmbeddingKind::kPassage;
  }

  std::string id_;
  Embedding embedding_;
};

/// The executor that gives an embedding's tokens, too, where the model has them: `make` makes one
/// of a program.
template <typename Make>
std::unique_ptr<Executor> make_embedding_executor(const Model& model, const Make& make) {
  std::optional<Program> tokens = unpooled(model.program());
  return make(tokens ? *tokens : model.program());
}

}  // namespace apud
