#include "models/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <mutex>

#include "base/error.h"
#include "base/hash.h"
#include "models/arch/arch.h"
#include "models/arch/json.h"

namespace apud {

namespace {

// The part of a fingerprint that stands for the weights: their header whole, and this many pieces
// of the data, evenly spaced, the last one at its end.
constexpr size_t kSamples = 64;
constexpr size_t kSampleBytes = 4096;

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string sample_weights(std::span<const std::byte> file, size_t data_begin) {
  std::string summary =
      fmt::format("{} {}", file.size(), xxh3_128_hex(text_of(file.first(data_begin))));
  std::string sampled;
  std::span<const std::byte> data = file.subspan(data_begin);
  size_t piece = std::min(kSampleBytes, data.size());
  for (size_t i = 0; i < kSamples && piece > 0; ++i) {
    sampled += text_of(data.subspan((data.size() - piece) / (kSamples - 1) * i, piece));
  }
  if (piece > 0) sampled += text_of(data.last(piece));
  return summary + " " + xxh3_128_hex(sampled);
}

/// What both kinds of file share. Tokenizer and template are made at their first use: a start that
/// needs only the weights does not pay for a vocabulary of 262,144 pieces.
class LoadedModel : public Model {
 public:
  const ModelConfig& config() const override { return arch_.model; }
  const Program& program() const override { return loaded_.program; }
  const Weights& weights() const override { return loaded_.weights; }
  const Path& path() const override { return path_; }
  uint64_t file_bytes() const override { return file_bytes_; }
  const std::string& fingerprint() const override { return fingerprint_; }

  const Tokenizer& tokenizer() const override {
    std::call_once(tokenizer_once_, [this] { tokenizer_ = make_tokenizer(); });
    return *tokenizer_;
  }
  const ChatTemplate* chat_template() const override {
    std::call_once(template_once_, [this] { template_ = make_template(); });
    return template_ ? &*template_ : nullptr;
  }

  std::string quantisation() const override {
    std::array<int64_t, kWeightTypeCount> values{};
    int64_t total = 0;
    source_->for_each([&](const WeightView& view) {
      values[static_cast<size_t>(view.type)] += view.rows * view.cols;
      total += view.rows * view.cols;
    });
    std::vector<size_t> order;
    for (size_t i = 0; i < values.size(); ++i) {
      // Norms and biases are floats in every file; they say nothing about it.
      if (values[i] * 200 > total) order.push_back(i);
    }
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return values[a] > values[b]; });
    std::string text;
    for (size_t i : order) {
      std::string name = weight_type_name(static_cast<WeightType>(i));
      for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      if (order.size() == 1) return name;
      text += fmt::format("{}{} {:.0f} %", text.empty() ? "" : ", ", name,
                          100.0 * static_cast<double>(values[i]) / static_cast<double>(total));
    }
    return text;
  }

 protected:
  explicit LoadedModel(const Path& path) : path_(path) {}
  virtual std::unique_ptr<Tokenizer> make_tokenizer() const = 0;
  virtual std::optional<ChatTemplate> make_template() const = 0;

  void build() { loaded_ = build_program(arch_, *source_); }
  void set_fingerprint(const std::string& summary) {
    std::string rope = arch_.model.rope_scaling;
    // Long rope picks its factors by the context: another choice makes other keys.
    for (float factor : arch_.model.rope_factors) rope += fmt::format(" {}", factor);
    fingerprint_ = xxh3_128_hex(fmt::format("apud model 1\n{}\n{}", summary, rope));
  }

  Path path_;
  ArchConfig arch_;
  std::unique_ptr<TensorSource> source_;
  LoadedProgram loaded_;
  uint64_t file_bytes_ = 0;
  std::string fingerprint_;

 private:
  mutable std::once_flag tokenizer_once_, template_once_;
  mutable std::unique_ptr<Tokenizer> tokenizer_;
  mutable std::optional<ChatTemplate> template_;
};

class GgufModel : public LoadedModel {
 public:
  GgufModel(const Path& path, const ModelOptions& options)
      : LoadedModel(path), file_(GgufFile::open(path)) {
    arch_ = config_from_gguf(file_, options.context);
    source_ = make_gguf_source(file_);
    build();
    if (arch_.model.name.empty()) arch_.model.name = path.stem().string();
    file_bytes_ = file_.bytes().size();
    set_fingerprint(sample_weights(file_.bytes(), file_.data_begin()));
  }

 private:
  std::unique_ptr<Tokenizer> make_tokenizer() const override { return make_gguf_tokenizer(file_); }

  std::optional<ChatTemplate> make_template() const override {
    auto source = file_.get_string("tokenizer.chat_template");
    if (!source) return std::nullopt;
    return ChatTemplate(std::string(*source), token("tokenizer.ggml.bos_token_id"),
                        token("tokenizer.ggml.eos_token_id"));
  }

  /// Text of the token that a key names, empty without the key.
  std::string token(const char* key) const {
    const GgufValue* tokens = file_.find("tokenizer.ggml.tokens");
    if (!tokens || tokens->array_strings.empty()) return {};
    auto id = file_.get_unsigned(key, 0, tokens->array_strings.size() - 1);
    return id ? std::string(tokens->array_strings[*id]) : std::string();
  }

  GgufFile file_;
};

class FolderModel : public LoadedModel {
 public:
  FolderModel(const Path& path, const ModelOptions& options) : LoadedModel(path) {
    arch_ = config_from_folder(path, options.context);
    auto tensors = std::make_unique<FolderTensors>(path, arch_.extra_files);
    std::string summary;
    for (const FolderTensors::File& file : tensors->files()) {
      summary += sample_weights(file.bytes, file.data_begin) + "\n";
      file_bytes_ += file.bytes.size();
    }
    source_ = std::move(tensors);
    build();
    add_small_files(path, summary);
    set_fingerprint(summary);
  }

 private:
  /// Configuration, vocabulary and template, by name and content.
  void add_small_files(const Path& folder, std::string& summary) {
    std::vector<Path> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      static constexpr std::array kinds = {".json", ".txt", ".model", ".jinja"};
      std::string kind = entry.path().extension().string();
      bool wanted = std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
      if (wanted && entry.is_regular_file()) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const Path& file : files) {
      MappedFile map(file);
      file_bytes_ += map.size();
      summary += file.filename().string() + " " + xxh3_128_hex(text_of(map.bytes())) + "\n";
    }
  }

  std::unique_ptr<Tokenizer> make_tokenizer() const override {
    return make_folder_tokenizer(path_.string());
  }

  std::optional<ChatTemplate> make_template() const override {
    auto config = JsonObject::read_if_exists(path_ / "tokenizer_config.json");
    auto source = read_file_if_exists(path_ / "chat_template.jinja", 16 << 20);
    if (!source && config) source = config->get_string("chat_template");
    if (!source) return std::nullopt;
    return ChatTemplate(*source, token(config, "bos_token"), token(config, "eos_token"));
  }

  /// A token is given as its text, or as an object with its text as `content`.
  static std::string token(const std::optional<JsonObject>& config, const char* key) {
    if (!config || !config->has(key)) return {};
    if (config->value()[key].is_object()) return config->object(key)->require_string("content");
    return config->get_string(key).value_or("");
  }
};

}  // namespace

std::shared_ptr<const Model> load_model(const Path& path, const ModelOptions& options) {
  std::error_code ignored;
  auto status = std::filesystem::status(path, ignored);
  if (!std::filesystem::exists(status)) {
    throw Error(ErrorKind::kNoInput, "no model at " + path.string(),
                "apud model list shows what is there");
  }
  if (std::filesystem::is_directory(status)) return std::make_shared<FolderModel>(path, options);
  return std::make_shared<GgufModel>(path, options);
}

}  // namespace apud
