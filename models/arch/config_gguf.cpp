// Hyperparameters of GGUF files. Every one is checked by name; what the format leaves out comes
// from the table in this file, with its source.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "kernels/quant.h"
#include "models/arch/arch.h"
#include "models/arch/limits.h"

namespace apud {

namespace {

constexpr std::array kArchitectures = {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"};

class GgufReader {
 public:
  explicit GgufReader(const GgufFile& file) : file_(file) {}

  ArchConfig run(int context) {
    architecture();
    sizes();
    heads();
    rope(context);
    attention();
    output();
    return std::move(config_);
  }

 private:
  std::string key(const char* suffix) const { return c_.architecture + "." + suffix; }
  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    throw Error(ErrorKind::kBadData, fmt::format("{}: {}: {}", file_.name(), key, what),
                "the file is damaged or made for a newer program");
  }
  int number(const char* suffix, uint64_t low, uint64_t high) const {
    return static_cast<int>(file_.require_unsigned(key(suffix), low, high));
  }
  double positive(const std::string& name, double value, double high) const {
    if (!(value > 0) || value > high)
      fail(name, fmt::format("{}, must be above 0 and at most {}", value, high));
    return value;
  }
  void from_table(const std::string& note) {
    c_.from_table.push_back(c_.architecture + ": " + note);
  }

  void architecture() {
    std::string name(file_.require_string("general.architecture"));
    if (std::find(kArchitectures.begin(), kArchitectures.end(), name) == kArchitectures.end()) {
      fail("general.architecture",
           fmt::format("{} is not supported; known are {}", name, fmt::join(kArchitectures, " ")));
    }
    c_.architecture = name;
    config_.layout = FileLayout::kGguf;
    if (auto title = file_.get_string("general.name")) c_.name = *title;
    if (auto experts = file_.get_unsigned(key("expert_count"), 0, UINT32_MAX);
        experts && *experts > 0) {
      fail(key("expert_count"), fmt::format("{}: mixtures of experts are not supported", *experts));
    }
  }

  void sizes() {
    c_.layers = number("block_count", 1, kMaxLayers);
    c_.context = number("context_length", 1, kMaxContext);
    c_.width = number("embedding_length", 1, kMaxWidth);
    c_.ffn_width = number("feed_forward_length", 1, kMaxFfn);
    std::string eps = key("attention.layer_norm_rms_epsilon");
    c_.norm_eps = static_cast<float>(positive(eps, file_.require_float(eps), 0.1));
    const GgufTensor* table = file_.tensor("token_embd.weight");
    if (!table) fail("tensor token_embd.weight", "is missing");
    if (table->view.rows > static_cast<int64_t>(kMaxVocab)) {
      fail("tensor token_embd.weight",
           fmt::format("{} rows, at most {}", table->view.rows, kMaxVocab));
    }
    c_.vocab = static_cast<int>(table->view.rows);
    const GgufValue* tokens = file_.find("tokenizer.ggml.tokens");
    if (tokens && tokens->count != static_cast<uint64_t>(c_.vocab)) {
      fail("tokenizer.ggml.tokens",
           fmt::format("{} tokens, token_embd.weight has {} rows", tokens->count, c_.vocab));
    }
  }

  void heads() {
    c_.heads = number("attention.head_count", 1, kMaxHeads);
    std::string kv = key("attention.head_count_kv");
    c_.kv_heads = static_cast<int>(file_.get_unsigned(kv, 1, kMaxHeads).value_or(c_.heads));
    if (c_.heads % c_.kv_heads != 0) {
      fail(kv, fmt::format("{} does not divide {} heads", c_.kv_heads, c_.heads));
    }
    std::string length = key("attention.key_length");
    if (auto dim = file_.get_unsigned(length, 1, kMaxHeadDim)) {
      c_.head_dim = static_cast<int>(*dim);
    } else {
      if (c_.width % c_.heads != 0) {
        fail(key("attention.head_count"),
             fmt::format("{} does not divide the width {}", c_.heads, c_.width));
      }
      c_.head_dim = c_.width / c_.heads;
      if (static_cast<uint64_t>(c_.head_dim) > kMaxHeadDim) {
        fail(key("attention.head_count"),
             fmt::format("heads of width {}, at most {}", c_.head_dim, kMaxHeadDim));
      }
    }
    if (c_.head_dim % 2 != 0) fail(length, fmt::format("head width {} is odd", c_.head_dim));
    std::string value_length = key("attention.value_length");
    auto value = file_.get_unsigned(value_length, 1, kMaxHeadDim);
    if (value && static_cast<int>(*value) != c_.head_dim) {
      fail(value_length, fmt::format("{} differs from the key's {}", *value, c_.head_dim));
    }
    std::string rope = key("rope.dimension_count");
    auto dim = file_.get_unsigned(rope, 0, kMaxHeadDim);
    c_.rope_dim = static_cast<int>(dim.value_or(c_.head_dim));
    if (c_.rope_dim < 2 || c_.rope_dim % 2 != 0 || c_.rope_dim > c_.head_dim) {
      fail(rope,
           fmt::format("{}, must be even and at most the head width {}", c_.rope_dim, c_.head_dim));
    }
    if (c_.architecture == "llama" && c_.rope_dim != c_.head_dim) {
      fail(rope,
           fmt::format("{}: partial rotation of rows in pairs is not supported", c_.rope_dim));
    }
  }

  void rope(int context) {
    std::string base = key("rope.freq_base");
    if (auto value = file_.get_float(base)) {
      c_.rope_base = positive(base, *value, 1e12);
    } else {
      c_.rope_base = 10000;
      from_table("rope base 10000 (GGUF specification's default)");
    }
    std::string type_key = key("rope.scaling.type");
    std::string type(file_.get_string(type_key).value_or("none"));
    std::string factor_key = key("rope.scaling.factor");
    auto factor = file_.get_float(factor_key);
    if (type == "linear") {
      if (!factor) fail(factor_key, "is missing");
      c_.rope_scaling = "linear";
      c_.rope_scale = static_cast<float>(positive(factor_key, *factor, 1e6));
    } else if (type != "none" && type != "longrope") {
      fail(type_key, fmt::format("{} is not supported; known are none linear longrope", type));
    }
    std::string legacy = key("rope.scale_linear");
    if (auto scale = file_.get_float(legacy); scale && *scale != 1) {
      c_.rope_scaling = "linear";
      c_.rope_scale = static_cast<float>(positive(legacy, *scale, 1e6));
    }
    if (file_.tensor("rope_freqs.weight")) {
      c_.rope_scaling = "llama3";
      c_.rope_factors = factors("rope_freqs.weight");
    }
    long_rope(context);
  }

  /// Frequency divisors stored as a tensor of rope_dim / 2 floats.
  std::vector<float> factors(const char* name) const {
    const GgufTensor* tensor = file_.tensor(name);
    std::string field = std::string("tensor ") + name;
    if (!tensor) fail(field, "is missing");
    if (tensor->view.rows != 1 || tensor->view.cols != c_.rope_dim / 2 ||
        tensor->view.type != WeightType::kF32) {
      fail(field, fmt::format("must hold {} values of type f32", c_.rope_dim / 2));
    }
    std::vector<float> values(static_cast<size_t>(tensor->view.cols));
    dequantize_row(tensor->view, 0, values.data());
    for (float value : values) positive(field, value, 1e9);
    return values;
  }

  void long_rope(int context) {
    bool has_long = file_.tensor("rope_factors_long.weight");
    if (!has_long && !file_.tensor("rope_factors_short.weight")) return;
    std::string key_name = key("rope.scaling.original_context_length");
    config_.original_context = static_cast<int>(file_.require_unsigned(key_name, 2, kMaxContext));
    c_.rope_scaling = "longrope";
    bool use_long = (context > 0 ? context : c_.context) > config_.original_context;
    c_.rope_factors = factors(use_long ? "rope_factors_long.weight" : "rope_factors_short.weight");
    std::string magnitude = key("rope.scaling.attn_factor");
    if (auto value = file_.get_float(magnitude)) {
      c_.rope_magnitude = static_cast<float>(positive(magnitude, *value, 100));
    } else {
      double stretch = static_cast<double>(c_.context) / config_.original_context;
      if (stretch > 1) {
        c_.rope_magnitude = static_cast<float>(
            std::sqrt(1 + std::log(stretch) / std::log(config_.original_context)));
      }
    }
  }

  void attention() {
    std::string window = key("attention.sliding_window");
    c_.window = static_cast<int>(file_.get_unsigned(window, 0, INT32_MAX).value_or(0));
    if (c_.architecture == "gemma2") gemma2();
    if (c_.architecture == "gemma3") gemma3();
    // A window that no position leaves is none (Gemma 3's also choose the rope base: they stay).
    if (c_.window >= c_.context && c_.rope_local_base == 0) c_.window = 0;
  }

  float cap(const char* suffix, double fallback) {
    std::string name = key(suffix);
    if (auto value = file_.get_float(name)) return static_cast<float>(positive(name, *value, 1e6));
    from_table(fmt::format("{} {} (Gemma 2 report, table 1)", suffix, fallback));
    return static_cast<float>(fallback);
  }

  void gemma2() {
    if (c_.window == 0) {
      c_.window = 4096;
      from_table("sliding window 4096 (Gemma 2 report, section 2)");
    }
    c_.window_pattern = 2;
    from_table("every second layer global (Gemma 2 report, section 2)");
    c_.attention_softcap = cap("attn_logit_softcapping", 50);
    c_.logit_softcap = cap("final_logit_softcapping", 30);
    // query_pre_attn_scalar of the published configurations: the head width, but width / heads in
    // 27B.
    if (c_.layers == 46) {
      c_.attention_scale =
          1 / std::sqrt(static_cast<float>(c_.width) / static_cast<float>(c_.heads));
      from_table("27B: attention scale 1/sqrt(width/heads) (published configuration)");
    }
  }

  void gemma3() {
    if (c_.window == 0) fail(key("attention.sliding_window"), "is missing");
    c_.window_pattern = 6;
    c_.rope_local_base = 10000;
    from_table("sliding pattern 5:1, local rope base 10000 (Gemma 3 report, section 2.1)");
    if (c_.layers == 62) {
      c_.attention_scale =
          1 / std::sqrt(static_cast<float>(c_.width) / static_cast<float>(c_.heads));
      from_table("27B: attention scale 1/sqrt(width/heads) (published configuration)");
    }
    std::string name = key("final_logit_softcapping");
    if (auto value = file_.get_float(name))
      c_.logit_softcap = static_cast<float>(positive(name, *value, 1e6));
  }

  void output() { c_.tied_output = file_.tensor("output.weight") == nullptr; }

  const GgufFile& file_;
  ArchConfig config_;
  ModelConfig& c_ = config_.model;
};

}  // namespace

ArchConfig config_from_gguf(const GgufFile& file, int context) {
  return GgufReader(file).run(context);
}

}  // namespace apud
