// Tokenizers of Hugging Face folders: sentencepiece.bpe.model (XLM-R), tokenizer.model, vocab.txt
// (BERT), else tokenizer.json.
#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "models/tokenizers/json.h"
#include "models/tokenizers/sentencepiece_tokenizer.h"
#include "models/tokenizers/tokenizer_json.h"
#include "models/tokenizers/wordpiece.h"

namespace apud {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxConfig = 64u << 20;
constexpr uint64_t kMaxVocabulary = 256u << 20;

json read_config(const Path& path) {
  auto text = read_file_if_exists(path, kMaxConfig);
  if (!text) return json::object();
  json config = parse_json<json>(*text, path.string());
  if (!config.is_object()) throw Error(ErrorKind::kBadData, path.string() + ": expected an object");
  return config;
}

/// A token's text: a string, or an object with "content".
std::string token_text(const json& config, const char* key) {
  auto found = config.find(key);
  if (found == config.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) {
    return (*found)["content"].get<std::string>();
  }
  return {};
}

bool flag(const json& config, const char* key, bool otherwise) {
  auto found = config.find(key);
  return found != config.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

std::unique_ptr<Tokenizer> make_xlm_r(const Path& path) {
  SentencePieceSource source;
  source.file = path.string();
  source.model = parse_sentencepiece_model(read_file(path, kMaxVocabulary), source.file);
  source.fairseq = true;
  int32_t mask = static_cast<int32_t>(source.model.pieces.size()) + 1;
  source.roles.control.resize(static_cast<size_t>(mask) + 1);
  const std::pair<const char*, int32_t> tokens[] = {
      {"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}, {"<mask>", mask}};
  for (auto [text, id] : tokens) {
    source.roles.added.push_back({text, id});
    if (id != 3) source.roles.control[id] = 1;  // text may hold what the vocabulary does not know
  }
  source.roles.bos = 0;
  source.roles.eos = 2;
  source.roles.add_bos = source.roles.add_eos = true;
  finish_stop_tokens(source.roles);
  return std::make_unique<SentencePieceTokenizer>(std::move(source));
}

std::unique_ptr<Tokenizer> make_sentencepiece(const Path& path, const json& config) {
  SentencePieceSource source;
  source.file = path.string();
  source.model = parse_sentencepiece_model(read_file(path, kMaxVocabulary), source.file);
  auto& pieces = source.model.pieces;
  source.roles.control.resize(pieces.size());
  // What the configuration calls special is control, whatever the vocabulary says.
  auto added = config.find("added_tokens_decoder");
  if (added != config.end() && added->is_object()) {
    for (const auto& [key, token] : added->items()) {
      bool digits =
          !key.empty() && key.size() < 10 &&
          std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; });
      size_t id = digits ? std::stoul(key) : SIZE_MAX;
      if (id >= pieces.size() || !token.is_object()) continue;  // beyond the model's own vocabulary
      if (flag(token, "special", false) && token_text(token, "content") == pieces[id].text &&
          pieces[id].kind != TokenKind::kUnknown) {
        pieces[id].kind = TokenKind::kControl;
      }
    }
  }
  std::string bos = token_text(config, "bos_token"), eos = token_text(config, "eos_token");
  for (size_t i = 0; i < pieces.size(); ++i) {
    int32_t id = static_cast<int32_t>(i);
    // Turn marks are special in every chat model, listed or not.
    if (pieces[i].text == "<start_of_turn>" || pieces[i].text == "<end_of_turn>") {
      pieces[i].kind = TokenKind::kControl;
    }
    if (pieces[i].kind == TokenKind::kControl) {
      source.roles.control[i] = 1;
      source.roles.added.push_back({pieces[i].text, id});
    }
    if (!bos.empty() && pieces[i].text == bos) source.roles.bos = id;
    if (!eos.empty() && pieces[i].text == eos) source.roles.eos = id;
  }
  source.roles.add_bos = flag(config, "add_bos_token", true) && source.roles.bos;
  source.roles.add_eos = flag(config, "add_eos_token", false) && source.roles.eos;
  finish_stop_tokens(source.roles);
  return std::make_unique<SentencePieceTokenizer>(std::move(source));
}

std::unique_ptr<Tokenizer> make_bert(const Path& path, const json& config) {
  WordPieceSource source;
  source.file = path.string();
  std::string text = read_file(path, kMaxVocabulary);
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.find('\n', begin), text.size());
    std::string token = text.substr(begin, end - begin);
    if (token.ends_with('\r')) token.pop_back();
    source.tokens.push_back(std::move(token));
    begin = end + 1;
  }
  source.lowercase = flag(config, "do_lower_case", true);
  source.roles.control.resize(source.tokens.size());
  for (size_t i = 0; i < source.tokens.size(); ++i) {
    const std::string& token = source.tokens[i];
    if (token != "[PAD]" && token != "[UNK]" && token != "[CLS]" && token != "[SEP]" &&
        token != "[MASK]")
      continue;
    int32_t id = static_cast<int32_t>(i);
    source.roles.added.push_back({token, id});
    if (token != "[UNK]") source.roles.control[i] = 1;
    if (token == "[CLS]") source.roles.bos = id;
    if (token == "[SEP]") source.roles.eos = id;
  }
  source.roles.add_bos = source.roles.add_eos = true;
  finish_stop_tokens(source.roles);
  return std::make_unique<WordPieceTokenizer>(std::move(source));
}

}  // namespace

std::unique_ptr<Tokenizer> make_folder_tokenizer(const std::string& folder) {
  Path base(folder);
  json config = read_config(base / "tokenizer_config.json");
  std::error_code ignored;
  auto has = [&](const char* name) { return std::filesystem::exists(base / name, ignored); };
  if (has("sentencepiece.bpe.model")) return make_xlm_r(base / "sentencepiece.bpe.model");
  if (has("tokenizer.model")) return make_sentencepiece(base / "tokenizer.model", config);
  if (has("vocab.txt")) return make_bert(base / "vocab.txt", config);
  if (has("tokenizer.json")) return make_json_tokenizer(base / "tokenizer.json", config);
  throw Error(
      ErrorKind::kNoInput, folder + ": no tokenizer",
      "the folder needs tokenizer.model, sentencepiece.bpe.model, tokenizer.json or vocab.txt");
}

}  // namespace apud
