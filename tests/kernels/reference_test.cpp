// The reference executor on a toy decoder and a toy encoder: a row's result depends on its sequence
// alone, however the tokens are cut into steps; and the Program's checks, costs and print.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>

#include "base/error.h"
#include "kernels/backend.h"

namespace apud {
namespace {

struct Toy {
  Program program;
  Weights weights;
  std::vector<std::unique_ptr<std::vector<float>>> storage;
  std::mt19937 generator{7};

  ValueId value(const char* name, int cols, Rows rows = Rows::kTokens) {
    program.values.push_back({name, rows, cols});
    return static_cast<ValueId>(program.values.size()) - 1;
  }
  WeightId weight(const char* name, int64_t rows, int64_t cols, float spread = 0.3f) {
    auto data = std::make_unique<std::vector<float>>(static_cast<size_t>(rows * cols));
    std::normal_distribution<float> normal(0, spread);
    for (float& x : *data) x = normal(generator);
    program.weights.push_back({name, rows, cols});
    weights.push_back(
        {WeightType::kF32, rows, cols, reinterpret_cast<const std::byte*>(data->data())});
    storage.push_back(std::move(data));
    return static_cast<WeightId>(program.weights.size()) - 1;
  }
};

constexpr int kVocab = 50, kWidth = 24;

/// Two layers: one global, one with a window; grouped heads, softcap, partial rotary.
std::unique_ptr<Toy> toy_decoder() {
  auto toy = std::make_unique<Toy>();
  Program& p = toy->program;
  p.name = "toy";
  p.max_positions = 1000;
  HeadShape shape{4, 2, 8};
  ValueId x = toy->value("x", kWidth), n = toy->value("n", kWidth);
  ValueId q = toy->value("q", 32), k = toy->value("k", 16), v = toy->value("v", 16);
  ValueId a = toy->value("a", 32), gate = toy->value("gate", 40), up = toy->value("up", 40);
  ValueId last = toy->value("last", kWidth, Rows::kOutputs);
  ValueId logits = toy->value("logits", kVocab, Rows::kOutputs);
  WeightId table = toy->weight("table", kVocab, kWidth, 1);
  p.ops.push_back(EmbedOp{table, x});
  p.kv_groups = {{1, 2, 8, 0}, {1, 2, 8, 5}};
  for (int layer = 0; layer < 2; ++layer) {
    p.kv_layers.push_back({layer, 0});
    p.ops.push_back(NormOp{x, n, toy->weight("norm", 1, kWidth, 1)});
    p.ops.push_back(LinearOp{n, q, toy->weight("wq", 32, kWidth), toy->weight("bq", 1, 32)});
    p.ops.push_back(LinearOp{n, k, toy->weight("wk", 16, kWidth)});
    p.ops.push_back(LinearOp{n, v, toy->weight("wv", 16, kWidth)});
    RotaryOp rotary{q, k, v, shape};
    rotary.rotary.inv_freq = {1, 0.3f, 0.1f};
    rotary.kv_layer = layer;
    p.ops.push_back(rotary);
    AttentionOp attention{q, a};
    attention.shape = shape;
    attention.scale = 0.35f;
    attention.softcap = layer == 0 ? 5.0f : 0.0f;
    attention.window = layer == 1 ? 5 : 0;
    attention.kv_layer = layer;
    p.ops.push_back(attention);
    p.ops.push_back(LinearOp{a, x, toy->weight("wo", kWidth, 32), kNone, true});
    p.ops.push_back(LinearOp{x, gate, toy->weight("wg", 40, kWidth)});
    p.ops.push_back(LinearOp{x, up, toy->weight("wu", 40, kWidth)});
    p.ops.push_back(ActivationOp{gate, up, gate});
    p.ops.push_back(LinearOp{gate, x, toy->weight("wd", kWidth, 40), kNone, true});
  }
  p.ops.push_back(SelectOp{x, last});
  p.ops.push_back(LinearOp{last, logits, table});
  p.ops.push_back(SoftcapOp{logits, 30});
  p.result = logits;
  return toy;
}

std::vector<int32_t> tokens_of(int count, int seed) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * 7 + seed * 11 + i * i) % kVocab);
  return tokens;
}

/// Logits of every position of one sequence, computed in steps of `chunk` tokens.
std::vector<float> logits_of(Executor& executor, const std::vector<int32_t>& tokens, int chunk,
                             std::vector<int32_t> pages = {2, 0, 1}) {
  std::vector<int> counts = {3, 3};
  auto kv = executor.make_kv(counts, KvType::kF32);
  std::vector<float> all(tokens.size() * kVocab);
  for (int at = 0; at < static_cast<int>(tokens.size()); at += chunk) {
    int n = std::min(chunk, static_cast<int>(tokens.size()) - at);
    SequenceSlice slice{0, n, at, {}};
    slice.pages[0] = slice.pages[1] = pages;
    std::vector<int32_t> rows(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) rows[static_cast<size_t>(i)] = i;
    Batch batch{std::span(tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(n)),
                std::span(&slice, 1), rows};
    executor.run(
        batch, kv.get(),
        std::span(all).subspan(static_cast<size_t>(at) * kVocab, static_cast<size_t>(n) * kVocab));
  }
  return all;
}

TEST(Reference, ChunksGiveTheSameBitsAsOneStep) {
  auto toy = toy_decoder();
  auto executor = make_reference_executor(toy->program, toy->weights);
  auto tokens = tokens_of(150, 1);  // three pages
  auto whole = logits_of(*executor, tokens, 150);
  EXPECT_EQ(whole, logits_of(*executor, tokens, 1));
  EXPECT_EQ(whole, logits_of(*executor, tokens, 64, {0, 1, 2}));
  EXPECT_EQ(whole, logits_of(*executor, tokens, 37));
}

TEST(Reference, NeighboursInABatchChangeNothing) {
  auto toy = toy_decoder();
  auto executor = make_reference_executor(toy->program, toy->weights);
  auto a = tokens_of(20, 1), b = tokens_of(33, 2);
  auto alone = logits_of(*executor, a, 20), other = logits_of(*executor, b, 33);
  std::vector<int> counts = {2, 2};
  auto kv = executor->make_kv(counts, KvType::kF32);
  std::vector<int32_t> page_a = {1}, page_b = {0}, tokens = b, rows = {52, 32};
  tokens.insert(tokens.end(), a.begin(), a.end());
  SequenceSlice slices[2] = {{0, 33, 0, {}}, {33, 20, 0, {}}};
  slices[0].pages[0] = slices[0].pages[1] = page_b;
  slices[1].pages[0] = slices[1].pages[1] = page_a;
  std::vector<float> out(2 * kVocab);
  executor->run({tokens, slices, rows}, kv.get(), out);
  EXPECT_TRUE(std::equal(out.begin(), out.begin() + kVocab, alone.end() - kVocab));
  EXPECT_TRUE(std::equal(out.begin() + kVocab, out.end(), other.end() - kVocab));
}

TEST(Reference, WindowForgetsWhatIsBehindIt) {
  auto toy = toy_decoder();
  // Both layers windowed: after two layers a token sees 2 * (5 - 1) tokens back, not more.
  for (Op& op : toy->program.ops) {
    if (auto* attention = std::get_if<AttentionOp>(&op)) attention->window = 5;
  }
  auto executor = make_reference_executor(toy->program, toy->weights);
  auto tokens = tokens_of(30, 1), changed = tokens;
  changed[20] = (changed[20] + 1) % kVocab;
  auto a = logits_of(*executor, tokens, 30), b = logits_of(*executor, changed, 30);
  for (int t = 0; t < 30; ++t) {
    bool same =
        std::equal(a.begin() + t * kVocab, a.begin() + (t + 1) * kVocab, b.begin() + t * kVocab);
    EXPECT_EQ(same, t < 20 || t > 28) << "position " << t;
  }
}

TEST(Reference, PagesCopyExportAndImport) {
  auto toy = toy_decoder();
  auto executor = make_reference_executor(toy->program, toy->weights);
  auto tokens = tokens_of(41, 3);
  auto whole = logits_of(*executor, tokens, 41);
  std::vector<int> counts = {3, 3};
  auto kv = executor->make_kv(counts, KvType::kF32);
  auto step = [&](int at, int n, std::vector<int32_t> pages, KvStore* store) {
    SequenceSlice slice{0, n, at, {}};
    slice.pages[0] = slice.pages[1] = pages;
    std::vector<int32_t> rows = {n - 1};
    std::vector<float> out(kVocab);
    executor->run({std::span(tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(n)),
                   std::span(&slice, 1), rows},
                  store, out);
    return out;
  };
  step(0, 40, {0}, kv.get());
  auto other = executor->make_kv(counts, KvType::kF32);
  for (int group = 0; group < 2; ++group) {
    kv->copy_page(group, 0, 2, 40);
    std::vector<std::byte> bytes(kv->page_bytes(group));
    kv->export_page(group, 0, bytes);
    other->import_page(group, 1, bytes);
  }
  std::vector<float> wanted(whole.end() - kVocab, whole.end());
  EXPECT_EQ(step(40, 1, {2}, kv.get()), wanted);
  EXPECT_EQ(step(40, 1, {1}, other.get()), wanted);
  EXPECT_EQ(kv->layout_id(), other->layout_id());
}

TEST(Reference, OnlyFloatKv) {
  auto toy = toy_decoder();
  auto executor = make_reference_executor(toy->program, toy->weights);
  std::vector<int> counts = {1, 1};
  EXPECT_THROW(executor->make_kv(counts, KvType::kF16), Error);
}

TEST(Reference, RunSampledIsRunThenSample) {
  auto toy = toy_decoder();
  auto executor = make_reference_executor(toy->program, toy->weights);
  auto tokens = tokens_of(10, 5);
  auto whole = logits_of(*executor, tokens, 10);
  std::vector<int> counts = {1, 1};
  auto kv = executor->make_kv(counts, KvType::kF32);
  std::vector<int32_t> pages = {0}, rows = {4, 9};
  SequenceSlice slice{0, 10, 0, {}};
  slice.pages[0] = slice.pages[1] = pages;
  std::vector<SamplingRow> sampling(2);
  std::vector<SampledToken> out(2);
  executor->run_sampled({tokens, std::span(&slice, 1), rows}, kv.get(), sampling, out);
  for (int i = 0; i < 2; ++i) {
    std::span<const float> row(whole.data() + rows[static_cast<size_t>(i)] * kVocab, kVocab);
    EXPECT_EQ(out[static_cast<size_t>(i)].id, sample_row(row, {}).id);
  }
}

TEST(Program, CostCountsTiedWeightsOnce) {
  auto toy = toy_decoder();
  ProgramCost cost = program_cost(toy->program, toy->weights);
  int64_t layer = 24 + 32 * 24 + 32 + 2 * 16 * 24 + 24 * 32 + 3 * 40 * 24;
  EXPECT_EQ(cost.parameters, kVocab * kWidth + 2 * layer);
  EXPECT_EQ(cost.weight_bytes, 4 * cost.parameters);
  EXPECT_EQ(cost.flops_per_token, 2 * (kVocab * kWidth + 2 * (layer - 24 - 32)));
  EXPECT_EQ(cost.read_bytes_per_token, 4 * (cost.parameters + kWidth));
  EXPECT_EQ(cost.kv_values_per_token, 2 * 2 * 16);
  EXPECT_EQ(cost.attention_flops_per_kv, 2 * 4 * 32);
}

TEST(Program, PrintNamesEveryOp) {
  auto toy = toy_decoder();
  std::string text = print_program(toy->program, toy->weights);
  for (const char* word : {"embed", "rms_norm", "linear", "rotary", "attention", "silu", "select",
                           "softcap", "window 5", "kv group 1", "table[f32 50x24]"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << "\n" << text;
  }
}

std::string refusal(const Program& program, const Weights& weights) {
  try {
    validate_program(program, weights);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kBadData);
    return e.what();
  }
  return {};
}

TEST(Program, ValidationRefusesEachKindOfMistake) {
  auto toy = toy_decoder();
  EXPECT_EQ(refusal(toy->program, toy->weights), "");
  auto broken = [&](auto change) {
    Program program = toy->program;
    Weights weights = toy->weights;
    change(program, weights);
    return refusal(program, weights);
  };
  auto has = [](const std::string& text, const char* word) {
    EXPECT_NE(text.find(word), std::string::npos) << word << " not in: " << text;
  };
  has(broken([](Program& p, Weights&) { std::swap(p.ops[0], p.ops[1]); }), "read before");
  has(broken([](Program& p, Weights&) { std::get<LinearOp>(p.ops[2]).weight = 999; }),
      "out of range");
  has(broken([](Program& p, Weights&) { std::get<LinearOp>(p.ops[2]).out = -3; }), "out of range");
  has(broken([](Program&, Weights& w) { w.pop_back(); }), "slots");
  has(broken([](Program&, Weights& w) { w[1].cols = 23; }), "shape");
  has(broken([](Program& p, Weights&) { p.kv_layers[1] = p.kv_layers[0]; }), "two KV layers");
  has(broken([](Program& p, Weights&) { p.kv_groups[0].head_dim = 4; }), "KV group");
  has(broken([](Program& p, Weights&) { p.result = 0; }), "rows");
  has(broken([](Program& p, Weights&) { p.values[0].cols = 25; }), "25");
  for (Op& op : toy->program.ops) {
    if (auto* attention = std::get_if<AttentionOp>(&op); attention && attention->window) {
      attention->window = 6;
    }
  }
  has(refusal(toy->program, toy->weights), "behind");
}

}  // namespace
}  // namespace apud
