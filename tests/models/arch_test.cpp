// What short golden texts cannot show: long rope, Llama 3's frequencies, windows and KV groups.
#include "models/arch/arch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "base/error.h"
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

}  // namespace
}  // namespace apud
