// rag's view of the real embedders: the chunk sizes that users get.
#include "app/engine_embedder.h"

#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "models/model.h"
#include "rag/chunker.h"
#include "tests/support/models.h"

namespace apud {
namespace {

EngineEmbedder embedder(const std::string& name) {
  auto model = load_model(test::models_dir() / name);
  return {name, Embedding(model, make_cpu_executor(model->program(), model->weights(), {}))};
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

}  // namespace
}  // namespace apud
