// Ids equal to the reference implementations' on 5.5 MB of mixed text, for every real vocabulary
// that is at hand. Golden files: scripts/make-tokenizer-golden.
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "models/gguf.h"
#include "models/tokenizer.h"
#include "tests/support/mixed_text.h"
#include "tests/support/models.h"
#include "tests/support/paths.h"

namespace apud {
namespace {

const Path kData = Path(test::test_data()) / "tokenizers";

struct Golden {
  nlohmann::json json;
  Path source;
  explicit Golden(const std::string& name) {
    std::ifstream file(kData / (name + ".json"));
    json = nlohmann::json::parse(file);
    Path base = json["place"] == "models" ? test::models_dir() : test::vocabularies_dir();
    source = base / json["source"].get<std::string>();
  }
};

std::unique_ptr<Tokenizer> load(const Path& source) {
  if (source.extension() == ".gguf") return make_gguf_tokenizer(GgufFile::open(source));
  return make_folder_tokenizer(source.string());
}

std::string digest(const std::vector<int32_t>& ids) {
  return sha256_hex({reinterpret_cast<const char*>(ids.data()), ids.size() * 4}).substr(0, 16);
}

class TokenizerGolden : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerGolden, IdsEqualTheReference) {
  Golden golden(GetParam());
  if (!std::filesystem::exists(golden.source)) {
    GTEST_SKIP() << "not fetched: " << golden.source
                 << " (scripts/fetch-models test, scripts/fetch-vocabularies)";
  }
  auto tokenizer = load(golden.source);
  for (const auto& c : golden.json["cases"]) {
    std::string text = c["text"];
    EXPECT_EQ(tokenizer->encode(text), c["ids"].get<std::vector<int32_t>>()) << "text: " << text;
  }
  test::MixedText text(kData / "seed.txt");
  ASSERT_EQ(sha256_hex(text.block(0)), golden.json["text_sha256"])
      << "tests/support/mixed_text.h and scripts/make-tokenizer-golden generate different texts";
  size_t tokens = 0, wrong = 0;
  const auto& blocks = golden.json["blocks"];
  for (size_t i = 0; i < blocks.size(); ++i) {
    auto ids = tokenizer->encode(text.block(i));
    tokens += ids.size();
    if (digest(ids) != blocks[i]) {
      ++wrong;
      ADD_FAILURE() << "block " << i << ": ids differ from the reference's";
      if (wrong == 3) break;
    }
  }
  if (wrong == 0) {
    EXPECT_EQ(tokens, golden.json["tokens"].get<size_t>());
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, TokenizerGolden,
                         testing::Values("qwen2", "smollm", "llama-bpe", "gpt-2", "e5",
                                         "embeddinggemma", "minilm"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

/// Decoding gives back every byte, invalid UTF-8 included, with two exceptions that the references
/// share: qwen2 composes characters first, smollm lacks some bytes.
TEST_P(TokenizerGolden, DecodingRoundTrips) {
  Golden golden(GetParam());
  if (!std::filesystem::exists(golden.source)) GTEST_SKIP() << "not fetched: " << golden.source;
  auto tokenizer = load(golden.source);
  if (!tokenizer->kind().starts_with("bpe:"))
    GTEST_SKIP() << "only byte-level BPE keeps every byte";
  bool composes = tokenizer->kind() == "bpe:qwen2";
  bool lossy = tokenizer->kind() == "bpe:smollm";
  auto back = [&](const std::string& text) { return tokenizer->decode(tokenizer->encode(text)); };
  test::MixedText text(kData / "seed.txt");
  for (int i = 0; i < 8; ++i) {
    std::string raw = text.raw(i), once = back(raw);
    EXPECT_EQ(back(once), once) << "block " << i;
    if (!composes && !lossy) {
      EXPECT_EQ(once, raw) << "block " << i;
    }
  }
  // Every 1- and 2-byte sequence (T7).
  for (int a = 0; a < 256; ++a) {
    std::string one(1, static_cast<char>(a));
    bool kept_a = back(one) == one;
    EXPECT_TRUE(kept_a || lossy) << a;
    for (int b = 0; b < 256; ++b) {
      std::string second(1, static_cast<char>(b));
      if (!kept_a || (lossy && back(second) != second)) continue;
      if (composes && (a == 0xCD || a == 0xCE)) continue;  // U+0340, U+0387 and their like
      ASSERT_EQ(back(one + second), one + second) << a << " " << b;
    }
  }
}

/// T6: legal text that kills pre-tokenisers and merge loops.
TEST_P(TokenizerGolden, LongRunsAreLinear) {
  Golden golden(GetParam());
  if (!std::filesystem::exists(golden.source)) GTEST_SKIP() << "not fetched: " << golden.source;
  auto tokenizer = load(golden.source);
  auto timed = [&](const char* what, const std::string& text) {
    std::clock_t start = std::clock();  // processor time: other work on the machine does not count
    auto ids = tokenizer->encode(text);
    double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 2.0) << what;
    std::printf("%s %s: %.2f s, %zu ids\n", GetParam(), what, seconds, ids.size());
  };
  auto repeat = [](std::string_view unit, size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += unit;
    return text;
  };
  timed("10 MB of a", std::string(10'000'000, 'a'));
  timed("10 MB of spaces", std::string(10'000'000, ' '));
  timed("10 MB of digits", std::string(10'000'000, '7'));
  timed("100 k blank lines", std::string(100'000, '\n'));
  timed("1 M combining marks", "a" + repeat("\xCC\x81\xCC\xA3", 500'000));
  timed("3 MB of abab", repeat("ab", 1'500'000));
}

/// Whether the converter made control pieces of something that `text` spells.
bool spells_converted(const std::string& text) {
  return text.find("<unused") != text.npos || text.find("<mask>") != text.npos;
}

/// Gemma's vocabulary in a GGUF file gives the ids of its tokenizer.model, by the golden file
/// alone.
TEST(TokenizerGguf, GemmasIdsEqualTheReference) {
  APUD_REQUIRE_MODEL("gemma3-270m.gguf");
  auto tokenizer = load(test::models_dir() / "gemma3-270m.gguf");
  Golden golden("embeddinggemma");
  for (const auto& c : golden.json["cases"]) {
    std::string text = c["text"];
    if (spells_converted(text)) continue;
    EXPECT_EQ(tokenizer->encode(text), c["ids"].get<std::vector<int32_t>>()) << "text: " << text;
  }
  test::MixedText text(kData / "seed.txt");
  size_t compared = 0, differ = 0;
  const auto& blocks = golden.json["blocks"];
  for (size_t i = 0; i < blocks.size(); ++i) {
    std::string block = text.block(i);
    if (spells_converted(block)) continue;
    ++compared;
    differ += digest(tokenizer->encode(block)) != blocks[i];
  }
  EXPECT_EQ(differ, 0u) << "of " << compared;
  EXPECT_GE(compared, 3u) << "most blocks spell one of them";
}

/// Gemma's vocabulary in a GGUF file, where the converter has made <mask> and <unusedN> control
/// pieces, against tokenizer.model in a folder, where they are user-defined: the same ids for text
/// that spells none of them.
TEST(TokenizerGguf, GemmasIdsEqualItsFolders) {
  APUD_REQUIRE_MODEL("gemma3-270m.gguf");
  APUD_REQUIRE_MODEL("embeddinggemma-300m");
  auto gguf = load(test::models_dir() / "gemma3-270m.gguf");
  auto folder = load(test::models_dir() / "embeddinggemma-300m");
  auto lines_equal = [&](const std::string& text) {
    size_t differ = 0;
    for (size_t begin = 0; begin < text.size();) {
      size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
      std::string line = text.substr(begin, end - begin);
      begin = end;
      auto ids = gguf->encode(line);
      for (int32_t id : ids) EXPECT_FALSE(gguf->is_control(id)) << "id " << id << " in: " << line;
      if (spells_converted(line)) continue;
      if (ids != folder->encode(line) && ++differ <= 3) ADD_FAILURE() << "ids differ: " << line;
    }
    EXPECT_EQ(differ, 0u);
  };
  for (const auto& c : Golden("embeddinggemma").json["cases"]) lines_equal(c["text"]);
  test::MixedText text(kData / "seed.txt");
  for (int i = 0; i < 84; ++i) lines_equal(text.raw(i));  // ill-formed text as well
  for (const char* content : {"<mask>", "<unused7>", "<start_of_turn>", "<bos>", "[multimodal]"}) {
    for (int32_t id : gguf->encode(content)) EXPECT_FALSE(gguf->is_control(id)) << content;
  }
}

}  // namespace
}  // namespace apud
