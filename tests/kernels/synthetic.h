// Small programs with random weights of every format, for executor tests.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/bert.h"
#include "kernels/quant.h"

namespace apud::test {

class Synthetic {
 public:
  explicit Synthetic(uint32_t seed = 1) : generator_(seed) {}
  Program program;
  Weights weights;

  ValueId value(const std::string& name, int cols, Rows rows = Rows::kTokens) {
    program.values.push_back({name, rows, cols});
    return static_cast<ValueId>(program.values.size()) - 1;
  }
  /// Random values of deviation about 1/sqrt(cols); blocks are random bits with sane scales.
  WeightId weight(const std::string& name, int64_t rows, int64_t cols,
                  WeightType type = WeightType::kF32, float gain = 1) {
    auto bytes =
        std::make_unique<std::vector<std::byte>>(static_cast<size_t>(rows) * row_bytes(type, cols));
    fill(*bytes, type, gain / std::sqrt(static_cast<float>(cols)));
    program.weights.push_back({name, rows, cols});
    weights.push_back({type, rows, cols, bytes->data()});
    storage_.push_back(std::move(bytes));
    return static_cast<WeightId>(program.weights.size()) - 1;
  }
  /// F32 weight with the given content.
  WeightId weight_of(const std::string& name, int64_t rows, int64_t cols,
                     const std::vector<float>& content) {
    auto bytes = std::make_unique<std::vector<std::byte>>(content.size() * 4);
    std::memcpy(bytes->data(), content.data(), bytes->size());
    program.weights.push_back({name, rows, cols});
    weights.push_back({WeightType::kF32, rows, cols, bytes->data()});
    storage_.push_back(std::move(bytes));
    return static_cast<WeightId>(program.weights.size()) - 1;
  }
  std::mt19937& generator() { return generator_; }

 private:
  void fill(std::vector<std::byte>& bytes, WeightType type, float deviation) {
    auto put_half = [&](size_t at, float v) {
      uint16_t h = float_to_half(v);
      std::memcpy(&bytes[at], &h, 2);
    };
    std::normal_distribution<float> normal(0, deviation);
    if (block_values(type) == 1) {
      for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(block_bytes(type))) {
        float v = normal(generator_);
        uint16_t h = type == WeightType::kF16 ? float_to_half(v) : float_to_bf16(v);
        if (type == WeightType::kF32) {
          std::memcpy(&bytes[at], &v, 4);
        } else {
          std::memcpy(&bytes[at], &h, 2);
        }
      }
      return;
    }
    for (auto& b : bytes) b = static_cast<std::byte>(generator_());
    std::uniform_real_distribution<float> vary(0.5f, 1.5f);
    auto block = static_cast<size_t>(block_bytes(type));
    for (size_t at = 0; at < bytes.size(); at += block) {
      float u = deviation * vary(generator_);
      switch (type) {
        case WeightType::kQ4_0:
          put_half(at, u / 4.6f);
          break;
        case WeightType::kQ4_1:
          put_half(at, u / 4.6f), put_half(at + 2, -u * 1.6f);
          break;
        case WeightType::kQ5_0:
          put_half(at, u / 9.2f);
          break;
        case WeightType::kQ5_1:
          put_half(at, u / 9.2f), put_half(at + 2, -u * 1.7f);
          break;
        case WeightType::kQ8_0:
          put_half(at, u / 74);
          break;
        case WeightType::kQ2_K:
          put_half(at + 80, u / 9), put_half(at + 82, u / 6);
          break;
        case WeightType::kQ3_K:
          put_half(at + 108, u / 40);
          break;
        case WeightType::kQ4_K:
          put_half(at, u / 150), put_half(at + 2, u / 20);
          break;
        case WeightType::kQ5_K:
          put_half(at, u / 300), put_half(at + 2, u / 20);
          break;
        case WeightType::kQ6_K:
          put_half(at + 208, u / 1300);
          break;
        default:
          break;
      }
    }
  }

  std::mt19937 generator_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> storage_;
};

struct DecoderShape {
  int vocab = 320;
  int width = 256;
  int ffn = 512;
  int layers = 2;
  HeadShape heads{6, 2, 64};
  int window = 0;  // of odd layers, in a KV group of their own
  float softcap = 0;
  bool qk_norm = false;
  float magnitude = 1;  // of the rotation, as LongRoPE has it
  Activation activation = Activation::kSilu;
  std::vector<WeightType> types = {WeightType::kQ4_K};  // taken in turn by the linear layers
};

/// A decoder in the manner of llama, qwen2 and gemma.
inline std::unique_ptr<Synthetic> synthetic_decoder(const DecoderShape& s, uint32_t seed = 1) {
  auto m = std::make_unique<Synthetic>(seed);
  Program& p = m->program;
  p.name = "synthetic";
  p.max_positions = 1 << 20;
  size_t turn = 0;
  auto linear = [&](const char* name, int64_t rows, int64_t cols) {
    WeightType type = s.types[turn++ % s.types.size()];
    if (cols % block_values(type) != 0) type = WeightType::kQ8_0;
    return m->weight(name, rows, cols, type);
  };
  int q_cols = s.heads.heads * s.heads.dim, kv_cols = s.heads.kv_heads * s.heads.dim;
  ValueId x = m->value("x", s.width), n = m->value("n", s.width), q = m->value("q", q_cols);
  ValueId k = m->value("k", kv_cols), v = m->value("v", kv_cols), a = m->value("a", q_cols);
  ValueId gate = m->value("gate", s.ffn), up = m->value("up", s.ffn);
  ValueId last = m->value("last", s.width, Rows::kOutputs);
  ValueId logits = m->value("logits", s.vocab, Rows::kOutputs);
  p.ops.push_back(EmbedOp{m->weight("embed", s.vocab, s.width, WeightType::kF32, 16), x});
  bool two = s.window > 0;
  p.kv_groups.push_back({two ? (s.layers + 1) / 2 : s.layers, s.heads.kv_heads, s.heads.dim, 0});
  if (two) p.kv_groups.push_back({s.layers / 2, s.heads.kv_heads, s.heads.dim, s.window});
  auto ones = [&](int cols) {
    std::vector<float> w(static_cast<size_t>(cols));
    std::uniform_real_distribution<float> near(0.7f, 1.3f);
    for (float& y : w) y = near(m->generator());
    return m->weight_of("norm", 1, cols, w);
  };
  for (int l = 0; l < s.layers; ++l) {
    bool local = two && l % 2 == 1;
    p.kv_layers.push_back(two ? KvLayerPlace{l % 2, l / 2} : KvLayerPlace{0, l});
    p.ops.push_back(NormOp{x, n, ones(s.width)});
    p.ops.push_back(LinearOp{n, q, linear("wq", q_cols, s.width), m->weight("bq", 1, q_cols)});
    p.ops.push_back(LinearOp{n, k, linear("wk", kv_cols, s.width)});
    p.ops.push_back(LinearOp{n, v, linear("wv", kv_cols, s.width)});
    RotaryOp rotary{q, k, v, s.heads};
    rotary.rotary.magnitude = s.magnitude;
    for (int i = 0; i < s.heads.dim / 2; ++i) {
      rotary.rotary.inv_freq.push_back(std::pow(
          local ? 1e4f : 1e6f, -2.0f * static_cast<float>(i) / static_cast<float>(s.heads.dim)));
    }
    if (s.qk_norm) {
      rotary.q_norm = ones(s.heads.dim);
      rotary.k_norm = ones(s.heads.dim);
    }
    rotary.kv_layer = l;
    p.ops.push_back(rotary);
    AttentionOp attention{q, a};
    attention.shape = s.heads;
    attention.scale = 1 / std::sqrt(static_cast<float>(s.heads.dim));
    attention.softcap = s.softcap;
    attention.window = local ? s.window : 0;
    attention.kv_layer = l;
    p.ops.push_back(attention);
    p.ops.push_back(LinearOp{a, x, linear("wo", s.width, q_cols), kNone, true});
    p.ops.push_back(NormOp{x, n, ones(s.width)});
    p.ops.push_back(LinearOp{n, gate, linear("wg", s.ffn, s.width)});
    p.ops.push_back(LinearOp{n, up, linear("wu", s.ffn, s.width)});
    p.ops.push_back(ActivationOp{gate, up, gate, s.activation});
    p.ops.push_back(LinearOp{gate, x, linear("wd", s.width, s.ffn), kNone, true});
  }
  p.ops.push_back(SelectOp{x, last});
  p.ops.push_back(NormOp{last, last, ones(s.width)});
  p.ops.push_back(LinearOp{last, logits, linear("output", s.vocab, s.width)});
  if (s.softcap > 0) p.ops.push_back(SoftcapOp{logits, 30});
  p.result = logits;
  return m;
}

struct EncoderShape {
  int vocab = 300;
  int width = 96;
  int ffn = 160;
  int layers = 2;
  HeadShape heads{3, 3, 32};
  int window = 0;
  WeightType type = WeightType::kF32;
  PoolKind pool = PoolKind::kMean;
};

/// A BERT encoder, with a window where asked for.
inline std::unique_ptr<Synthetic> synthetic_encoder(const EncoderShape& s, uint32_t seed = 1) {
  auto m = std::make_unique<Synthetic>(seed);
  Program& p = m->program;
  p.name = "synthetic-encoder";
  p.max_positions = 512;
  BertShape shape;
  shape.vocab = s.vocab;
  shape.width = s.width;
  shape.ffn = s.ffn;
  shape.layers = s.layers;
  shape.heads = s.heads.heads;
  shape.head_dim = s.heads.dim;
  shape.position_rows = 514;
  shape.position_offset = 2;
  shape.attention_scale = 1 / std::sqrt(static_cast<float>(s.heads.dim));
  ValueId x =
      add_bert(p, shape, [&](BertWeight kind, const std::string& name, int64_t rows, int64_t cols) {
        switch (kind) {
          case BertWeight::kTable:
            return m->weight(name, rows, cols, WeightType::kF32, rows == 1 ? 1 : 10);
          case BertWeight::kMatrix:
            return m->weight(name, rows, cols, s.type);
          case BertWeight::kNormWeight:
            return m->weight_of(name, 1, cols, std::vector<float>(static_cast<size_t>(cols), 1.1f));
          default:
            return m->weight(name, 1, cols);
        }
      });
  for (Op& op : p.ops)
    if (auto* attention = std::get_if<AttentionOp>(&op)) attention->window = s.window;
  ValueId out = m->value("out", s.width, Rows::kSequences);
  p.ops.push_back(PoolOp{x, out, s.pool});
  p.ops.push_back(L2NormalizeOp{out});
  p.result = out;
  return m;
}

inline double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (static_cast<double>(got[i]) - want[i]) * (static_cast<double>(got[i]) - want[i]);
    norm += static_cast<double>(want[i]) * want[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace apud::test
