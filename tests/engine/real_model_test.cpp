// Real models through the real CPU executor: logits and answers are bit-identical with the cache on
// or off, cold or warm, alone or in a batch, and across a restart.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>

#include "engine/embedding.h"
#include "engine/engine.h"
#include "tests/support/golden.h"
#include "tests/support/models.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

EngineOptions options(bool cache, const Path& folder = {}) {
  EngineOptions o;
  o.context = 1024;
  o.kv_bytes = 512ull << 20;
  o.prefix_cache = cache;
  o.disk.folder = folder;
  o.disk.free_share = 1;
  o.disk.always_restore = true;
  return o;
}

struct Setup {
  explicit Setup(const char* file) : model(load_model(test::models_dir() / file)) {}
  std::unique_ptr<Engine> engine(const EngineOptions& o) const {
    CpuOptions cpu;
    cpu.threads = 2;
    return std::make_unique<Engine>(model,
                                    make_cpu_executor(model->program(), model->weights(), cpu), o);
  }
  std::vector<int32_t> ids(const std::string& text) const {
    return model->tokenizer().encode(text);
  }
  std::shared_ptr<const Model> model;
};

std::string passage() {
  std::string text;
  for (int i = 0; i < 8; ++i) {
    text += "Section " + std::to_string(i) +
            ". The lighthouse of Alexandria stood on the island of "
            "Pharos and was among the tallest buildings of its time, " +
            std::to_string(100 + 3 * i) + " metres high. 灯塔建于公元前三世纪。 ";
  }
  return text;
}

Request request(std::vector<int32_t> prompt, int max_tokens, float temperature = 0) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  r.ignore_end = true;
  r.seed = 42;
  r.sampling.temperature = temperature;
  return r;
}

void expect_same(const Answer& a, const Answer& b, const char* what) {
  EXPECT_EQ(a.best().tokens, b.best().tokens) << what;
  EXPECT_EQ(a.best().logprobs, b.best().logprobs) << what << ": log-probabilities differ in a bit";
}

void check_determinism(const char* file) {
  Setup setup(file);
  test::TempDir dir;
  auto first = setup.ids(passage() + "Question: how high was it? Answer:");
  ASSERT_GT(first.size(), 200u);
  auto scratch = setup.engine(options(false));
  Answer truth = scratch->generate(request(first, 24));
  auto second = first;
  second.insert(second.end(), truth.best().tokens.begin(), truth.best().tokens.end());
  for (int32_t id : setup.ids("\nQuestion: where did it stand? Answer:")) second.push_back(id);
  Answer truth2 = scratch->generate(request(second, 24, 0.8f));

  {
    auto cached = setup.engine(options(true, dir.path()));
    expect_same(cached->generate(request(first, 24)), truth, "cold");
    Answer warm = cached->generate(request(first, 24));
    EXPECT_EQ(warm.receipt.usage.computed, 1);
    expect_same(warm, truth, "warm");
    Answer turn = cached->generate(request(second, 24, 0.8f));
    EXPECT_EQ(turn.receipt.usage.cached, static_cast<int>(first.size()) + 23);
    expect_same(turn, truth2, "second turn");
  }
  {
    auto restarted = setup.engine(options(true, dir.path()));
    Answer restored = restarted->generate(request(second, 24, 0.8f));
    EXPECT_EQ(restored.receipt.usage.cached_disk, static_cast<int>(second.size()) - 1);
    expect_same(restored, truth2, "restored from disk");
  }
  {
    EngineOptions small_steps = options(true);
    small_steps.step_tokens = 50;
    small_steps.mixed_step_tokens = 7;
    auto batch = setup.engine(small_steps);
    uint64_t other =
        batch->submit(request(setup.ids("Once upon a time in a small village"), 40, 1.0f));
    uint64_t a = batch->submit(request(first, 24));
    uint64_t b = batch->submit(request(second, 24, 0.8f));
    expect_same(batch->wait(a), truth, "in a batch, small chunks");
    expect_same(batch->wait(b), truth2, "in a batch, small chunks");
    EXPECT_FALSE(batch->wait(other).error);
  }
}

TEST(RealModel, SmolLM2AnswersAreBitIdentical) {
  APUD_REQUIRE_MODEL("smollm2-135m.gguf");
  check_determinism("smollm2-135m.gguf");
}

TEST(RealModel, Qwen25AnswersAreBitIdentical) {
  APUD_REQUIRE_MODEL("qwen2.5-coder-0.5b.gguf");
  check_determinism("qwen2.5-coder-0.5b.gguf");
}

TEST(RealModel, GemmaAnswersAreBitIdentical) {  // sliding windows: two KV groups
  APUD_REQUIRE_MODEL("gemma3-270m.gguf");
  check_determinism("gemma3-270m.gguf");
}

void check_vectors(const std::string& name) {
  test::GoldenVectors golden(name);
  auto model = load_model(test::models_dir() / name);
  Embedding embedding(model, make_cpu_executor(model->program(), model->weights(), {}));
  auto dim = static_cast<size_t>(embedding.dimension());
  double least = 1;
  int compared = 0, cuts = 0;
  std::vector<std::string> all;
  std::vector<float> alone;
  bool prompts = !model->config().query_prompt.empty();
  for (const auto& entry : golden.entries) {
    if (prompts && entry.role == 0) continue;  // without a prompt: not what apud makes of a text
    EmbeddingKind kind = entry.role == 1 ? EmbeddingKind::kQuery : EmbeddingKind::kPassage;
    std::vector<float> vector(dim);
    cuts += embedding.embed(std::span(&entry.text, 1), kind, vector);
    double dot = 0;
    for (size_t i = 0; i < dim; ++i) dot += static_cast<double>(vector[i]) * entry.vector[i];
    EXPECT_GE(dot, 0.9999) << entry.text.substr(0, 80);
    least = std::min(least, dot);
    ++compared;
    if (kind == EmbeddingKind::kPassage) {
      all.push_back(entry.text);
      alone.insert(alone.end(), vector.begin(), vector.end());
    }
  }
  EXPECT_GT(compared, 0);
  std::vector<float> together(alone.size());
  embedding.embed(all, EmbeddingKind::kPassage, together);
  EXPECT_EQ(together, alone) << "a vector depends on its neighbours";
  std::printf("%s: %d vectors, %d texts cut, least cosine %.6f\n", name.c_str(), compared, cuts,
              least);
}

TEST(RealModel, E5SmallVectors) {
  APUD_REQUIRE_MODEL("e5-small-q4");
  check_vectors("e5-small-q4");
}
// Single tokens: the vectors of whole texts stay the same, and rows belong to their parts.
TEST(RealModel, E5SmallTokens) {
  APUD_REQUIRE_MODEL("e5-small-q4");
  auto model = load_model(test::models_dir() / "e5-small-q4");
  Embedding pooled(model, make_cpu_executor(model->program(), model->weights(), {}));
  EXPECT_EQ(pooled.token_width(), 0);
  Embedding embedding(model, make_cpu_executor(*unpooled(model->program()), model->weights(), {}));
  ASSERT_EQ(embedding.token_width(), embedding.dimension());
  EXPECT_EQ(embedding.fingerprint(), pooled.fingerprint());
  const auto dim = static_cast<size_t>(embedding.dimension());
  std::string far(8000, 'x');
  for (size_t i = 5; i < far.size(); i += 6) far[i] = ' ';
  const std::vector<std::vector<std::string>> texts = {
      {"Tulips want sun."}, {"锅炉", "每年检查一次。"}, {"Boiler", far, "Beyond."}};
  std::vector<std::vector<float>> rows(texts.size());
  std::vector<std::vector<int>> parts(texts.size());
  std::vector<float> vectors(texts.size() * dim);
  embedding.embed_parts(texts, EmbeddingKind::kPassage, vectors, [&](const TokenRows& t) {
    rows[t.text].assign(t.rows.begin(), t.rows.end());
    parts[t.text].assign(t.parts.begin(), t.parts.end());
  });
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(parts[i].size(), texts[i].size());
    size_t tokens = 0;
    for (int n : parts[i]) tokens += static_cast<size_t>(n);
    ASSERT_EQ(rows[i].size(), tokens * dim);
    for (size_t r = 0; r < tokens; ++r) {
      double norm = 0;
      for (size_t d = 0; d < dim; ++d) norm += double{rows[i][r * dim + d]} * rows[i][r * dim + d];
      EXPECT_NEAR(norm, 1, 1e-5);
    }
  }
  EXPECT_EQ(parts[0][0], embedding.count_tokens(texts[0][0]));
  EXPECT_EQ(parts[2][2], 0) << "beyond the model's limit";
  // One part is the whole text, whose vector either executor gives alike.
  std::vector<float> alone(dim), other(dim);
  for (Embedding* each : {&embedding, &pooled}) {
    each->embed(texts[0], EmbeddingKind::kPassage, each == &pooled ? other : alone);
  }
  double cosine = 0;
  for (size_t d = 0; d < dim; ++d) {
    EXPECT_EQ(alone[d], vectors[d]);
    cosine += double{alone[d]} * other[d];
  }
  EXPECT_NEAR(cosine, 1, 1e-6);
  // Neighbours in a step change nothing.
  std::vector<float> second(dim);
  std::vector<float> second_rows;
  embedding.embed_parts(
      std::span(&texts[1], 1), EmbeddingKind::kPassage, second,
      [&](const TokenRows& t) { second_rows.assign(t.rows.begin(), t.rows.end()); });
  EXPECT_EQ(second_rows, rows[1]);
}
TEST(RealModel, MiniLmVectors) {
  APUD_REQUIRE_MODEL("minilm-l6");
  check_vectors("minilm-l6");
}
TEST(RealModel, EmbeddingGemmaVectors) {
  APUD_REQUIRE_MODEL("embeddinggemma-300m");
  check_vectors("embeddinggemma-300m");
}

}  // namespace
}  // namespace apud
