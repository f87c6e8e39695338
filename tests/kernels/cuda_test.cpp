// The CUDA executor against the reference: every op and weight format, odd shapes, paging, windows,
// soft caps, int8 KV, sampling; and that results do not depend on what runs beside them.
// Skips itself where there is no device.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "kernels/backend.h"
#include "tests/kernels/cuda_support.h"
#include "tests/kernels/synthetic.h"
#include "tests/kernels/tolerance.h"

namespace apud {
namespace {

using test::Cuda;
using test::DecoderShape;
using test::gpu;
using test::ids;
using test::Runner;
using test::small;
using test::Synthetic;

/// Decode multiplies float weights in floats and quantised ones with int8 activations; prefill
/// multiplies in fp16 (bf16 where the file does) with float sums: one rounding of 2^-11 (2^-8) on
/// each factor.
constexpr double kFp16Product = 1.5e-3;
constexpr double kBf16Product = 1.2e-2;

constexpr WeightType kAllTypes[] = {
    WeightType::kF32,  WeightType::kF16,  WeightType::kBF16, WeightType::kQ4_0, WeightType::kQ4_1,
    WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kQ8_0, WeightType::kQ2_K, WeightType::kQ3_K,
    WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K};

/// Embedding rows -> norm -> linear -> selected rows: the simplest decoder. One KV layer that holds
/// one head, so that the batch has pages.
struct LinearCase {
  std::unique_ptr<Synthetic> m = std::make_unique<Synthetic>(3);
  int count, out_cols;
  LinearCase(WeightType type, int rows_out, int cols, int count_, bool bias, bool accumulate,
             bool norm, RowOrder order = RowOrder::kPlain)
      : count(count_), out_cols(rows_out) {
    Program& p = m->program;
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(count) * cols);
    for (float& v : x) v = normal(m->generator());
    ValueId in = m->value("x", cols), n = m->value("n", cols), y = m->value("y", rows_out);
    ValueId out = m->value("out", rows_out, Rows::kOutputs);
    p.ops.push_back(EmbedOp{m->weight_of("x", count, cols, x), in});
    if (accumulate) p.ops.push_back(EmbedOp{m->weight("residual", count, rows_out), y});
    if (norm)
      p.ops.push_back(NormOp{in, n, m->weight("norm", 1, cols, WeightType::kF32, 4), kNone,
                             NormKind::kRms, 1e-6f, 1});
    WeightId w = m->weight("w", rows_out, cols, type);
    if (order == RowOrder::kRotaryPairs) {
      m->weights[static_cast<size_t>(w)].order = order;
      m->weights[static_cast<size_t>(w)].head_dim = rows_out / 2;
    }
    p.ops.push_back(
        LinearOp{norm ? n : in, y, w, bias ? m->weight("b", 1, rows_out) : kNone, accumulate});
    p.ops.push_back(SelectOp{y, out});
    p.result = out;
    p.name = "linear";
    p.max_positions = 4096;
    p.kv_groups.push_back({1, 1, 8, 0});
    p.kv_layers.push_back({0, 0});
  }
  std::vector<float> run(Executor& e, int first, int n) const {
    std::vector<int32_t> tokens(n), rows(n);
    std::iota(tokens.begin(), tokens.end(), first);
    std::iota(rows.begin(), rows.end(), 0);
    std::vector<int32_t> page((count + 63) / 64);
    std::iota(page.begin(), page.end(), 0);
    int pages = static_cast<int>(page.size());
    auto kv = e.make_kv(std::span(&pages, 1), e.default_kv_type());
    SequenceSlice s{0, n, 0, {}};
    s.pages[0] = page;
    std::vector<float> out(static_cast<size_t>(n) * out_cols);
    e.run({tokens, std::span(&s, 1), rows}, kv.get(), out);
    return out;
  }
};

double decode_limit(WeightType type) {
  return block_values(type) == 1 ? test::kFloat : test::kActBlock32;
}
double prefill_limit(WeightType type) {
  return type == WeightType::kBF16 ? kBf16Product : kFp16Product;
}

/// Prefill of 150 tokens, a chunk of 70 on top, seven decode steps, a chunk of 5 and others.
double decoder_error(const DecoderShape& shape, KvType type, bool deterministic = false) {
  auto m = test::synthetic_decoder(shape);
  auto reference = make_reference_executor(m->program, m->weights);
  auto e = gpu(*m, deterministic);
  Runner want(*reference, 1, 320, KvType::kF32), got(*e, 1, 320, type);
  double worst = 0;
  int seed = 20;
  const std::vector<int> steps = small() ? std::vector<int>{70, 1, 5}
                                         : std::vector<int>{150, 70, 1, 1, 1, 1, 1, 1, 1, 5, 2, 30};
  for (int n : steps) {
    auto tokens = ids(n, ++seed);
    auto w = want.step({{0, tokens}}), g = got.step({{0, tokens}});
    double error = test::relative_error(g, w);
    EXPECT_TRUE(std::isfinite(error));
    worst = std::max(worst, error);
  }
  return worst;
}

TEST_F(Cuda, LinearOfEveryFormatAndOddShapes) {
  for (WeightType type : kAllTypes) {
    int block = block_values(type);
    for (auto [rows, cols] :
         {std::pair{33, 5}, {1, 2}, {16, 1}, {48, 3}, {130, 4}, {1100, 9}, {40, 100}}) {
      if (small() && rows != 33 && rows != 1 && (rows != 40 || type != WeightType::kQ8_0)) continue;
      int width = block == 1 ? cols * 19 : block * cols;
      for (bool norm : {false, true}) {
        LinearCase c(type, rows, width, 41, rows % 2 == 1, rows % 3 == 0, norm);
        auto want = c.run(*make_reference_executor(c.m->program, c.m->weights), 0, 41);
        auto e = gpu(*c.m);
        std::string what = std::string(weight_type_name(type)) + " " + std::to_string(rows) + "x" +
                           std::to_string(width) + (norm ? " norm" : "");
        EXPECT_LT(test::relative_error(c.run(*e, 0, 41), want), prefill_limit(type))
            << what << " prefill";
        for (int n : {1, 2, 3, 8}) {
          auto got = c.run(*e, 0, n);
          std::vector<float> part(want.begin(), want.begin() + n * rows);
          // A row of one or two outputs has no norm to average over.
          double slack = rows < 8 ? 20 : 1;
          EXPECT_LT(test::relative_error(got, part), slack * decode_limit(type))
              << what << ", " << n << " rows";
        }
      }
    }
  }
}

/// More outputs than all blocks that are resident at once make in one turn.
TEST_F(Cuda, BlocksThatStayForSeveralTiles) {
  for (WeightType type : kAllTypes) {
    if (block_values(type) == 1) continue;
    for (auto [rows, width] : {std::pair{12011, 512}, {27003, 256}, {6003, 2304}, {9003, 256}}) {
      if (small() != (rows == 9003)) continue;
      LinearCase c(type, rows, width, 8, true, false, true);
      auto want = c.run(*make_reference_executor(c.m->program, c.m->weights), 0, 8);
      auto e = gpu(*c.m);
      for (int n : {1, 2, 3, 8}) {
        std::vector<float> part(want.begin(), want.begin() + int64_t{n} * rows);
        EXPECT_LT(test::relative_error(c.run(*e, 0, n), part), decode_limit(type))
            << weight_type_name(type) << " " << rows << "x" << width << ", " << n << " rows";
      }
    }
  }
  // Two types in one launch, and pairs.
  DecoderShape s;
  s.layers = 1;
  s.heads = {64, 16, 128};
  s.ffn = 9216;
  s.types = {WeightType::kQ4_K, WeightType::kQ4_K, WeightType::kQ6_K, WeightType::kQ4_K,
             WeightType::kQ4_K, WeightType::kQ4_K, WeightType::kQ6_K};
  EXPECT_LT(decoder_error(s, KvType::kF16), 4e-2);
}

TEST_F(Cuda, WeightsAreTheFilesBitForBit) {
  // One-hot rows of x pick columns; with float arithmetic the result is the weight itself.
  for (WeightType type : kAllTypes) {
    int width = 512, rows = 40;
    LinearCase c(type, rows, width, 41, false, false, false);
    std::vector<float> x(41 * static_cast<size_t>(width), 0.f);
    for (int r = 0; r < 41; ++r) x[static_cast<size_t>(r) * width + (r * 37) % width] = 1;
    WeightView& table = c.m->weights[0];
    std::memcpy(const_cast<std::byte*>(table.data), x.data(), x.size() * 4);
    auto want = c.run(*make_reference_executor(c.m->program, c.m->weights), 0, 41);
    auto e = gpu(*c.m);
    auto few = c.run(*e, 0, 8);
    // Decode: int8 of a one-hot block is exact up to the rounding of 127 * (1 / 127).
    for (size_t i = 0; i < few.size(); ++i)
      EXPECT_NEAR(few[i], want[i], 1e-6 * std::abs(want[i]) + 5e-8)
          << weight_type_name(type) << " at " << i;
    auto many = c.run(*e, 0, 41);
    for (size_t i = 0; i < many.size(); ++i) {
      float half = type == WeightType::kBF16 ? want[i] : half_to_float(float_to_half(want[i]));
      EXPECT_EQ(many[i], half) << weight_type_name(type) << " at " << i;
    }
  }
}

/// Tables of every format, two of them added, few rows and many.
TEST_F(Cuda, EmbeddingsAndTheirSum) {
  for (WeightType type : kAllTypes) {
    Synthetic m(3);
    Program& p = m.program;
    const ValueId x = m.value("x", 512), y = m.value("y", 512),
                  out = m.value("out", 512, Rows::kOutputs);
    p.ops = {EmbedOp{m.weight("a", 320, 512, type), x},
             EmbedOp{m.weight("b", 320, 512, WeightType::kF16), y}, AddOp{x, y}, SelectOp{y, out}};
    p.result = out;
    p.name = "embeddings";
    p.max_positions = 4096;
    p.kv_groups.push_back({1, 1, 8, 0});
    p.kv_layers.push_back({0, 0});
    auto reference = make_reference_executor(p, m.weights);
    auto e = gpu(m);
    for (int n : {3, 41}) {
      Runner want(*reference, 1, 64, KvType::kF32), got(*e, 1, 64, KvType::kF16);
      EXPECT_LT(test::relative_error(got.step({{0, ids(n, 7)}}), want.step({{0, ids(n, 7)}})), 1e-6)
          << weight_type_name(type) << ", " << n << " rows";
    }
  }
}

TEST_F(Cuda, RotaryRowOrder) {
  for (WeightType type : {WeightType::kQ4_K, WeightType::kF16}) {
    LinearCase c(type, 64, 256, 20, false, false, false, RowOrder::kRotaryPairs);
    auto want = c.run(*make_reference_executor(c.m->program, c.m->weights), 0, 20);
    auto e = gpu(*c.m);
    EXPECT_LT(test::relative_error(c.run(*e, 0, 20), want), kFp16Product);
    std::vector<float> part(want.begin(), want.begin() + 64);
    EXPECT_LT(test::relative_error(c.run(*e, 0, 1), part), test::kActBlock32);
  }
}

TEST_F(Cuda, WholeDecoderOfEveryFormat) {
  for (WeightType type : kAllTypes) {
    // The other tests have the kernels of the others.
    if (small() && type != WeightType::kQ4_K && type != WeightType::kBF16) continue;
    DecoderShape s;
    s.types = {type};
    // Two layers of random weights pass an int8 error on undamped; 0.08 is a cosine of 0.997.
    double limit = type == WeightType::kBF16 ? 2e-2 : block_values(type) == 1 ? 4e-3 : 8e-2;
    EXPECT_LT(decoder_error(s, type == WeightType::kBF16 ? KvType::kBF16 : KvType::kF16), limit)
        << weight_type_name(type);
  }
}

TEST_F(Cuda, WholeDecoderOfEveryHeadWidthAndGroup) {
  for (auto [heads, kv, dim] : {std::array{2, 2, 32},
                                {4, 1, 64},
                                {6, 2, 80},
                                {4, 4, 96},
                                {3, 1, 112},
                                {8, 2, 128},
                                {20, 1, 64},
                                {2, 1, 256},
                                {4, 2, 192},
                                {5, 5, 8}}) {
    if (small() && dim != 32 && dim != 80 && dim % 128 != 0 && heads != 4) continue;
    DecoderShape s;
    s.layers = small() ? 1 : 2;
    s.heads = {heads, kv, dim};
    s.types = {WeightType::kF16};
    EXPECT_LT(decoder_error(s, KvType::kI8), 4e-2) << heads << "/" << kv << " x " << dim << " int8";
    if (small() && (dim == 64 || dim == 128)) continue;  // CudaRow and PrefillOverManyTiles
    EXPECT_LT(decoder_error(s, KvType::kF16), 4e-3) << heads << "/" << kv << " x " << dim;
    EXPECT_LT(decoder_error(s, KvType::kBF16), 2e-2)
        << heads << "/" << kv << " x " << dim << " bf16";
  }
}

TEST_F(Cuda, WindowsSoftCapsAndHeadNorms) {
  DecoderShape s;
  s.layers = small() ? 2 : 4;
  s.window = 48;
  s.softcap = 20;
  s.qk_norm = true;
  s.activation = Activation::kGeluTanh;
  s.types = {WeightType::kF16};
  EXPECT_LT(decoder_error(s, KvType::kF16), 4e-3);
  s.types = {WeightType::kQ4_K, WeightType::kQ6_K, WeightType::kQ5_0, WeightType::kQ8_0};
  EXPECT_LT(decoder_error(s, KvType::kF16), 4e-2);
  s.types = {WeightType::kBF16};
  EXPECT_LT(decoder_error(s, KvType::kF16), 2e-2);  // KV of the other 16-bit type
}

TEST_F(Cuda, DeterministicModeIsBitIdenticalHoweverTheTokensArrive) {
  DecoderShape s;
  s.types = {WeightType::kQ4_K, WeightType::kQ6_K, WeightType::kF16};
  auto m = test::synthetic_decoder(s);
  auto e = gpu(*m, true);
  const int count = small() ? 60 : 200;
  auto tokens = ids(count, 5), other = ids(40, 6);
  Runner whole(*e, 2, 320, KvType::kF16);
  auto a = whole.step({{0, tokens}});
  Runner pieces(*e, 2, 320, KvType::kF16);
  std::vector<float> b;
  int vocab = s.vocab;
  for (int at = 0, n = 0; at < count; at += n) {
    n = std::min(count - at, at % 5 ? 13 : 1 + at % 29);
    std::vector<int32_t> part(tokens.begin() + at, tokens.begin() + at + n);
    b = at == 0 || at > 150 ? pieces.step({{0, part}})
                            : pieces.step({{1, {other.begin(), other.begin() + 1}}, {0, part}});
    b.erase(b.begin(), b.end() - vocab);
  }
  EXPECT_TRUE(a == b);
}

TEST_F(Cuda, DecodeDoesNotDependOnTheBatchAroundIt) {
  DecoderShape s;
  s.types = {WeightType::kQ4_K, WeightType::kQ6_K, WeightType::kBF16};
  auto m = test::synthetic_decoder(s);
  auto e = gpu(*m);
  const int n = 8, least = small() ? 9 : 20, more = small() ? 1 : 17;
  std::vector<std::vector<float>> alone(n);
  for (int i = 0; i < n; ++i) {
    Runner r(*e, 1, 320, KvType::kF16);
    r.step({{0, ids(least + more * i, i)}});
    for (int t = 0; t < 3; ++t) alone[i] = r.step({{0, {t + i}}});
  }
  for (auto order :
       {std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}, {7, 3, 1, 0, 2, 6, 5, 4}, {5, 2}, {4, 6, 1}}) {
    Runner r(*e, n, 320, KvType::kF16);
    for (int i : order) r.step({{i, ids(least + more * i, i)}});
    std::vector<float> got;
    for (int t = 0; t < 3; ++t) {
      std::vector<std::pair<int, std::vector<int32_t>>> parts;
      for (int i : order) parts.push_back({i, {t + i}});
      got = r.step(parts);
    }
    for (size_t k = 0; k < order.size(); ++k)
      EXPECT_TRUE(
          std::equal(alone[order[k]].begin(), alone[order[k]].end(), got.begin() + k * s.vocab))
          << "sequence " << order[k] << " in a batch of " << order.size();
  }
}

TEST_F(Cuda, RaggedBatchesEqualSingleSequences) {
  DecoderShape s;
  s.types = {WeightType::kF16};
  auto m = test::synthetic_decoder(s);
  auto reference = make_reference_executor(m->program, m->weights);
  auto e = gpu(*m);
  Runner want(*reference, 3, 320, KvType::kF32), got(*e, 3, 320, KvType::kF16);
  for (auto& counts : {std::array{130, 1, 64}, {1, 70, 1}, {1, 1, 1}, {3, 1, 2}, {20, 30, 1}}) {
    std::vector<std::pair<int, std::vector<int32_t>>> parts;
    for (int i = 0; i < 3; ++i) parts.push_back({i, ids(counts[i], 40 + i + counts[i])});
    EXPECT_LT(test::relative_error(got.step(parts), want.step(parts)), 4e-3);
  }
}

/// More output rows than are computed at a time, and logits so wide that, were the token rows given
/// up after the first chunk, they would lie over them.
TEST_F(Cuda, ManyOutputRows) {
  DecoderShape s;
  s.vocab = 8192;
  s.types = {WeightType::kF16};
  auto m = test::synthetic_decoder(s);
  auto reference = make_reference_executor(m->program, m->weights);
  auto e = gpu(*m, false, 200);
  auto all = [&](Executor& x, KvType type) {
    Runner r(x, 1, 256, type);
    std::vector<int32_t> tokens = ids(200, 3), rows(200);
    std::iota(rows.begin(), rows.end(), 0);
    SequenceSlice slice{0, 200, 0, {}};
    for (size_t g = 0; g < x.program().kv_groups.size(); ++g) slice.pages[g] = r.pages[0];
    std::vector<float> out(200 * static_cast<size_t>(s.vocab));
    x.run({tokens, std::span(&slice, 1), rows}, r.kv.get(), out);
    return out;
  };
  EXPECT_LT(test::relative_error(all(*e, KvType::kF16), all(*reference, KvType::kF32)), 4e-3);
}

TEST_F(Cuda, TwoRunsGiveEqualBits) {
  DecoderShape s;
  s.types = {WeightType::kQ4_K, WeightType::kQ6_K};
  auto m = test::synthetic_decoder(s);
  std::vector<float> first;
  for (int run = 0; run < 2; ++run) {
    auto e = gpu(*m);
    Runner r(*e, 1, 320, KvType::kF16);
    auto out = r.step({{0, ids(300, 1)}});
    for (int t = 0; t < 5; ++t) {
      auto more = r.step({{0, {t}}});
      out.insert(out.end(), more.begin(), more.end());
    }
    if (run == 0)
      first = out;
    else
      EXPECT_TRUE(first == out);
  }
}

TEST_F(Cuda, SamplingDrawsWhatTheHostDraws) {
  DecoderShape s;
  s.vocab = 5000;
  s.types = {WeightType::kF16};
  auto m = test::synthetic_decoder(s);
  auto e = gpu(*m);
  std::vector<int32_t> seen = {5, 9, 9, 17, 4999, 9};
  std::vector<uint64_t> allowed((s.vocab + 63) / 64, 0xAAAAAAAAAAAAAAAAull);
  std::vector<SamplingRow> rows;
  auto add = [&](auto&& set) {
    SamplingRow r;
    set(r);
    r.seed = 77;
    r.counter = rows.size();
    rows.push_back(r);
  };
  add([](SamplingRow&) {});
  add([](SamplingRow& r) { r.temperature = 1; });
  add([](SamplingRow& r) {
    r.temperature = 0.7f;
    r.top_k = 40;
  });
  add([](SamplingRow& r) {
    r.temperature = 1.3f;
    r.top_p = 0.9f;
  });
  add([](SamplingRow& r) {
    r.temperature = 1;
    r.min_p = 0.05f;
  });
  add([&](SamplingRow& r) {
    r.temperature = 1;
    r.top_k = 100;
    r.top_p = 0.8f;
    r.min_p = 0.01f;
    r.allowed = allowed;
  });
  add([&](SamplingRow& r) {
    r.repetition_penalty = 1.3f;
    r.presence_penalty = 0.5f;
    r.frequency_penalty = 0.2f;
    r.seen = seen;
  });
  add([&](SamplingRow& r) { r.allowed = allowed; });
  int differences = 0, draws = 0;
  for (int round = 0; round < (small() ? 2 : 20); ++round) {
    Runner r(*e, 8, 64, KvType::kF16);
    std::vector<int32_t> tokens = ids(8, 100 + round), out_rows(8);
    std::iota(out_rows.begin(), out_rows.end(), 0);
    std::vector<SequenceSlice> slices;
    for (int i = 0; i < 8; ++i) {
      SequenceSlice slice{i, 1, 0, {}};
      slice.pages[0] = r.pages[i];
      slices.push_back(slice);
    }
    for (SamplingRow& row : rows) row.counter += 8;
    std::vector<float> logits(8 * static_cast<size_t>(s.vocab));
    Batch batch{tokens, slices, out_rows};
    e->run(batch, r.kv.get(), logits);
    std::vector<SampledToken> got(8);
    e->run_sampled(batch, r.kv.get(), rows, got);
    for (int i = 0; i < 8; ++i) {
      SampledToken want = sample_row(std::span(logits).subspan(i * s.vocab, s.vocab), rows[i]);
      ++draws;
      if (want.id != got[i].id)
        ++differences;
      else
        EXPECT_NEAR(want.logprob, got[i].logprob, 1e-4);
      if (!(rows[i].temperature > 0)) {
        EXPECT_EQ(want.id, got[i].id) << "greedy row " << i;
      }
    }
    // Every row greedy: the short way.
    std::vector<SamplingRow> greedy(8);
    e->run_sampled(batch, r.kv.get(), greedy, got);
    for (int i = 0; i < 8; ++i)
      EXPECT_EQ(got[i].id,
                sample_row(std::span(logits).subspan(i * s.vocab, s.vocab), greedy[i]).id);
  }
  // Sums are kept in fixed point here and in doubles there: a draw on a boundary may fall either
  // way.
  EXPECT_LE(differences, 1) << "of " << draws;
}

TEST_F(Cuda, RefusesWhatItCannotHold) {
  DecoderShape s;
  auto m = test::synthetic_decoder(s);
  auto e = gpu(*m);
  int pages = 4;
  EXPECT_THROW(e->make_kv(std::span(&pages, 1), KvType::kF32), Error);
  pages = 1 << 30;
  try {
    e->make_kv(std::span(&pages, 1), KvType::kF16);
    FAIL() << "no card holds this";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBusy);
  }
  pages = 4;
  EXPECT_NE(e->make_kv(std::span(&pages, 1), KvType::kF16), nullptr) << "usable after a refusal";
}

}  // namespace
}  // namespace apud
