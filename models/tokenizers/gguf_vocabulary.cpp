// Tokenizers from the key table of a GGUF file.
#include <bit>
#include <cstring>

#include "base/error.h"
#include "models/gguf.h"
#include "models/tokenizers/bpe.h"
#include "models/tokenizers/sentencepiece_tokenizer.h"

namespace apud {
namespace {

constexpr const char* kTokens = "tokenizer.ggml.tokens";

class GgufVocabulary {
 public:
  explicit GgufVocabulary(const GgufFile& file) : file_(file) {
    const GgufValue& tokens = array(kTokens, GgufType::kString);
    tokens_ = &tokens.array_strings;
    // Ids are 32-bit and every piece is copied: both stay far below their limits at 4 Mi tokens.
    if (tokens.count == 0 || tokens.count > (1u << 22)) {
      throw bad(kTokens, std::to_string(tokens.count) + " entries, expected 1 to 4194304");
    }
    for (size_t i = 0; i < tokens_->size(); ++i) {
      if ((*tokens_)[i].size() > 65536) {
        throw bad(kTokens, "entry " + std::to_string(i) + " has " +
                               std::to_string((*tokens_)[i].size()) +
                               " bytes, expected at most 65536");
      }
    }
  }

  size_t size() const { return tokens_->size(); }
  std::string_view token(size_t i) const { return (*tokens_)[i]; }

  std::vector<TokenKind> kinds() const {
    const char* key = "tokenizer.ggml.token_type";
    const GgufValue& value = same_length(key, GgufType::kI32);
    std::vector<TokenKind> kinds(size());
    for (size_t i = 0; i < size(); ++i) {
      int32_t kind;
      std::memcpy(&kind, value.array_bytes.data() + 4 * i, 4);
      if (kind < 1 || kind > 6) {
        throw bad(key, "entry " + std::to_string(i) + " is " + std::to_string(kind) +
                           ", expected 1 to 6");
      }
      kinds[i] = static_cast<TokenKind>(kind);
    }
    return kinds;
  }

  std::vector<float> scores() const {
    const GgufValue& value = same_length("tokenizer.ggml.scores", GgufType::kF32);
    std::vector<float> scores(size());
    std::memcpy(scores.data(), value.array_bytes.data(), 4 * size());
    return scores;
  }

  std::vector<std::pair<std::string, std::string>> merges() const {
    const char* key = "tokenizer.ggml.merges";
    const GgufValue& value = array(key, GgufType::kString);
    std::vector<std::pair<std::string, std::string>> merges;
    merges.reserve(value.array_strings.size());
    for (std::string_view text : value.array_strings) {
      // Byte-level tokens hold no space, so exactly one space separates the halves.
      size_t space = text.find(' ');
      if (space == std::string_view::npos || space == 0 || space + 1 == text.size() ||
          text.find(' ', space + 1) != std::string_view::npos) {
        throw bad(key, "entry " + std::to_string(merges.size()) + " is '" + std::string(text) +
                           "', expected two tokens with one space between");
      }
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
    return merges;
  }

  std::optional<int32_t> id(const char* key) const {
    auto value = file_.get_unsigned(key, 0, size() - 1);
    if (!value) return std::nullopt;
    return static_cast<int32_t>(*value);
  }

  /// Roles of a vocabulary whose entries of kinds control, unknown and user-defined are added
  /// tokens.
  TokenRoles roles(const std::vector<TokenKind>& kinds, bool add_bos) const {
    TokenRoles roles;
    roles.control.resize(size());
    for (size_t i = 0; i < size(); ++i) {
      TokenKind kind = kinds[i];
      if (kind == TokenKind::kControl || kind == TokenKind::kUnknown) roles.control[i] = 1;
      if (kind == TokenKind::kControl || kind == TokenKind::kUnknown ||
          kind == TokenKind::kUserDefined) {
        roles.added.push_back({std::string(token(i)), static_cast<int32_t>(i)});
      }
    }
    roles.bos = id("tokenizer.ggml.bos_token_id");
    roles.eos = id("tokenizer.ggml.eos_token_id");
    for (const char* key : {"tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id",
                            "tokenizer.ggml.seperator_token_id"}) {
      id(key);  // only its range matters here
    }
    for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
      if (auto stop = id(key)) roles.stop.push_back(*stop);
    }
    roles.add_bos = file_.get_bool("tokenizer.ggml.add_bos_token").value_or(add_bos);
    roles.add_eos = file_.get_bool("tokenizer.ggml.add_eos_token").value_or(false);
    finish_stop_tokens(roles);
    return roles;
  }

  Error bad(std::string_view key, const std::string& what) const {
    return Error(ErrorKind::kBadData, file_.name() + ": " + std::string(key) + ": " + what);
  }

 private:
  const GgufValue& array(const char* key, GgufType element) const {
    const GgufValue* value = file_.find(key);
    if (!value) throw bad(key, "absent");
    if (value->type != GgufType::kArray || value->element != element) {
      throw bad(key, std::string("expected an array of ") +
                         (element == GgufType::kString ? "strings"
                          : element == GgufType::kI32  ? "32-bit integers"
                                                       : "32-bit floats"));
    }
    return *value;
  }
  const GgufValue& same_length(const char* key, GgufType element) const {
    const GgufValue& value = array(key, element);
    if (value.count != size() || value.array_bytes.size() != 4 * size()) {
      throw bad(key, std::to_string(value.count) + " entries, expected " + std::to_string(size()) +
                         ", one for each token");
    }
    return value;
  }

  const GgufFile& file_;
  const std::vector<std::string_view>* tokens_;
};

std::unique_ptr<Tokenizer> make_bpe(const GgufFile& file) {
  GgufVocabulary vocabulary(file);
  std::string_view name = file.require_string("tokenizer.ggml.pre");
  auto pretokenizer = pretokenizer_by_name(name);
  if (!pretokenizer) {
    throw Error(ErrorKind::kBadData, file.name() + ": tokenizer.ggml.pre: unknown pre-tokeniser '" +
                                         std::string(name) +
                                         "', expected qwen2, smollm, llama-bpe or gpt-2");
  }
  BpeSource source;
  source.file = file.name();
  for (size_t i = 0; i < vocabulary.size(); ++i) source.tokens.emplace_back(vocabulary.token(i));
  source.kinds = vocabulary.kinds();
  source.merges = vocabulary.merges();
  source.pretokenizer = *pretokenizer;
  // GGUF names neither; both follow from the family's tokenizer.json.
  source.nfc = *pretokenizer == PreTokenizerKind::kQwen2;
  source.ignore_merges = *pretokenizer == PreTokenizerKind::kLlama3;
  source.roles = vocabulary.roles(source.kinds, *pretokenizer == PreTokenizerKind::kLlama3);
  return std::make_unique<BpeTokenizer>(std::move(source));
}

/// A SentencePiece vocabulary as the converter of GGUF files leaves it: piece types changed, no
/// normaliser, spaces in user-defined pieces. What cannot be read off is filled in by rule.
std::unique_ptr<Tokenizer> make_sentencepiece(const GgufFile& file) {
  GgufVocabulary vocabulary(file);
  SentencePieceSource source;
  source.file = file.name();
  auto kinds = vocabulary.kinds();
  auto scores = vocabulary.scores();
  auto unknown = vocabulary.id("tokenizer.ggml.unknown_token_id");
  if (!unknown) throw vocabulary.bad("tokenizer.ggml.unknown_token_id", "absent");
  for (size_t i = 0; i < kinds.size(); ++i) {
    // Which piece is the unknown one, the key says; Gemma's marks are special in its configuration.
    bool mark = vocabulary.token(i) == "<start_of_image>" ||
                vocabulary.token(i) == "<end_of_image>" ||
                vocabulary.token(i) == "<start_of_turn>" ||
                vocabulary.token(i) == "<end_of_turn>" || vocabulary.token(i) == "[multimodal]";
    if (kinds[i] == TokenKind::kUnknown || mark) kinds[i] = TokenKind::kControl;
  }
  source.roles = vocabulary.roles(kinds, true);
  // User-defined pieces (runs of line ends and spaces) come from content as well.
  std::erase_if(source.roles.added, [&](const AddedToken& token) {
    return kinds[token.id] == TokenKind::kUserDefined;
  });
  kinds[*unknown] = TokenKind::kUnknown;
  source.model.algorithm = SentencePieceModel::kBpe;
  source.model.byte_fallback = true;
  source.model.add_dummy_prefix = file.get_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  source.model.remove_extra_whitespaces = false;
  for (size_t i = 0; i < vocabulary.size(); ++i) {
    std::string text(vocabulary.token(i));
    if (kinds[i] == TokenKind::kUserDefined) {
      for (size_t at = text.find(' '); at != std::string::npos; at = text.find(' ', at)) {
        text.replace(at, 1, "\xE2\x96\x81");
      }
    }
    source.model.pieces.push_back({std::move(text), scores[i], kinds[i]});
  }
  return std::make_unique<SentencePieceTokenizer>(std::move(source));
}

}  // namespace

std::unique_ptr<Tokenizer> make_gguf_tokenizer(const GgufFile& file) {
  static_assert(std::endian::native == std::endian::little, "GGUF arrays are read as they stand");
  std::string_view model = file.require_string("tokenizer.ggml.model");
  if (model == "gpt2") return make_bpe(file);
  if (model == "llama") return make_sentencepiece(file);
  throw Error(ErrorKind::kBadData, file.name() + ": tokenizer.ggml.model: unknown tokenizer '" +
                                       std::string(model) + "', expected gpt2 or llama");
}

}  // namespace apud
