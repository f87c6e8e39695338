// rag's view of the real embedders: the chunk sizes that users get.
#include "app/engine_embedder.h"

#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "models/model.h"
#include "rag/chunker.h"
#include "rag/token_codes.h"
#include "tests/support/models.h"

namespace apud {
namespace {

EngineEmbedder embedder(const std::string& name) {
  auto model = load_model(test::models_dir() / name);
  auto make = [&](const Program& program) {
    return make_cpu_executor(program, model->weights(), {});
  };
  return {name, Embedding(model, make_embedding_executor(*model, make))};
}

TEST(EngineEmbedder, E5SmallGetsChunksOf400) {
  APUD_REQUIRE_MODEL("e5-small-q4");
  EngineEmbedder e5 = embedder("e5-small-q4");
  // 512, less <s>, </s>, three of "passage: " and one that the seam of prompt and text may cost.
  EXPECT_EQ(e5.max_tokens(), 506);
  EXPECT_EQ(chunk_options_for(e5.max_tokens()).max_tokens, 400);
}

TEST(EngineEmbedder, MiniLmGetsChunksOf240) {
  APUD_REQUIRE_MODEL("minilm-l6");
  EngineEmbedder minilm = embedder("minilm-l6");
  EXPECT_EQ(minilm.max_tokens(), 254);
  EXPECT_EQ(chunk_options_for(minilm.max_tokens()).max_tokens, 240);
}

TEST(EngineEmbedder, EmbeddingGemmaGetsChunksOf400) {
  APUD_REQUIRE_MODEL("embeddinggemma-300m");
  EXPECT_EQ(chunk_options_for(embedder("embeddinggemma-300m").max_tokens()).max_tokens, 400);
}

// Late interaction on real vectors: the passage that answers is nearest by its tokens, in the other
// language, too, and its sentence by its own.
TEST(EngineEmbedder, E5SmallTokensTellWhatAnswers) {
  APUD_REQUIRE_MODEL("e5-small-q4");
  EngineEmbedder e5 = embedder("e5-small-q4");
  ASSERT_EQ(e5.token_width(), 384);
  const TokenCenters centers = TokenCenters::measure(e5);
  ASSERT_EQ(centers.width(), 384u);
  const std::vector<std::vector<std::string>> passages = {
      {"Garden", "Tulips want sun.", "Water them in the morning."},
      {"锅炉", "锅炉压力低于 0.8 巴时显示 E04。", "每年检查一次。"},
      {"Boiler", "It stands in the cellar.", "Under 0.8 bar the boiler shows E04."}};
  std::vector<TokenCodes> codes(passages.size());
  std::vector<float> vectors(passages.size() * 384);
  e5.embed_parts(passages, EmbedKind::kPassage, vectors,
                 [&](size_t i, std::span<const float> rows, std::span<const int> parts) {
                   codes[i] = TokenCodes::of(centers, passages[i], rows, parts);
                 });
  const std::vector<std::vector<std::string>> asked = {
      {"At which pressure does the boiler report a fault?"}};
  std::optional<TokenQuestion> question;
  e5.embed_parts(asked, EmbedKind::kQuery, std::span(vectors).first(384),
                 [&](size_t, std::span<const float> rows, std::span<const int>) {
                   question.emplace(centers.of(asked[0][0]), rows);
                 });
  TokenMatch garden = question->match(codes[0]), han = question->match(codes[1]),
             boiler = question->match(codes[2]);
  EXPECT_GT(boiler.all, garden.all + 0.05f);
  EXPECT_GT(han.all, garden.all + 0.03f);
  ASSERT_EQ(boiler.parts.size(), 3u);
  EXPECT_GT(boiler.parts[2], boiler.parts[1]);
  EXPECT_GT(han.parts[1], han.parts[2]);
}

TEST(EngineEmbedder, EmbeddingGemmaHasNoTokensOfItsOwn) {
  APUD_REQUIRE_MODEL("embeddinggemma-300m");
  EXPECT_EQ(embedder("embeddinggemma-300m").token_width(), 0);
}

}  // namespace
}  // namespace apud
