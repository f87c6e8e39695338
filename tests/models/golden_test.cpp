// The reference executor on real and on random models against transformers (tests/data/golden).
// APUD_TEST_FULL=1 runs every position of the 1.5B model; otherwise its first 32.
#include "tests/support/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "base/hash.h"
#include "kernels/backend.h"
#include "models/arch/arch.h"
#include "tests/support/models.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

bool full() { return std::getenv("APUD_TEST_FULL") != nullptr; }

void check_logits(const Path& path, const std::string& name, size_t limit) {
  test::GoldenLogits golden(name);
  GgufFile file = GgufFile::open(path);
  auto source = make_gguf_source(file);
  ArchConfig config = config_from_gguf(file, 0);
  LoadedProgram loaded = build_program(config, *source);
  ASSERT_EQ(static_cast<uint32_t>(config.model.vocab), golden.vocab);
  auto executor = make_reference_executor(loaded.program, loaded.weights);
  size_t count = std::min(limit, golden.ids.size());
  std::vector<int32_t> pages, rows;
  for (size_t i = 0; i < count; ++i) rows.push_back(static_cast<int32_t>(i));
  for (size_t i = 0; i * kKvPageTokens < count; ++i) pages.push_back(static_cast<int32_t>(i));
  std::vector<int> counts(loaded.program.kv_groups.size(), static_cast<int>(pages.size()));
  auto kv = executor->make_kv(counts, KvType::kF32);
  SequenceSlice slice{0, static_cast<int>(count), 0, {}};
  for (auto& group : slice.pages) group = pages;
  std::vector<float> logits(count * golden.vocab);
  auto start = std::chrono::steady_clock::now();
  executor->run({std::span(golden.ids).first(count), std::span(&slice, 1), rows}, kv.get(), logits);
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  double least = 1;
  for (size_t i = 0; i < count; ++i) {
    golden.expect_agrees(i, logits.data() + i * golden.vocab);
    least = std::min(least, golden.cosine(i, logits.data() + i * golden.vocab));
  }
  printf("%s: %zu positions, least cosine %.7f, %.1f s\n", name.c_str(), count, least, seconds);
}

TEST(GoldenLogits, SmolLM2) {
  APUD_REQUIRE_MODEL("smollm2-135m.gguf");
  check_logits(test::models_dir() / "smollm2-135m.gguf", "smollm2-135m", 256);
}
TEST(GoldenLogits, Gemma3) {
  APUD_REQUIRE_MODEL("gemma3-270m.gguf");
  check_logits(test::models_dir() / "gemma3-270m.gguf", "gemma3-270m", 256);
}
TEST(GoldenLogits, Qwen25Coder05) {
  APUD_REQUIRE_MODEL("qwen2.5-coder-0.5b.gguf");
  check_logits(test::models_dir() / "qwen2.5-coder-0.5b.gguf", "qwen2.5-coder-0.5b", 256);
}
TEST(GoldenLogits, Qwen25Coder15) {
  APUD_REQUIRE_MODEL("qwen2.5-coder-1.5b.gguf");
  check_logits(test::models_dir() / "qwen2.5-coder-1.5b.gguf", "qwen2.5-coder-1.5b",
               full() ? 256 : 32);
}

class TinyGolden : public testing::TestWithParam<const char*> {};
TEST_P(TinyGolden, EqualsTransformers) {
  test::TempDir dir;
  Path path = dir.path() / "model.gguf";
  std::string command = "python3 " + test::source_dir() + "/scripts/make-random-model " +
                        path.string() + " --shape " + GetParam() + " 2>/dev/null";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  std::ifstream hash(test::test_data() + "/golden/logits-" + GetParam() + ".sha256");
  std::string wanted;
  hash >> wanted;
  ASSERT_EQ(sha256_file_hex(path), wanted)
      << "the script makes another file than the golden was made of";
  check_logits(path, GetParam(), 4096);
}
INSTANTIATE_TEST_SUITE_P(Families, TinyGolden,
                         testing::Values("tiny-llama", "tiny-llama3", "tiny-qwen2", "tiny-qwen3",
                                         "tiny-gemma2", "tiny-gemma3", "tiny-phi3", "tiny-odd"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

void check_vectors(const std::string& name) {
  test::GoldenVectors golden(name);
  Path folder = test::models_dir() / name;
  ArchConfig config = config_from_folder(folder, 0);
  FolderTensors source(folder, config.extra_files);
  LoadedProgram loaded = build_program(config, source);
  auto executor = make_reference_executor(loaded.program, loaded.weights);
  auto dim = static_cast<size_t>(config.model.embedding_dim);
  double least = 1;
  for (const auto& entry : golden.entries) {
    ASSERT_EQ(entry.vector.size(), dim);
    SequenceSlice slice{0, static_cast<int>(entry.ids.size()), 0, {}};
    std::vector<float> vector(dim);
    executor->run({entry.ids, std::span(&slice, 1), {}}, nullptr, vector);
    double dot = 0, norm = 0;
    for (size_t i = 0; i < dim; ++i) {
      dot += static_cast<double>(vector[i]) * entry.vector[i];
      norm += static_cast<double>(vector[i]) * vector[i];
    }
    EXPECT_GE(dot, 0.9999) << entry.text.substr(0, 60);
    EXPECT_NEAR(norm, 1, 1e-4);
    least = std::min(least, dot);
  }
  printf("%s: %zu vectors, least cosine %.7f\n", name.c_str(), golden.entries.size(), least);
}

TEST(GoldenVectors, MiniLM) {
  APUD_REQUIRE_MODEL("minilm-l6");
  check_vectors("minilm-l6");
}
TEST(GoldenVectors, E5Small) {
  APUD_REQUIRE_MODEL("e5-small-q4");
  check_vectors("e5-small-q4");
}
TEST(GoldenVectors, EmbeddingGemma) {
  APUD_REQUIRE_MODEL("embeddinggemma-300m");
  check_vectors("embeddinggemma-300m");
}

}  // namespace
}  // namespace apud
