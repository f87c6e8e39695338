#include "models/tokenizers/tokenizer_json.h"

#include <algorithm>

#include "base/utf8.h"
#include "models/tokenizers/bpe.h"

namespace apud {
namespace {

using nlohmann::json;

constexpr size_t kMaxTokens = 1u << 22;

class Reader {
 public:
  Reader(const json& root, std::string name) : root_(root), name_(std::move(name)) {
    if (!root_.is_object()) bad("top level", "expected an object");
  }

  BpeSource read(const json& config) {
    const json& model = object(root_, "model");
    std::string type = string(model, "type", "BPE");
    if (type != "BPE") {
      bad("model.type",
          "'" + type +
              "' is not supported, expected BPE (vocab.txt and tokenizer.model are read directly)");
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix", "unk_token"}) {
      auto found = model.find(key);
      if (found != model.end() && found->is_string() &&
          !found->get_ref<const std::string&>().empty()) {
        bad(std::string("model.") + key,
            "'" + found->get<std::string>() + "' is not used by byte-level BPE");
      }
    }
    if (boolean(model, "byte_fallback")) bad("model.byte_fallback", "expected false");
    source_.file = name_;
    source_.ignore_merges = boolean(model, "ignore_merges");
    vocabulary(model);
    merges(model);
    added_tokens();
    normalizer();
    pretokenizer();
    roles(config);
    return std::move(source_);
  }

 private:
  [[noreturn]] void bad(const std::string& field, const std::string& what) const {
    throw Error(ErrorKind::kBadData, name_ + ": " + field + ": " + what);
  }
  const json& object(const json& parent, const char* key) const {
    auto found = parent.find(key);
    if (found == parent.end() || !found->is_object()) bad(key, "expected an object");
    return *found;
  }
  std::string string(const json& parent, const char* key, const char* otherwise) const {
    auto found = parent.find(key);
    if (found == parent.end() || found->is_null()) return otherwise;
    if (!found->is_string()) bad(key, "expected a string");
    return found->get<std::string>();
  }
  bool boolean(const json& parent, const char* key, bool otherwise = false) const {
    auto found = parent.find(key);
    if (found == parent.end() || found->is_null()) return otherwise;
    if (!found->is_boolean()) bad(key, "expected true or false");
    return found->get<bool>();
  }

  /// Puts a token at its id; ids may come in any order, every id once.
  void place(const json& id_value, const std::string& text, TokenKind kind, const char* field) {
    if (!id_value.is_number_integer()) bad(field, "id of '" + text + "' is not an integer");
    int64_t id = id_value.is_number_unsigned() && id_value.get<uint64_t>() > INT64_MAX
                     ? -1
                     : id_value.get<int64_t>();
    if (id < 0 || id >= static_cast<int64_t>(kMaxTokens)) {
      bad(field, "id of '" + text + "' is " + id_value.dump() + ", expected 0 to 4194303");
    }
    size_t at = static_cast<size_t>(id);
    if (at >= source_.tokens.size()) {
      source_.tokens.resize(at + 1);
      source_.kinds.resize(at + 1, TokenKind::kUnused);
      used_.resize(at + 1);
    }
    if (used_[at] && source_.tokens[at] != text) {
      bad(field, "id " + std::to_string(id) + " is given to '" + source_.tokens[at] + "' and '" +
                     text + "'");
    }
    used_[at] = 1;
    source_.tokens[at] = text;
    source_.kinds[at] = kind;
  }

  void vocabulary(const json& model) {
    const json& vocab = object(model, "vocab");
    for (const auto& [text, id] : vocab.items()) {
      if (text.size() > 65536) bad("model.vocab", "token of more than 64 KiB");
      place(id, text, TokenKind::kNormal, "model.vocab");
    }
    // Ids may have gaps, but not so many that the table is mostly empty.
    if (source_.tokens.size() > 2 * vocab.size() + 65536)
      bad("model.vocab", "ids with too many gaps");
  }

  void merges(const json& model) {
    auto found = model.find("merges");
    if (found == model.end() || !found->is_array()) bad("model.merges", "expected an array");
    for (const json& merge : *found) {
      if (merge.is_string()) {
        const std::string& text = merge.get_ref<const std::string&>();
        size_t space = text.find(' ');
        if (space == std::string::npos || space == 0 || space + 1 == text.size() ||
            text.find(' ', space + 1) != std::string::npos) {
          bad("model.merges", "'" + text + "', expected two tokens with one space between");
        }
        source_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        source_.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      } else {
        bad("model.merges",
            "entry " + std::to_string(source_.merges.size()) + " is neither a string nor a pair");
      }
    }
  }

  void added_tokens() {
    auto found = root_.find("added_tokens");
    if (found == root_.end()) return;
    if (!found->is_array()) bad("added_tokens", "expected an array");
    for (const json& token : *found) {
      if (!token.is_object()) bad("added_tokens", "expected objects");
      std::string text = string(token, "content", "");
      bool special = boolean(token, "special");
      if (boolean(token, "single_word"))
        bad("added_tokens", "single_word of '" + text + "' is not supported");
      auto id = token.find("id");
      if (id == token.end()) bad("added_tokens", "'" + text + "' has no id");
      place(*id, text, special ? TokenKind::kControl : TokenKind::kUserDefined, "added_tokens");
      source_.roles.added.push_back(
          {text, id->get<int32_t>(), boolean(token, "lstrip"), boolean(token, "rstrip")});
    }
  }

  void normalizer() {
    auto found = root_.find("normalizer");
    if (found == root_.end() || found->is_null()) return;
    std::string type = found->is_object() ? string(*found, "type", "") : "";
    if (type == "NFC") {
      source_.nfc = true;
    } else if (type != "Sequence" || !found->contains("normalizers") ||
               !(*found)["normalizers"].empty()) {
      bad("normalizer", "'" + type + "' is not supported, expected NFC or none");
    }
  }

  void pretokenizer() {
    auto found = root_.find("pre_tokenizer");
    if (found == root_.end() || !found->is_object()) bad("pre_tokenizer", "expected an object");
    std::vector<const json*> steps;
    if (string(*found, "type", "") == "Sequence") {
      auto list = found->find("pretokenizers");
      if (list == found->end() || !list->is_array())
        bad("pre_tokenizer.pretokenizers", "expected an array");
      for (const json& step : *list) {
        if (!step.is_object()) bad("pre_tokenizer.pretokenizers", "expected objects");
        steps.push_back(&step);
      }
    } else {
      steps.push_back(&*found);
    }
    if (steps.empty() || string(*steps.back(), "type", "") != "ByteLevel") {
      bad("pre_tokenizer", "expected ByteLevel as the last step");
    }
    const json& bytes = *steps.back();
    if (boolean(bytes, "add_prefix_space", true))
      bad("pre_tokenizer.add_prefix_space", "expected false");
    bool regex = boolean(bytes, "use_regex", true);
    if (steps.size() == 1 && regex) {
      source_.pretokenizer = PreTokenizerKind::kGpt2;
    } else if (steps.size() == 2 && regex && string(*steps[0], "type", "") == "Digits" &&
               boolean(*steps[0], "individual_digits")) {
      source_.pretokenizer = PreTokenizerKind::kSmollm;
    } else if (steps.size() == 2 && !regex && string(*steps[0], "type", "") == "Split") {
      const json& pattern = object(*steps[0], "pattern");
      std::string text = string(pattern, "Regex", "");
      auto kind = pretokenizer_by_regex(text);
      if (!kind)
        bad("pre_tokenizer.pattern", "unknown regular expression '" + text.substr(0, 200) + "'");
      if (string(*steps[0], "behavior", "") != "Isolated" || boolean(*steps[0], "invert")) {
        bad("pre_tokenizer.behavior", "expected Isolated, not inverted");
      }
      source_.pretokenizer = *kind;
    } else {
      std::string names;
      for (const json* step : steps) names += " " + string(*step, "type", "?");
      bad("pre_tokenizer", "unknown combination:" + names);
    }
  }

  /// BOS and EOS: named by tokenizer_config.json, added where the post-processor has them.
  void roles(const json& config) {
    TokenRoles& roles = source_.roles;
    roles.control.resize(source_.tokens.size());
    for (size_t i = 0; i < source_.kinds.size(); ++i)
      roles.control[i] = source_.kinds[i] == TokenKind::kControl;
    auto id_of = [&](const char* key) -> std::optional<int32_t> {
      auto found = config.find(key);
      if (found == config.end()) return std::nullopt;
      const json& text =
          found->is_object() && found->contains("content") ? (*found)["content"] : *found;
      for (const AddedToken& token : roles.added) {
        if (text.is_string() && token.text == text.get_ref<const std::string&>()) return token.id;
      }
      return std::nullopt;
    };
    roles.bos = id_of("bos_token");
    roles.eos = id_of("eos_token");
    auto post = root_.find("post_processor");
    std::string text =
        post != root_.end() ? post->dump(-1, ' ', false, json::error_handler_t::replace) : "";
    auto adds = [&](const std::optional<int32_t>& id) {
      return id && text.find("TemplateProcessing") != std::string::npos &&
             text.find("{\"SpecialToken\":{\"id\":" + json(source_.tokens[*id]).dump()) !=
                 std::string::npos;
    };
    roles.add_bos = adds(roles.bos);
    roles.add_eos = adds(roles.eos);
    finish_stop_tokens(roles);
  }

  const json& root_;
  std::string name_;
  BpeSource source_;
  std::vector<char> used_;
};

}  // namespace

std::unique_ptr<Tokenizer> parse_json_tokenizer(std::string_view bytes, const std::string& name,
                                                const json& config) {
  json root = parse_json<json>(bytes, name);
  return std::make_unique<BpeTokenizer>(Reader(root, name).read(config));
}

std::unique_ptr<Tokenizer> make_json_tokenizer(const Path& path, const json& config) {
  return parse_json_tokenizer(read_file(path, 256u << 20), path.string(), config);
}

}  // namespace apud
