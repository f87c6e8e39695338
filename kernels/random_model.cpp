#include "kernels/random_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "base/error.h"
#include "kernels/bert.h"
#include "kernels/quant.h"

namespace apud {
namespace {

struct Shape {
  const char* name;
  int vocab, width, ffn, layers, heads, kv_heads, head_dim;
  bool qkv_bias, tied, encoder;
};
constexpr Shape kShapes[] = {
    {"llama-7b", 32000, 4096, 11008, 32, 32, 32, 128, false, false, false},
    {"llama-3-8b", 128256, 4096, 14336, 32, 32, 8, 128, false, false, false},
    {"qwen2.5-0.5b", 151936, 896, 4864, 24, 14, 2, 64, true, true, false},
    {"qwen2.5-1.5b", 151936, 1536, 8960, 28, 12, 2, 128, true, true, false},
    {"smollm2-135m", 49152, 576, 1536, 30, 9, 3, 64, false, true, false},
    {"e5-small", 250037, 384, 1536, 12, 12, 12, 32, true, true, true},
    {"tiny", 512, 256, 512, 2, 4, 2, 64, false, false, false},
};

/// Weight types of a file "mostly of one format", by llama.cpp's published mixes: half of the value
/// and down projections of a K-quant "M" mix have more bits.
struct Mix {
  WeightType base, more, output;
};
bool more_bits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

uint64_t next_random(uint64_t& state) {  // SplitMix64 (Steele et al., 2014)
  uint64_t z = (state += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

/// Offsets of half-precision scales within a block, and their size for values of deviation 1.
struct ScaleAt {
  int offset;
  float factor;
};
std::vector<ScaleAt> scales_of(WeightType type) {
  switch (type) {
    case WeightType::kQ4_0:
      return {{0, 1 / 4.6f}};
    case WeightType::kQ4_1:
      return {{0, 1 / 4.6f}, {2, -1.6f}};
    case WeightType::kQ5_0:
      return {{0, 1 / 9.2f}};
    case WeightType::kQ5_1:
      return {{0, 1 / 9.2f}, {2, -1.7f}};
    case WeightType::kQ8_0:
      return {{0, 1 / 74.f}};
    case WeightType::kQ2_K:
      return {{80, 1 / 9.f}, {82, 1 / 6.f}};
    case WeightType::kQ3_K:
      return {{108, 1 / 40.f}};
    case WeightType::kQ4_K:
      return {{0, 1 / 150.f}, {2, 1 / 20.f}};
    case WeightType::kQ5_K:
      return {{0, 1 / 300.f}, {2, 1 / 20.f}};
    case WeightType::kQ6_K:
      return {{208, 1 / 1300.f}};
    default:
      return {};
  }
}

void fill(std::byte* data, size_t bytes, WeightType type, float deviation, uint64_t& state) {
  auto put = [&](size_t at, float v) {
    uint16_t h = type == WeightType::kBF16 ? float_to_bf16(v) : float_to_half(v);
    std::memcpy(data + at, &h, 2);
  };
  size_t block = static_cast<size_t>(block_bytes(type));
  if (block_values(type) == 1) {  // uniform of the wanted deviation
    for (size_t at = 0; at + block <= bytes; at += block) {
      float v =
          (static_cast<float>(next_random(state) >> 40) * 0x1p-23f - 1) * 1.7320508f * deviation;
      if (type == WeightType::kF32)
        std::memcpy(data + at, &v, 4);
      else
        put(at, v);
    }
    return;
  }
  for (size_t at = 0; at + 8 <= bytes; at += 8) {
    uint64_t r = next_random(state);
    std::memcpy(data + at, &r, 8);
  }
  for (size_t at = 0; at + block <= bytes; at += block)
    for (const ScaleAt& s : scales_of(type))
      put(at + static_cast<size_t>(s.offset), s.factor * deviation);
}

/// Random bytes of one type and gain, handed out at different block offsets: tensors differ, memory
/// does not grow with the model.
class Pool {
 public:
  explicit Pool(RandomModel& model) : model_(model) {}
  void want(WeightType type, float deviation, size_t bytes) {
    Source& s = sources_[{type, deviation}];
    s.bytes = std::max(s.bytes, bytes);
    ++s.users;
  }
  const std::byte* take(WeightType type, float deviation) {
    Source& s = sources_[{type, deviation}];
    size_t block = static_cast<size_t>(block_bytes(type)) * (block_values(type) == 1 ? 16 : 1);
    if (!s.data) {
      size_t total = s.bytes + block * static_cast<size_t>(s.users) + 8;
      model_.storage.push_back(std::make_unique<std::byte[]>(total));
      s.data = model_.storage.back().get();
      fill(s.data, total, type, deviation, state_);
    }
    return s.data + block * static_cast<size_t>(s.next++);
  }

 private:
  struct Source {
    std::byte* data = nullptr;
    size_t bytes = 0;
    int users = 0, next = 0;
  };
  RandomModel& model_;
  std::map<std::pair<WeightType, float>, Source> sources_;
  uint64_t state_ = 1;
};

class Builder {
 public:
  Builder(const Shape& s, const Mix& mix)
      : s_(s), mix_(mix), m_(std::make_unique<RandomModel>()), pool_(*m_) {}

  std::unique_ptr<RandomModel> run() {
    m_->program.name = s_.name;
    m_->program.max_positions = s_.encoder ? 512 : 131072;
    m_->layers = s_.layers;
    if (s_.encoder)
      encoder();
    else
      decoder();
    for (size_t i = 0; i < m_->weights.size(); ++i) {
      WeightView& w = m_->weights[i];
      pool_.want(w.type, drawn_[i].second, w.bytes());
    }
    for (size_t i = 0; i < m_->weights.size(); ++i)
      m_->weights[i].data = pool_.take(m_->weights[i].type, drawn_[i].second);
    validate_program(m_->program, m_->weights);
    return std::move(m_);
  }

 private:
  ValueId value(const char* name, int cols, Rows rows = Rows::kTokens) {
    m_->program.values.push_back({name, rows, cols});
    return static_cast<ValueId>(m_->program.values.size()) - 1;
  }
  WeightId weight(const std::string& name, int64_t rows, int64_t cols, WeightType type,
                  float gain) {
    if (cols % block_values(type) != 0)
      type = type == WeightType::kQ6_K ? WeightType::kQ8_0 : WeightType::kQ5_0;
    m_->program.weights.push_back({name, rows, cols});
    WeightView view;
    view.type = type;
    view.rows = rows;
    view.cols = cols;
    m_->weights.push_back(view);
    drawn_.push_back({type, gain / std::sqrt(static_cast<float>(rows == 1 ? 1 : cols))});
    return static_cast<WeightId>(m_->weights.size()) - 1;
  }
  WeightId matrix(const std::string& name, int64_t rows, int64_t cols, WeightType type) {
    return weight(name, rows, cols, type, 1);
  }
  WeightId vector(const std::string& name, int64_t cols) {
    return weight(name, 1, cols, WeightType::kF32, 0.5f);
  }

  void decoder() {
    Program& p = m_->program;
    int q_cols = s_.heads * s_.head_dim, kv_cols = s_.kv_heads * s_.head_dim;
    ValueId x = value("x", s_.width), n = value("n", s_.width), q = value("q", q_cols),
            k = value("k", kv_cols);
    ValueId v = value("v", kv_cols), a = value("a", q_cols), gate = value("gate", s_.ffn),
            up = value("up", s_.ffn);
    ValueId last = value("last", s_.width, Rows::kOutputs),
            logits = value("logits", s_.vocab, Rows::kOutputs);
    HeadShape heads{s_.heads, s_.kv_heads, s_.head_dim};
    WeightId embed = weight("token_embd", s_.vocab, s_.width, s_.tied ? mix_.output : mix_.base, 8);
    p.ops.push_back(EmbedOp{embed, x});
    p.kv_groups.push_back({s_.layers, s_.kv_heads, s_.head_dim, 0});
    for (int l = 0; l < s_.layers; ++l) {
      WeightType more = more_bits(l, s_.layers) ? mix_.more : mix_.base;
      auto name = [&](const char* part) { return fmt::format("blk.{}.{}", l, part); };
      auto bias = [&](const char* part, int cols) {
        return s_.qkv_bias ? vector(name(part), cols) : kNone;
      };
      auto norm = [&](const char* part) {
        return NormOp{x, n, vector(name(part), s_.width), kNone, NormKind::kRms, 1e-5f, 1};
      };
      p.kv_layers.push_back({0, l});
      p.ops.push_back(norm("attn_norm"));
      p.ops.push_back(
          LinearOp{n, q, matrix(name("attn_q"), q_cols, s_.width, mix_.base), bias("bq", q_cols)});
      p.ops.push_back(LinearOp{n, k, matrix(name("attn_k"), kv_cols, s_.width, mix_.base),
                               bias("bk", kv_cols)});
      p.ops.push_back(
          LinearOp{n, v, matrix(name("attn_v"), kv_cols, s_.width, more), bias("bv", kv_cols)});
      RotaryOp rotary{q, k, v, heads};
      for (int i = 0; i < s_.head_dim / 2; ++i)
        rotary.rotary.inv_freq.push_back(
            std::pow(10000.f, -2.f * static_cast<float>(i) / static_cast<float>(s_.head_dim)));
      rotary.kv_layer = l;
      p.ops.push_back(rotary);
      AttentionOp attention{q, a};
      attention.shape = heads;
      attention.scale = 1 / std::sqrt(static_cast<float>(s_.head_dim));
      attention.kv_layer = l;
      p.ops.push_back(attention);
      p.ops.push_back(
          LinearOp{a, x, matrix(name("attn_output"), s_.width, q_cols, mix_.base), kNone, true});
      p.ops.push_back(norm("ffn_norm"));
      p.ops.push_back(LinearOp{n, gate, matrix(name("ffn_gate"), s_.ffn, s_.width, mix_.base)});
      p.ops.push_back(LinearOp{n, up, matrix(name("ffn_up"), s_.ffn, s_.width, mix_.base)});
      p.ops.push_back(ActivationOp{gate, up, gate, Activation::kSilu});
      p.ops.push_back(
          LinearOp{gate, x, matrix(name("ffn_down"), s_.width, s_.ffn, more), kNone, true});
    }
    p.ops.push_back(SelectOp{x, last});
    p.ops.push_back(
        NormOp{last, last, vector("output_norm", s_.width), kNone, NormKind::kRms, 1e-5f, 1});
    WeightId output = s_.tied ? embed : matrix("output", s_.vocab, s_.width, mix_.output);
    p.ops.push_back(LinearOp{last, logits, output});
    p.result = logits;
  }

  void encoder() {
    Program& p = m_->program;
    BertShape shape;
    shape.vocab = s_.vocab;
    shape.width = s_.width;
    shape.ffn = s_.ffn;
    shape.layers = s_.layers;
    shape.heads = s_.heads;
    shape.head_dim = s_.head_dim;
    shape.position_rows = p.max_positions;
    shape.type_rows = 2;
    shape.attention_scale = 1 / std::sqrt(static_cast<float>(s_.head_dim));
    ValueId x = add_bert(
        p, shape, [&](BertWeight kind, const std::string& name, int64_t rows, int64_t cols) {
          if (rows == 1) return vector(name, cols);
          return weight(name, rows, cols, mix_.base, kind == BertWeight::kTable ? 8 : 1);
        });
    ValueId out = value("pooled", s_.width, Rows::kSequences);
    p.ops.push_back(PoolOp{x, out, PoolKind::kMean});
    p.ops.push_back(L2NormalizeOp{out});
    p.result = out;
  }

  const Shape& s_;
  const Mix& mix_;
  std::unique_ptr<RandomModel> m_;
  Pool pool_;
  std::vector<std::pair<WeightType, float>> drawn_;
};

}  // namespace

std::vector<std::string> random_model_shapes() {
  std::vector<std::string> names;
  for (const Shape& s : kShapes) names.push_back(s.name);
  return names;
}

std::unique_ptr<RandomModel> random_model(const std::string& description) {
  size_t colon = description.find(':');
  std::string shape = description.substr(0, colon);
  std::string format = colon == std::string::npos ? "q4_k_m" : description.substr(colon + 1);
  const Shape* found = nullptr;
  for (const Shape& s : kShapes)
    if (shape == s.name) found = &s;
  if (!found)
    throw Error(ErrorKind::kUsage, fmt::format("shape {}: unknown", shape),
                fmt::format("known shapes: {}", fmt::join(random_model_shapes(), ", ")));
  Mix mix;
  if (format == "q4_k_m") {
    mix = {WeightType::kQ4_K, WeightType::kQ6_K, WeightType::kQ6_K};
  } else if (format == "q5_k_m") {
    mix = {WeightType::kQ5_K, WeightType::kQ6_K, WeightType::kQ6_K};
  } else if (auto type = weight_type_from_name(format)) {
    mix = {*type, *type, *type};
  } else {
    throw Error(ErrorKind::kUsage, fmt::format("format {}: unknown", format),
                "use q4_k_m, q5_k_m or a weight type: f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q2_k "
                "q3_k q4_k q5_k q6_k");
  }
  auto m = Builder(*found, mix).run();
  m->shape = shape;
  m->format = format;
  return m;
}

}  // namespace apud
