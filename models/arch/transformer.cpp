// The pre-norm transformer of the llama, qwen, phi3 and gemma families. What differs between them
// is a row of a table.
#include <fmt/format.h>

#include <array>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "models/arch/builder.h"

namespace apud {

namespace {

struct Family {
  const char* architecture;
  bool gguf_pairs = false;  // GGUF files hold q and k rows in rotary pairs
  bool qkv_bias = false;    // required; elsewhere biases are used where the file has them
  bool head_norms = false;  // q and k are normed per head
  bool post_norms = false;  // Gemma: norms after attention and after the feed-forward part, too
  bool fused = false;       // qkv in one tensor, gate and up in another
  Activation activation = Activation::kSilu;
};
constexpr std::array kFamilies = {
    Family{.architecture = "llama", .gguf_pairs = true},
    Family{.architecture = "qwen2", .qkv_bias = true},
    Family{.architecture = "qwen3", .head_norms = true},
    Family{.architecture = "phi3", .fused = true},
    Family{.architecture = "gemma2", .post_norms = true, .activation = Activation::kGeluTanh},
    Family{.architecture = "gemma3",
           .head_norms = true,
           .post_norms = true,
           .activation = Activation::kGeluTanh},
    Family{.architecture = "gemma-embedding",
           .head_norms = true,
           .post_norms = true,
           .activation = Activation::kGeluTanh},
};

const Family& family_of(const std::string& architecture) {
  for (const Family& family : kFamilies) {
    if (architecture == family.architecture) return family;
  }
  APUD_CHECK(false, "a known architecture");
  return kFamilies[0];
}

/// GGUF tensor names are the canonical ones; a folder's are looked up here.
class Names {
 public:
  Names(const ArchConfig& config, const Family& family, const TensorSource& source)
      : folder_(config.layout == FileLayout::kFolder), post_norms_(family.post_norms) {
    if (folder_ && !source.find("embed_tokens.weight")) prefix_ = "model.";
  }
  std::string top(const std::string& name) const {
    if (!folder_) return name + ".weight";
    if (name == "token_embd") return prefix_ + "embed_tokens.weight";
    if (name == "output_norm") return prefix_ + "norm.weight";
    return "lm_head.weight";
  }
  std::string layer(int layer, const std::string& name, const char* kind = "weight") const {
    if (!folder_) return fmt::format("blk.{}.{}.{}", layer, name, kind);
    return fmt::format("{}layers.{}.{}.{}", prefix_, layer, folder_name(name), kind);
  }

 private:
  std::string folder_name(const std::string& name) const {
    static const std::map<std::string, std::string> names = {
        {"attn_norm", "input_layernorm"},
        {"attn_q", "self_attn.q_proj"},
        {"attn_k", "self_attn.k_proj"},
        {"attn_v", "self_attn.v_proj"},
        {"attn_qkv", "self_attn.qkv_proj"},
        {"attn_output", "self_attn.o_proj"},
        {"attn_q_norm", "self_attn.q_norm"},
        {"attn_k_norm", "self_attn.k_norm"},
        {"post_attention_norm", "post_attention_layernorm"},
        {"post_ffw_norm", "post_feedforward_layernorm"},
        {"ffn_gate", "mlp.gate_proj"},
        {"ffn_up", "mlp.up_proj"},
        {"ffn_gate_up", "mlp.gate_up_proj"},
        {"ffn_down", "mlp.down_proj"},
    };
    if (name == "ffn_norm")
      return post_norms_ ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    return names.at(name);
  }
  bool folder_;
  bool post_norms_;
  std::string prefix_;
};

/// Layers of the last kind of every pattern see everything, the others a window.
bool sees_all(const ModelConfig& c, int layer) {
  if (c.window == 0) return true;
  return c.window_pattern > 0 && layer % c.window_pattern == c.window_pattern - 1;
}

Rotary rotary_of(const ModelConfig& c, bool local) {
  Rotary rotary;
  double base = local ? c.rope_local_base : c.rope_base;
  for (int i = 0; i < c.rope_dim / 2; ++i) {
    double frequency = std::pow(base, -2.0 * i / c.rope_dim);
    if (!local) {
      if (!c.rope_factors.empty()) frequency /= c.rope_factors[static_cast<size_t>(i)];
      frequency /= c.rope_scale;
    }
    rotary.inv_freq.push_back(static_cast<float>(frequency));
  }
  if (!local) rotary.magnitude = c.rope_magnitude;
  return rotary;
}

class Transformer {
 public:
  Transformer(ProgramBuilder& builder, const ArchConfig& config)
      : b_(builder),
        config_(config),
        c_(config.model),
        family_(family_of(c_.architecture)),
        names_(config, family_, builder.source()),
        gemma_(family_.post_norms) {
    // Gemma's files in Hugging Face's format hold weight - 1; the GGUF converter adds the 1.
    norm_offset_ = gemma_ && config.layout == FileLayout::kFolder ? 1.0f : 0.0f;
    shape_ = {c_.heads, c_.kv_heads, c_.head_dim};
  }

  ValueId run() {
    int q_size = c_.heads * c_.head_dim, kv_size = c_.kv_heads * c_.head_dim;
    x_ = b_.value("x", c_.width);
    normed_ = b_.value("normed", c_.width);
    q_ = b_.value("q", q_size);
    k_ = b_.value("k", kv_size);
    v_ = b_.value("v", kv_size);
    mixed_ = b_.value("mixed", q_size);
    gate_ = b_.value("gate", c_.ffn_width);
    up_ = b_.value("up", c_.ffn_width);
    if (family_.post_norms) branch_ = b_.value("branch", c_.width);
    EmbedOp embed;
    embed.table = b_.matrix(names_.top("token_embd"), c_.vocab, c_.width);
    embed.out = x_;
    if (gemma_) embed.scale = std::sqrt(static_cast<float>(c_.width));
    b_.add(embed);
    if (!config_.encoder) place_kv();
    for (int layer = 0; layer < c_.layers; ++layer) {
      add_attention(layer);
      add_feed_forward(layer);
    }
    return x_;
  }

  NormOp norm(ValueId x, ValueId out, const std::string& name) {
    NormOp op;
    op.x = x;
    op.out = out;
    op.weight = b_.vector(name, c_.width);
    op.eps = c_.norm_eps;
    op.weight_offset = norm_offset_;
    return op;
  }
  const Names& names() const { return names_; }

 private:
  /// Layers that see everything form one group, layers with a window another.
  void place_kv() {
    Program& p = b_.program();
    int group_of[2] = {kNone, kNone};
    for (int layer = 0; layer < c_.layers; ++layer) {
      int kind = sees_all(c_, layer) ? 0 : 1;
      if (group_of[kind] == kNone) {
        group_of[kind] = static_cast<int>(p.kv_groups.size());
        p.kv_groups.push_back({0, c_.kv_heads, c_.head_dim, kind == 0 ? 0 : c_.window});
      }
      KvGroup& group = p.kv_groups[static_cast<size_t>(group_of[kind])];
      p.kv_layers.push_back({group_of[kind], group.layers++});
    }
  }

  void linear(ValueId x, ValueId out, WeightId weight, WeightId bias, bool accumulate = false) {
    b_.add(LinearOp{x, out, weight, bias, accumulate});
  }

  void add_projection(int layer, const char* name, ValueId out, bool rotated) {
    int rows = b_.program().values[static_cast<size_t>(out)].cols;
    bool paired = rotated && family_.gguf_pairs && config_.layout == FileLayout::kGguf;
    std::string weight = names_.layer(layer, name), bias = names_.layer(layer, name, "bias");
    if (paired && b_.source().find(bias)) {
      throw Error(ErrorKind::kBadData,
                  fmt::format("{}: tensor {}: biases of rotary pairs are not supported",
                              b_.source().name(), bias));
    }
    WeightId matrix = paired ? b_.paired_matrix(weight, rows, c_.width, c_.head_dim)
                             : b_.matrix(weight, rows, c_.width);
    WeightId vector = family_.qkv_bias ? b_.vector(bias, rows) : b_.optional_vector(bias, rows);
    linear(normed_, out, matrix, vector);
  }

  void add_attention(int layer) {
    b_.add(norm(x_, normed_, names_.layer(layer, "attn_norm")));
    if (family_.fused) {
      int64_t q = static_cast<int64_t>(c_.heads) * c_.head_dim;
      int64_t kv = static_cast<int64_t>(c_.kv_heads) * c_.head_dim, total = q + 2 * kv;
      std::string name = names_.layer(layer, "attn_qkv");
      linear(normed_, q_, b_.row_range(name, total, 0, q, c_.width), kNone);
      linear(normed_, k_, b_.row_range(name, total, q, kv, c_.width), kNone);
      linear(normed_, v_, b_.row_range(name, total, q + kv, kv, c_.width), kNone);
    } else {
      add_projection(layer, "attn_q", q_, true);
      add_projection(layer, "attn_k", k_, true);
      add_projection(layer, "attn_v", v_, false);
    }
    bool global = sees_all(c_, layer);
    RotaryOp rotary;
    rotary.q = q_;
    rotary.k = k_;
    rotary.v = v_;
    rotary.shape = shape_;
    rotary.rotary = rotary_of(c_, !global && c_.rope_local_base > 0);
    if (family_.head_norms) {
      rotary.q_norm = b_.vector(names_.layer(layer, "attn_q_norm"), c_.head_dim);
      rotary.k_norm = b_.vector(names_.layer(layer, "attn_k_norm"), c_.head_dim);
      rotary.norm_eps = c_.norm_eps;
      rotary.norm_offset = norm_offset_;
    }
    AttentionOp attention;
    attention.q = q_;
    attention.out = mixed_;
    attention.shape = shape_;
    attention.scale = c_.attention_scale > 0 ? c_.attention_scale
                                             : 1 / std::sqrt(static_cast<float>(c_.head_dim));
    attention.softcap = c_.attention_softcap;
    attention.window = global ? 0 : c_.window;
    if (config_.encoder) {
      attention.k = k_;
      attention.v = v_;
    } else {
      rotary.kv_layer = attention.kv_layer = layer;
    }
    b_.add(rotary);
    b_.add(attention);
    add_output(layer, "attn_output", "post_attention_norm", mixed_);
  }

  void add_feed_forward(int layer) {
    b_.add(norm(x_, normed_, names_.layer(layer, "ffn_norm")));
    if (family_.fused) {
      // One tensor, the gate's rows first; GGUF calls it ffn_up.
      bool folder = config_.layout == FileLayout::kFolder;
      std::string name = names_.layer(layer, folder ? "ffn_gate_up" : "ffn_up");
      int64_t half = c_.ffn_width;
      linear(normed_, gate_, b_.row_range(name, 2 * half, 0, half, c_.width), kNone);
      linear(normed_, up_, b_.row_range(name, 2 * half, half, half, c_.width), kNone);
    } else {
      for (auto [name, out] : {std::pair{"ffn_gate", gate_}, {"ffn_up", up_}}) {
        linear(normed_, out, b_.matrix(names_.layer(layer, name), c_.ffn_width, c_.width),
               b_.optional_vector(names_.layer(layer, name, "bias"), c_.ffn_width));
      }
    }
    b_.add(ActivationOp{gate_, up_, gate_, family_.activation});
    add_output(layer, "ffn_down", "post_ffw_norm", gate_);
  }

  /// x += projection of `from`, through a norm in Gemma.
  void add_output(int layer, const char* name, const char* post_norm, ValueId from) {
    int cols = b_.program().values[static_cast<size_t>(from)].cols;
    WeightId weight = b_.matrix(names_.layer(layer, name), c_.width, cols);
    WeightId bias = b_.optional_vector(names_.layer(layer, name, "bias"), c_.width);
    if (!family_.post_norms) return linear(from, x_, weight, bias, true);
    linear(from, branch_, weight, bias);
    b_.add(norm(branch_, branch_, names_.layer(layer, post_norm)));
    b_.add(AddOp{branch_, x_});
  }

  ProgramBuilder& b_;
  const ArchConfig& config_;
  const ModelConfig& c_;
  const Family& family_;
  Names names_;
  bool gemma_;
  float norm_offset_ = 0;
  HeadShape shape_;
  ValueId x_ = kNone, normed_ = kNone, q_ = kNone, k_ = kNone, v_ = kNone, mixed_ = kNone;
  ValueId gate_ = kNone, up_ = kNone, branch_ = kNone;
};

}  // namespace

LoadedProgram build_program(const ArchConfig& config, const TensorSource& source) {
  const ModelConfig& c = config.model;
  if (c.architecture == "bert" || c.architecture == "xlm-roberta")
    return build_bert(config, source);
  ProgramBuilder builder(c.architecture, source);
  builder.program().max_positions = c.context;
  Transformer transformer(builder, config);
  ValueId x = transformer.run();
  if (config.encoder) {
    builder.add(transformer.norm(x, x, transformer.names().top("output_norm")));
    return builder.finish(add_sentence_head(builder, config, x));
  }
  ValueId last = builder.value("last", c.width, Rows::kOutputs);
  ValueId logits = builder.value("logits", c.vocab, Rows::kOutputs);
  builder.add(SelectOp{x, last});
  builder.add(transformer.norm(last, last, transformer.names().top("output_norm")));
  std::string head = transformer.names().top(c.tied_output ? "token_embd" : "output");
  builder.add(LinearOp{last, logits, builder.matrix(head, c.vocab, c.width)});
  if (c.logit_softcap > 0) builder.add(SoftcapOp{logits, c.logit_softcap});
  return builder.finish(logits);
}

}  // namespace apud
