// Hyperparameters of Hugging Face folders: config.json, and the sentence-transformers files beside
// it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "models/arch/arch.h"
#include "models/arch/json.h"
#include "models/arch/limits.h"

namespace apud {

namespace {

class FolderReader {
 public:
  FolderReader(const Path& folder, int context)
      : folder_(folder), json_(JsonObject::read(folder / "config.json")), context_(context) {}

  ArchConfig run() {
    config_.layout = FileLayout::kFolder;
    c_.name = (folder_.has_filename() ? folder_ : folder_.parent_path()).filename().string();
    std::string type = json_.require_string("model_type");
    bool bidirectional = json_.get_bool("use_bidirectional_attention").value_or(false);
    if (type == "gemma3_text" && bidirectional) {
      c_.architecture = "gemma-embedding";
    } else if (type == "gemma3_text") {
      c_.architecture = "gemma3";
    } else if (type == "mistral" || type == "llama") {
      c_.architecture = "llama";
    } else if (type == "bert" || type == "xlm-roberta" || type == "qwen2" || type == "qwen3" ||
               type == "gemma2" || type == "phi3") {
      c_.architecture = type;
    } else {
      json_.fail("model_type",
                 fmt::format("{} is not supported; known are llama mistral qwen2 qwen3 gemma2 "
                             "gemma3_text phi3 bert xlm-roberta",
                             type));
    }
    sizes();
    config_.encoder = type == "bert" || type == "xlm-roberta" || bidirectional;
    if (type == "bert" || type == "xlm-roberta") {
      bert();
    } else {
      decoder();
    }
    if (config_.encoder) sentence_head();
    return std::move(config_);
  }

 private:
  int number(const char* key, int64_t low, int64_t high) const {
    return static_cast<int>(json_.require_integer(key, low, high));
  }
  double positive(const JsonObject& from, const char* key, double high) const {
    double value = from.require_float(key);
    if (!(value > 0) || value > high) {
      from.fail(key, fmt::format("{}, must be above 0 and at most {}", value, high));
    }
    return value;
  }
  void from_table(const std::string& note) {
    c_.from_table.push_back(c_.architecture + ": " + note);
  }

  void sizes() {
    c_.layers = number("num_hidden_layers", 1, kMaxLayers);
    c_.width = number("hidden_size", 1, kMaxWidth);
    c_.ffn_width = number("intermediate_size", 1, kMaxFfn);
    c_.heads = number("num_attention_heads", 1, kMaxHeads);
    c_.vocab = number("vocab_size", 1, kMaxVocab);
    c_.context = number("max_position_embeddings", 1, kMaxContext);
    c_.kv_heads =
        static_cast<int>(json_.get_integer("num_key_value_heads", 1, kMaxHeads).value_or(c_.heads));
    if (c_.heads % c_.kv_heads != 0) {
      json_.fail("num_key_value_heads",
                 fmt::format("{} does not divide {} heads", c_.kv_heads, c_.heads));
    }
    auto dim = json_.get_integer("head_dim", 1, kMaxHeadDim);
    if (!dim && c_.width % c_.heads != 0) {
      json_.fail("num_attention_heads",
                 fmt::format("{} does not divide the width {}", c_.heads, c_.width));
    }
    c_.head_dim = static_cast<int>(dim.value_or(c_.width / c_.heads));
    if (c_.head_dim > kMaxHeadDim || c_.head_dim % 2 != 0) {
      json_.fail("head_dim",
                 fmt::format("{}, must be even and at most {}", c_.head_dim, kMaxHeadDim));
    }
  }

  void bert() {
    c_.norm_eps = static_cast<float>(positive(json_, "layer_norm_eps", 0.1));
    c_.attention_scale = 1 / std::sqrt(static_cast<float>(c_.head_dim));
    if (c_.kv_heads != c_.heads || c_.head_dim * c_.heads != c_.width) {
      json_.fail("num_attention_heads", "grouped heads in an encoder");
    }
    std::string position = json_.get_string("position_embedding_type").value_or("absolute");
    if (position != "absolute")
      json_.fail("position_embedding_type", position + " is not supported");
    std::string act = json_.require_string("hidden_act");
    if (act == "gelu") {
      config_.activation = Activation::kGeluErf;
    } else if (act == "gelu_new" || act == "gelu_pytorch_tanh") {
      config_.activation = Activation::kGeluTanh;
    } else {
      json_.fail("hidden_act",
                 act + " is not supported; known are gelu gelu_new gelu_pytorch_tanh");
    }
    config_.position_rows = c_.context;
    if (c_.architecture == "xlm-roberta") {
      // Positions count from the padding id on: the first token has pad + 1.
      config_.position_offset = number("pad_token_id", 0, 1000) + 1;
      c_.context -= config_.position_offset;
      if (c_.context < 1) json_.fail("max_position_embeddings", "leaves no position");
    }
  }

  void decoder() {
    c_.norm_eps = static_cast<float>(positive(json_, "rms_norm_eps", 0.1));
    bool gemma = c_.architecture.starts_with("gemma");
    std::string act = json_.get_string("hidden_activation").value_or("");
    if (act.empty())
      act = json_.get_string("hidden_act").value_or(gemma ? "gelu_pytorch_tanh" : "silu");
    // Early Gemma configurations say "gelu" and mean its tanh form (transformers' own correction).
    bool known = gemma ? act == "gelu_pytorch_tanh" || act == "gelu" : act == "silu";
    if (!known) json_.fail("hidden_act", act + " is not supported here");
    config_.activation = gemma ? Activation::kGeluTanh : Activation::kSilu;
    windows();
    ropes();
    if (gemma) {
      double scalar = positive(json_, "query_pre_attn_scalar", 1e6);
      c_.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
      if (json_.has("attn_logit_softcapping")) {
        c_.attention_softcap = static_cast<float>(positive(json_, "attn_logit_softcapping", 1e6));
      }
      if (json_.has("final_logit_softcapping")) {
        c_.logit_softcap = static_cast<float>(positive(json_, "final_logit_softcapping", 1e6));
      }
    }
    // Absent, it is transformers' default: Gemma ties, the others do not.
    c_.tied_output = json_.get_bool("tie_word_embeddings").value_or(gemma);
  }

  void windows() {
    auto window = json_.get_integer("sliding_window", 1, INT32_MAX);
    bool used = json_.get_bool("use_sliding_window").value_or(!c_.architecture.starts_with("qwen"));
    if (!window || !used) return;
    c_.window = static_cast<int>(*window);
    if (auto types = json_.get_strings("layer_types")) {
      pattern_of(*types);
    } else if (auto pattern = json_.get_integer("sliding_window_pattern", 1, kMaxLayers)) {
      c_.window_pattern = static_cast<int>(*pattern);
    } else if (c_.architecture == "gemma2") {
      c_.window_pattern = 2;
      from_table("every second layer global (Gemma 2 report, section 2)");
    } else if (c_.architecture.starts_with("gemma")) {
      c_.window_pattern = 6;
      from_table("sliding pattern 5:1 (Gemma 3 report, section 2.1)");
    } else if (c_.architecture.starts_with("qwen")) {
      json_.fail("use_sliding_window", "without layer_types is not supported");
    }
  }

  /// layer_types must be n-1 windowed layers, then one that sees all, and so on; or all of one
  /// kind.
  void pattern_of(const std::vector<std::string>& types) {
    if (types.size() != static_cast<size_t>(c_.layers)) {
      json_.fail("layer_types", fmt::format("{} entries for {} layers", types.size(), c_.layers));
    }
    auto first = std::find(types.begin(), types.end(), "full_attention");
    int period = static_cast<int>(first - types.begin()) + 1;
    c_.window_pattern = first == types.end() ? 0 : period;
    if (c_.window_pattern == 1) c_.window = 0;
    for (int i = 0; i < c_.layers; ++i) {
      bool full = c_.window_pattern > 0 && i % c_.window_pattern == c_.window_pattern - 1;
      const std::string& type = types[static_cast<size_t>(i)];
      if (type != (full ? "full_attention" : "sliding_attention")) {
        json_.fail("layer_types", fmt::format("{} at layer {} breaks the pattern", type, i));
      }
    }
  }

  void ropes() {
    double partial = json_.get_float("partial_rotary_factor").value_or(1);
    c_.rope_dim = static_cast<int>(partial * c_.head_dim);
    if (c_.rope_dim < 2 || c_.rope_dim > c_.head_dim || c_.rope_dim % 2 != 0) {
      json_.fail("partial_rotary_factor",
                 fmt::format("{} leaves {} of {}", partial, c_.rope_dim, c_.head_dim));
    }
    // transformers 5 writes rope_parameters, one object or one for each kind of layer; before,
    // there were rope_theta, rope_scaling and rope_local_base_freq.
    if (auto parameters = json_.object("rope_parameters")) {
      auto full = parameters->object("full_attention");
      if (auto local = parameters->object("sliding_attention")) {
        c_.rope_local_base = positive(*local, "rope_theta", 1e12);
      }
      const JsonObject& global = full ? *full : *parameters;
      c_.rope_base = positive(global, "rope_theta", 1e12);
      scaling(global);
      return;
    }
    c_.rope_base = positive(json_, "rope_theta", 1e12);
    if (json_.has("rope_local_base_freq"))
      c_.rope_local_base = positive(json_, "rope_local_base_freq", 1e12);
    if (auto object = json_.object("rope_scaling")) scaling(*object);
  }

  void scaling(const JsonObject& rope) {
    std::string type =
        rope.get_string("rope_type").value_or(rope.get_string("type").value_or("default"));
    if (type == "default") return;
    if (type == "linear") {
      c_.rope_scaling = "linear";
      c_.rope_scale = static_cast<float>(positive(rope, "factor", 1e6));
    } else if (type == "llama3") {
      llama3(rope);
    } else if (type == "longrope" || type == "su") {
      long_rope(rope);
    } else {
      rope.fail("rope_type", type + " is not supported; known are default linear llama3 longrope");
    }
  }

  /// Llama 3.1's frequency factors: long wavelengths are slowed by `factor`, short ones kept,
  /// smooth in between (the published configuration's low and high frequency factors).
  void llama3(const JsonObject& rope) {
    double factor = positive(rope, "factor", 1e6), low = positive(rope, "low_freq_factor", 1e6);
    double high = positive(rope, "high_freq_factor", 1e6);
    double original =
        positive(rope, "original_max_position_embeddings", static_cast<double>(kMaxContext));
    if (high <= low) rope.fail("high_freq_factor", "must be above low_freq_factor");
    c_.rope_scaling = "llama3";
    for (int i = 0; i < c_.rope_dim / 2; ++i) {
      double wavelength = 2 * M_PI * std::pow(c_.rope_base, 2.0 * i / c_.rope_dim);
      double turns = original / wavelength;
      double smooth = std::clamp((turns - low) / (high - low), 0.0, 1.0);
      c_.rope_factors.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
  }

  void long_rope(const JsonObject& rope) {
    auto original = json_.get_integer("original_max_position_embeddings", 2, kMaxContext);
    if (!original)
      original = rope.require_integer("original_max_position_embeddings", 2, kMaxContext);
    config_.original_context = static_cast<int>(*original);
    bool use_long = (context_ > 0 ? context_ : c_.context) > config_.original_context;
    const char* key = use_long ? "long_factor" : "short_factor";
    auto factors = rope.get_floats(key);
    if (!factors) rope.fail(key, "is missing");
    if (factors->size() != static_cast<size_t>(c_.rope_dim / 2)) {
      rope.fail(key, fmt::format("{} factors, {} are needed", factors->size(), c_.rope_dim / 2));
    }
    for (double value : *factors) {
      if (!(value > 0)) rope.fail(key, fmt::format("factor {}", value));
      c_.rope_factors.push_back(static_cast<float>(value));
    }
    c_.rope_scaling = "longrope";
    double stretch = static_cast<double>(c_.context) / config_.original_context;
    if (stretch > 1) {
      c_.rope_magnitude =
          static_cast<float>(std::sqrt(1 + std::log(stretch) / std::log(config_.original_context)));
    }
  }

  void sentence_head() {
    Path modules_path = folder_ / "modules.json";
    auto text = read_file_if_exists(modules_path, 1 << 20);
    if (!text) {
      throw Error(
          ErrorKind::kBadData,
          fmt::format("{}: modules.json is missing, so how vectors are made of it is unknown",
                      folder_.string()),
          "use the model's sentence-transformers folder");
    }
    nlohmann::json modules = parse_json(*text, modules_path.string());
    if (!modules.is_array())
      throw Error(ErrorKind::kBadData, modules_path.string() + ": not a list");
    c_.embedding_dim = c_.width;
    bool pooled = false;
    for (const auto& each : modules) {
      JsonObject module(each, modules_path.string());
      std::string type = module.require_string("type"), path = module.require_string("path");
      type = type.substr(type.rfind('.') + 1);
      if (type == "Transformer") continue;
      if (type == "Pooling") {
        pooling(module_folder(module, path));
        pooled = true;
      } else if (type == "Dense") {
        dense(module_folder(module, path), path);
      } else if (type == "Normalize") {
        config_.normalize = true;
      } else {
        module.fail("type",
                    type + " is not supported; known are Transformer Pooling Dense Normalize");
      }
    }
    if (!pooled) throw Error(ErrorKind::kBadData, modules_path.string() + ": no Pooling module");
    limits_and_prompts();
  }

  Path module_folder(const JsonObject& module, const std::string& path) const {
    if (path.empty() || path[0] == '.' || path.find_first_of("/\\") != std::string::npos) {
      module.fail("path", path + " is no plain folder name");
    }
    return folder_ / path;
  }

  void pooling(const Path& folder) {
    JsonObject json = JsonObject::read(folder / "config.json");
    int chosen = 0;
    for (const auto& [key, value] : json.value().items()) {
      if (!key.starts_with("pooling_mode_") || !json.get_bool(key.c_str()).value_or(false))
        continue;
      ++chosen;
      if (key == "pooling_mode_mean_tokens") {
        c_.pooling = PoolKind::kMean;
      } else if (key == "pooling_mode_cls_token") {
        c_.pooling = PoolKind::kFirst;
      } else if (key == "pooling_mode_lasttoken") {
        c_.pooling = PoolKind::kLast;
      } else {
        json.fail(key, "is not supported; known are mean, first (cls) and last token");
      }
    }
    if (chosen != 1) json.fail("pooling_mode", fmt::format("{} modes are on, must be one", chosen));
  }

  void dense(const Path& folder, const std::string& path) {
    JsonObject json = JsonObject::read(folder / "config.json");
    DenseLayer layer;
    layer.prefix = path + ".";
    layer.in = static_cast<int>(json.require_integer("in_features", 1, kMaxWidth));
    layer.out = static_cast<int>(json.require_integer("out_features", 1, kMaxWidth));
    layer.bias = json.get_bool("bias").value_or(true);
    std::string act = json.require_string("activation_function");
    if (act != "torch.nn.modules.linear.Identity") {
      json.fail("activation_function", act + " is not supported; known is Identity");
    }
    if (layer.in != c_.embedding_dim) {
      json.fail("in_features", fmt::format("{} after a vector of {}", layer.in, c_.embedding_dim));
    }
    c_.embedding_dim = layer.out;
    config_.dense.push_back(layer);
    config_.extra_files.push_back({folder / "model.safetensors", layer.prefix});
  }

  void limits_and_prompts() {
    c_.max_input_tokens = c_.context;
    if (auto json = JsonObject::read_if_exists(folder_ / "sentence_bert_config.json")) {
      auto limit = json->get_integer("max_seq_length", 1, kMaxContext);
      if (limit) c_.max_input_tokens = std::min(c_.context, static_cast<int>(*limit));
    }
    bool stated = false;
    if (auto json = JsonObject::read_if_exists(folder_ / "config_sentence_transformers.json")) {
      if (auto prompts = json->object("prompts")) {
        stated = !prompts->value().empty();
        c_.query_prompt = prompts->get_string("query").value_or("");
        auto passage = prompts->get_string("document");
        c_.passage_prompt = passage ? *passage : prompts->get_string("passage").value_or("");
      }
    }
    // multilingual-e5's own folder states no prompts; paraphrase-multilingual, of the same shape
    // and vocabulary, does not normalise.
    if (!stated && c_.vocab == 250037 && config_.normalize && c_.architecture == "bert") {
      c_.query_prompt = "query: ";
      c_.passage_prompt = "passage: ";
      from_table("multilingual-e5: prompts \"query: \" and \"passage: \" (its model card)");
    }
    if (c_.architecture == "gemma-embedding" && c_.embedding_dim == 768) {
      c_.matryoshka = {512, 256, 128};
      from_table("vectors may be cut to 512, 256 or 128 (EmbeddingGemma's model card)");
    }
  }

  Path folder_;
  JsonObject json_;
  int context_;
  ArchConfig config_;
  ModelConfig& c_ = config_.model;
};

}  // namespace

ArchConfig config_from_folder(const Path& folder, int context) {
  return FolderReader(folder, context).run();
}

}  // namespace apud
