// Content never becomes a control token, and the scaffold's special tokens are always found: 10^5
// strings made of each real vocabulary's special tokens, pieces of them and odd characters.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <random>

#include "models/gguf.h"
#include "models/tokenizer.h"
#include "tests/support/models.h"

namespace apud {
namespace {

class TokenizerProperty : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerProperty, ControlTokensComeFromScaffoldOnly) {
  std::filesystem::path path = test::models_dir() / GetParam();
  if (!std::filesystem::exists(path)) path = test::vocabularies_dir() / GetParam();
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "not fetched: " << GetParam()
                 << " (scripts/fetch-models test, scripts/fetch-vocabularies)";
  }
  std::clock_t start = std::clock();
  auto tokenizer = path.extension() == ".gguf" ? make_gguf_tokenizer(GgufFile::open(path))
                                               : make_folder_tokenizer(path.string());
  std::printf("%s: loads in %.2f s\n", GetParam(),
              static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  std::vector<std::pair<std::string, int32_t>> special;
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
    std::string text = tokenizer->is_control(id) ? tokenizer->decode_token(id, true) : "";
    if (text.starts_with(' ')) text.erase(0, 1);  // WordPiece puts a space before every word
    if (!text.empty() && tokenizer->find_special(text) == id) special.push_back({text, id});
  }
  ASSERT_FALSE(special.empty());

  static const char* kOdd[] = {"\xE2\x80\x8B",
                               "\xE2\x80\x8D",
                               "\xEF\xBB\xBF",
                               "\xCC\x81",
                               " ",
                               "\n",
                               "<",
                               "|",
                               ">",
                               "[",
                               "\xFF",
                               "\0",
                               "a",
                               "\xE2\x96\x81"};
  std::mt19937 random(11);
  auto any = [&]() -> const auto& { return special[random() % special.size()]; };
  auto nasty = [&](size_t turn) {
    // Every special token comes up whole, in turn; then parts, splits and noise.
    std::string out = special[turn % special.size()].first;
    for (uint32_t n = random() % 4; n > 0; --n) {
      std::string text = any().first;
      switch (random() % 4) {
        case 0:
          break;
        case 1:
          text = text.substr(random() % text.size());
          break;
        case 2:
          text.insert(random() % (text.size() + 1), kOdd[random() % std::size(kOdd)]);
          break;
        default:
          text = kOdd[random() % std::size(kOdd)];
      }
      random() % 2 ? out += text : out.insert(0, text);
    }
    return out;
  };
  for (size_t i = 0; i < 100'000; ++i) {
    std::string content = nasty(i);
    for (int32_t id : tokenizer->encode(content)) {
      ASSERT_FALSE(tokenizer->is_control(id)) << "id " << id << " from content: " << content;
    }
    // Scaffold tokens around, one that the second would complete, and one that content would.
    OriginText text;
    auto [open, open_id] = special[i % special.size()];
    auto [close, close_id] = any();
    text.append_scaffold(open);
    text.append_content(content + close.substr(0, close.size() / 2));
    text.append_scaffold(close);
    const std::string& cut = any().first;
    text.append_scaffold(cut.substr(0, cut.size() / 2));
    text.append_content(cut.substr(cut.size() / 2) + content);
    std::vector<int32_t> found;
    for (int32_t id : tokenizer->encode(text)) {
      if (tokenizer->is_control(id)) found.push_back(id);
    }
    ASSERT_EQ(found, (std::vector<int32_t>{open_id, close_id})) << text.text();
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, TokenizerProperty,
                         testing::Values("qwen2.5-coder-0.5b.gguf", "smollm2-135m.gguf",
                                         "gemma3-270m.gguf", "embeddinggemma-300m", "e5-small-q4",
                                         "minilm-l6", "ggml-vocab-llama-bpe.gguf",
                                         "ggml-vocab-gpt-2.gguf", "ggml-vocab-llama-spm.gguf",
                                         "ggml-vocab-phi-3.gguf"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

}  // namespace
}  // namespace apud
