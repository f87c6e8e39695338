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
// Late interaction: the passage that answers is nearest by its tokens, its sentence by its own.
TEST(RealModel, E5SmallMatchesTokens) {
  APUD_REQUIRE_MODEL("e5-small-q4");
  auto model = load_model(test::models_dir() / "e5-small-q4");
  Embedding embedding(model, make_cpu_executor(model->program(), model->weights(), {}));
  EXPECT_FALSE(embedding.matches_tokens());
  embedding.add_token_executor(
      make_cpu_executor(*unpooled(model->program()), model->weights(), {}));
  std::string far(8000, 'x');
  for (size_t i = 5; i < far.size(); i += 6) far[i] = ' ';
  const std::vector<std::vector<std::string>> passages = {
      {"Garden", "Tulips want sun.", "Water them in the morning."},
      {"锅炉", "锅炉压力低于 0.8 巴时显示 E04。", "每年检查一次。"},
      {"Boiler", "It stands in the cellar.", "Under 0.8 bar the boiler shows E04.", far,
       "Beyond."}};
  const std::vector<std::string> question = {"At which pressure does the boiler report a fault?"};
  std::vector<TokenMatch> all = embedding.match(question, passages);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_GT(all[2].passage, all[0].passage);
  EXPECT_GT(all[1].passage, all[0].passage) << "the other language, too";
  ASSERT_EQ(all[2].parts.size(), 5u);
  EXPECT_GT(all[2].parts[2], all[2].parts[1]);
  EXPECT_EQ(all[2].parts[4], -1) << "beyond the model's limit";
  for (size_t p = 0; p < passages.size(); ++p) {
    TokenMatch alone = embedding.match(question, std::span(&passages[p], 1))[0];
    EXPECT_EQ(alone.passage, all[p].passage) << "a match depends on its neighbours";
    EXPECT_EQ(alone.parts, all[p].parts);
  }
  // One part, one sentence: the mean of its tokens is nearly the pooled vector.
  const std::vector<std::string> text = {"Under 0.8 bar the boiler shows E04."};
  TokenMatch whole = embedding.match(question, std::span(&text, 1))[0];
  auto dim = static_cast<size_t>(embedding.dimension());
  std::vector<float> q(dim), t(dim);
  embedding.embed(question, EmbeddingKind::kQuery, q);
  embedding.embed(text, EmbeddingKind::kPassage, t);
  double cosine = 0;
  for (size_t d = 0; d < dim; ++d) cosine += double{q[d]} * t[d];
  EXPECT_NEAR(whole.parts.at(0), cosine, 0.03);
  // Of two questions the mean.
  const std::vector<std::string> two = {question[0], "What do tulips need?"};
  std::vector<TokenMatch> both = embedding.match(two, passages);
  std::vector<TokenMatch> second = embedding.match(std::span(&two[1], 1), passages);
  EXPECT_NEAR(both[0].passage, (all[0].passage + second[0].passage) / 2, 1e-5);
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
