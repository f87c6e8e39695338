// What short golden texts cannot show: long rope, Llama 3's frequencies, windows and KV groups; and
// EmbeddingGemma's head, whose model is not everywhere.
#include "models/arch/arch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/random_model.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::GgufWriter;
using test::tiny_llama;

/// Builds the file with the given values in some of its f32 tensors.
std::string with_values(const GgufWriter& writer,
                        const std::vector<std::pair<std::string, std::vector<float>>>& values) {
  std::string bytes = writer.build();
  GgufFile file = GgufFile::parse(test::as_bytes(bytes), "x");
  for (const auto& [name, numbers] : values) {
    auto at = static_cast<size_t>(reinterpret_cast<const char*>(file.tensor(name)->view.data) -
                                  bytes.data());
    std::memcpy(bytes.data() + at, numbers.data(), numbers.size() * 4);
  }
  return bytes;
}

Rotary rotary_of(const std::string& bytes, int context = 0) {
  GgufFile file = GgufFile::parse(test::as_bytes(bytes), "x");
  auto source = make_gguf_source(file);
  LoadedProgram loaded = build_program(config_from_gguf(file, context), *source);
  for (const Op& op : loaded.program.ops) {
    if (auto* rotary = std::get_if<RotaryOp>(&op)) return rotary->rotary;
  }
  return {};
}

/// A random model's weights as a file's tensors.
class RandomTensors : public TensorSource {
 public:
  explicit RandomTensors(const RandomModel& model) : model_(model) {}
  const std::string& name() const override { return model_.shape; }
  std::optional<WeightView> find(const std::string& name) const override {
    for (size_t i = 0; i < model_.weights.size(); ++i)
      if (model_.program.weights[i].name == name) return model_.weights[i];
    return {};
  }
  void for_each(const std::function<void(const WeightView&)>& visit) const override {
    for (const WeightView& view : model_.weights) visit(view);
  }

 private:
  const RandomModel& model_;
};

TEST(Arch, RandomEncodersHaveTheOpsOfFiles) {
  // What the benchmark measures and the device tests run is what models run.
  auto random = random_model("e5-small:q8_0");
  ArchConfig config;
  config.encoder = true;
  config.normalize = true;
  config.position_rows = 512;
  ModelConfig& c = config.model;
  c.architecture = "bert";
  c.vocab = 250037;
  c.width = 384;
  c.ffn_width = 1536;
  c.layers = c.heads = 12;
  c.head_dim = 32;
  c.context = 512;
  c.norm_eps = 1e-12f;
  c.attention_scale = 1 / std::sqrt(32.f);
  LoadedProgram loaded = build_program(config, RandomTensors(*random));
  loaded.program.name = random->program.name;
  EXPECT_EQ(print_program(random->program, random->weights),
            print_program(loaded.program, loaded.weights));
}

TEST(Arch, RopeFrequenciesOfTheFileDivide) {
  GgufWriter w = tiny_llama();
  w.f32_tensor("rope_freqs.weight", {2});
  Rotary plain = rotary_of(tiny_llama().build());
  ASSERT_EQ(plain.inv_freq.size(), 2u);
  EXPECT_FLOAT_EQ(plain.inv_freq[0], 1);
  EXPECT_FLOAT_EQ(plain.inv_freq[1], 0.01f);
  Rotary scaled = rotary_of(with_values(w, {{"rope_freqs.weight", {1, 8}}}));
  EXPECT_FLOAT_EQ(scaled.inv_freq[0], 1);
  EXPECT_FLOAT_EQ(scaled.inv_freq[1], 0.01f / 8);
  GgufWriter linear = tiny_llama();
  linear.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4);
  EXPECT_FLOAT_EQ(rotary_of(linear.build()).inv_freq[1], 0.01f / 4);
}

TEST(Arch, LongRopeChoosesItsFactorsByTheContext) {
  GgufWriter w = tiny_llama();
  w.u32("llama.rope.scaling.original_context_length", 16);
  w.f32_tensor("rope_factors_long.weight", {2}).f32_tensor("rope_factors_short.weight", {2});
  std::string bytes = with_values(
      w, {{"rope_factors_long.weight", {2, 10}}, {"rope_factors_short.weight", {1, 5}}});
  EXPECT_FLOAT_EQ(rotary_of(bytes, 0).inv_freq[1], 0.001f);  // the model's own 64
  EXPECT_FLOAT_EQ(rotary_of(bytes, 17).inv_freq[1], 0.001f);
  EXPECT_FLOAT_EQ(rotary_of(bytes, 16).inv_freq[1], 0.002f);
  // sqrt(1 + ln(64 / 16) / ln 16) = sqrt(1.5)
  EXPECT_FLOAT_EQ(rotary_of(bytes, 16).magnitude, std::sqrt(1.5f));
}

TEST(Arch, WindowsMakeKvGroups) {
  GgufWriter w = tiny_llama();
  w.u32("llama.attention.sliding_window", 16);
  std::string bytes = w.build();
  GgufFile file = GgufFile::parse(test::as_bytes(bytes), "x");
  auto source = make_gguf_source(file);
  Program program = build_program(config_from_gguf(file, 0), *source).program;
  ASSERT_EQ(program.kv_groups.size(), 1u);
  EXPECT_EQ(program.kv_groups[0].window, 16);
  bytes = w.u32("llama.attention.sliding_window", 64).build();  // no position leaves it
  file = GgufFile::parse(test::as_bytes(bytes), "x");
  EXPECT_EQ(config_from_gguf(file, 0).model.window, 0);
}

TEST(Arch, FolderOfALlama3StatesItsFactors) {
  test::TempDir dir;
  std::ofstream(dir.path() / "config.json")
      << R"({"model_type":"llama","num_hidden_layers":16,"hidden_size":2048,"intermediate_size":8192,
             "num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"max_position_embeddings":131072,
             "rms_norm_eps":1e-5,"hidden_act":"silu","rope_theta":500000.0,"tie_word_embeddings":true,
             "rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,
                             "original_max_position_embeddings":8192,"rope_type":"llama3"}})";
  ModelConfig c = config_from_folder(dir.path(), 0).model;
  ASSERT_EQ(c.rope_factors.size(), 32u);
  EXPECT_FLOAT_EQ(c.rope_factors.front(), 1);  // one turn in 6 tokens: kept
  EXPECT_FLOAT_EQ(c.rope_factors.back(), 32);  // far less than one turn in 8192: slowed
  EXPECT_TRUE(c.tied_output);
  EXPECT_EQ(c.head_dim, 64);
}

TEST(Arch, LayerTypesMustFollowTheirPattern) {
  test::TempDir dir;
  auto load = [&](const std::string& types) {
    std::ofstream(dir.path() / "config.json")
        << R"({"model_type":"gemma3_text","num_hidden_layers":4,"hidden_size":64,"intermediate_size":128,
               "num_attention_heads":2,"num_key_value_heads":1,"head_dim":32,"vocab_size":100,
               "max_position_embeddings":1024,"rms_norm_eps":1e-6,"hidden_activation":"gelu_pytorch_tanh",
               "query_pre_attn_scalar":32,"sliding_window":128,
               "rope_parameters":{"full_attention":{"rope_type":"linear","factor":8.0,"rope_theta":1000000.0},
                                  "sliding_attention":{"rope_type":"default","rope_theta":10000.0}},
               "layer_types":[)"
        << types << "]}";
    return config_from_folder(dir.path(), 0).model;
  };
  const std::string s = "\"sliding_attention\"", f = "\"full_attention\"";
  ModelConfig c = load(s + "," + f + "," + s + "," + f);
  EXPECT_EQ(c.window_pattern, 2);
  EXPECT_EQ(c.window, 128);
  EXPECT_EQ(c.rope_local_base, 10000);
  EXPECT_EQ(c.rope_base, 1000000);
  EXPECT_EQ(c.rope_scale, 8);
  EXPECT_THROW(load(s + "," + f + "," + f + "," + s), Error);
  EXPECT_THROW(load(s + "," + f), Error);
  EXPECT_THROW(load(s + "," + f + "," + s + ",\"linear_attention\""), Error);
}

/// XLM-RoBERTa counts positions from the padding id on: the first token has pad + 1.
TEST(Arch, XlmRobertasPositionsFollowThePadding) {
  test::TempDir dir;
  dir.write("config.json", R"({"model_type":"xlm-roberta","num_hidden_layers":1,"hidden_size":8,
      "intermediate_size":16,"num_attention_heads":2,"vocab_size":100,"pad_token_id":1,
      "max_position_embeddings":514,"layer_norm_eps":1e-5,"hidden_act":"gelu"})");
  dir.write("1_Pooling/config.json", R"({"pooling_mode_mean_tokens":true})");
  dir.write("modules.json", R"([{"type":"x.Pooling","path":"1_Pooling"}])");
  ArchConfig config = config_from_folder(dir.path(), 0);
  EXPECT_EQ(config.position_offset, 2);
  EXPECT_EQ(config.position_rows, 514);
  EXPECT_EQ(config.model.context, 512);
}

TEST(Arch, PromptsOfMultilingualE5) {
  test::TempDir dir;
  dir.write("config.json", R"({"model_type":"bert","num_hidden_layers":1,"hidden_size":8,
      "intermediate_size":16,"num_attention_heads":2,"vocab_size":250037,
      "max_position_embeddings":64,"layer_norm_eps":1e-12,"hidden_act":"gelu"})");
  dir.write("1_Pooling/config.json", R"({"pooling_mode_mean_tokens":true})");
  auto prompts = [&](const std::string& last_module) {
    dir.write("modules.json", R"([{"type":"x.Pooling","path":"1_Pooling"})" + last_module + "]");
    ModelConfig c = config_from_folder(dir.path(), 0).model;
    return c.query_prompt + "|" + c.passage_prompt;
  };
  const std::string normalize = R"(,{"type":"x.Normalize","path":"2_Normalize"})";
  EXPECT_EQ(prompts(normalize), "query: |passage: ") << "its folder does not state them";
  EXPECT_EQ(prompts(""), "|") << "another model of this shape";
  dir.write("config_sentence_transformers.json",
            R"({"prompts":{"query":"ask: ","document":"text: "}})");
  EXPECT_EQ(prompts(normalize), "ask: |text: ") << "what is stated counts";
}

/// A safetensors file of the given F32 matrices (rows, columns; 0 rows: a vector).
using Matrices = std::map<std::string, std::pair<std::vector<int>, std::vector<float>>>;
void write_safetensors(const Path& path, const Matrices& matrices) {
  nlohmann::json header;
  std::string data;
  for (const auto& [name, matrix] : matrices) {
    size_t bytes = matrix.second.size() * 4;
    header[name] = {{"dtype", "F32"},
                    {"shape", matrix.first},
                    {"data_offsets", {data.size(), data.size() + bytes}}};
    data.append(reinterpret_cast<const char*>(matrix.second.data()), bytes);
  }
  std::string text = header.dump();
  text.append(-text.size() % 8, ' ');  // the data begins aligned
  uint64_t size = text.size();
  std::ofstream(path, std::ios::binary)
      << std::string_view(reinterpret_cast<const char*>(&size), 8) << text << data;
}

/// Both Dense layers are applied, in their order: they are linear, so the vector with them is
/// their product with the vector without them, brought to length one again.
TEST(Arch, EmbeddingGemmasDenseLayers) {
  constexpr int kWidth = 8, kInner = 12;
  test::TempDir dir;
  std::mt19937 random(7);
  auto matrix = [&](std::vector<int> shape) {
    std::vector<float> values(
        static_cast<size_t>(shape.size() == 1 ? shape[0] : shape[0] * shape[1]));
    for (float& v : values) v = std::normal_distribution<float>(0, 0.5f)(random);
    return std::pair{shape, values};
  };
  Matrices model;
  model["embed_tokens.weight"] = matrix({20, kWidth});
  model["norm.weight"] = matrix({kWidth});
  for (const char* norm : {"input_layernorm", "post_attention_layernorm",
                           "pre_feedforward_layernorm", "post_feedforward_layernorm"})
    model[std::string("layers.0.") + norm + ".weight"] = matrix({kWidth});
  for (const auto& [name, shape] :
       std::map<std::string, std::vector<int>>{{"self_attn.q_proj", {8, kWidth}},
                                               {"self_attn.k_proj", {4, kWidth}},
                                               {"self_attn.v_proj", {4, kWidth}},
                                               {"self_attn.o_proj", {kWidth, 8}},
                                               {"self_attn.q_norm", {4}},
                                               {"self_attn.k_norm", {4}},
                                               {"mlp.gate_proj", {16, kWidth}},
                                               {"mlp.up_proj", {16, kWidth}},
                                               {"mlp.down_proj", {kWidth, 16}}})
    model["layers.0." + name + ".weight"] = matrix(shape);
  auto put = [&](const std::string& name, const std::string& text) { dir.write(name, text); };
  put("config.json", R"({"model_type":"gemma3_text","use_bidirectional_attention":true,
      "num_hidden_layers":1,"hidden_size":8,"intermediate_size":16,"num_attention_heads":2,
      "num_key_value_heads":1,"head_dim":4,"vocab_size":20,"max_position_embeddings":64,
      "rms_norm_eps":1e-6,"query_pre_attn_scalar":4,"sliding_window":32,"rope_theta":1000000.0,
      "rope_local_base_freq":10000.0,"layer_types":["full_attention"]})");
  put("1_Pooling/config.json", R"({"pooling_mode_mean_tokens":true})");
  Matrices first, second;
  first["linear.weight"] = matrix({kInner, kWidth});
  second["linear.weight"] = matrix({kWidth, kInner});
  write_safetensors(dir.path() / "model.safetensors", model);
  auto add_dense = [&](const std::string& folder, int in, int out, const Matrices& weights) {
    put(folder + "/config.json",
        nlohmann::json{{"in_features", in},
                       {"out_features", out},
                       {"bias", false},
                       {"activation_function", "torch.nn.modules.linear.Identity"}}
            .dump());
    write_safetensors(dir.path() / folder / "model.safetensors", weights);
  };
  add_dense("2_Dense", kWidth, kInner, first);
  add_dense("3_Dense", kInner, kWidth, second);
  auto vector = [&](const std::vector<std::string>& folders) {
    nlohmann::json modules;
    for (const std::string& folder : folders)
      modules.push_back({{"type", "x." + folder.substr(2)}, {"path", folder}});
    modules.push_back({{"type", "x.Normalize"}, {"path", "9"}});
    put("modules.json", modules.dump());
    ArchConfig config = config_from_folder(dir.path(), 0);
    FolderTensors source(dir.path(), config.extra_files);
    LoadedProgram loaded = build_program(config, source);
    auto executor = make_reference_executor(loaded.program, loaded.weights);
    std::vector<int32_t> ids = {3, 14, 15, 9};
    SequenceSlice slice{0, 4, 0, {}};
    std::vector<float> out(static_cast<size_t>(config.model.embedding_dim));
    executor->run({ids, std::span(&slice, 1), {}}, nullptr, out);
    return out;
  };
  auto times = [](const Matrices& m, const std::vector<float>& x) {
    const std::vector<float>& weights = m.at("linear.weight").second;
    std::vector<float> y(weights.size() / x.size());
    for (size_t row = 0; row < y.size(); ++row) {
      for (size_t i = 0; i < x.size(); ++i) y[row] += weights[row * x.size() + i] * x[i];
    }
    return y;
  };
  auto expect_along = [](const std::vector<float>& got, const std::vector<float>& direction) {
    ASSERT_EQ(got.size(), direction.size());
    double norm = 0;
    for (float v : direction) norm += static_cast<double>(v) * v;
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_NEAR(got[i], direction[i] / std::sqrt(norm), 1e-4) << i;
  };
  std::vector<float> plain = vector({"1_Pooling"});
  std::vector<float> inner = times(first, plain);
  expect_along(vector({"1_Pooling", "2_Dense"}), inner);
  expect_along(vector({"1_Pooling", "2_Dense", "3_Dense"}), times(second, inner));
}

}  // namespace
}  // namespace apud
