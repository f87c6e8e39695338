// The fast CPU executor against the reference: every path that this machine has, every format, odd
// shapes; and bitwise independence of rows from chunks, neighbours and threads.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "tests/kernels/synthetic.h"
#include "tests/kernels/tolerance.h"

namespace apud {
namespace {

using test::Synthetic;

std::unique_ptr<Executor> cpu(const Synthetic& m, CpuIsa isa, int threads = 2,
                              int max_tokens = 512) {
  CpuOptions options;
  options.isa = isa;
  options.threads = threads;
  options.max_step_tokens = max_tokens;
  auto executor = make_cpu_executor(m.program, m.weights, options);
  EXPECT_EQ(executor->name(),
            std::string("cpu-") + cpu_isa_name(isa));  // the path asked for, no other
  return executor;
}

std::string isa_name(const ::testing::TestParamInfo<CpuIsa>& info) {
  return cpu_isa_name(info.param);
}

// One linear layer over `rows` given rows of x, each its own sequence of an encoder.
struct LinearCase {
  std::unique_ptr<Synthetic> m = std::make_unique<Synthetic>(3);
  WeightId w;
  std::vector<int32_t> tokens;
  std::vector<SequenceSlice> slices;
  int out_cols;

  LinearCase(WeightType type, int rows_out, int cols, const std::vector<float>& x, bool bias,
             bool accumulate, RowOrder order = RowOrder::kPlain)
      : out_cols(rows_out) {
    int count = static_cast<int>(x.size()) / cols;
    ValueId in = m->value("x", cols), y = m->value("y", rows_out),
            out = m->value("out", rows_out, Rows::kSequences);
    m->program.ops.push_back(EmbedOp{m->weight_of("x", count, cols, x), in});
    if (accumulate) m->program.ops.push_back(EmbedOp{m->weight("residual", count, rows_out), y});
    w = m->weight("w", rows_out, cols, type);
    if (order == RowOrder::kRotaryPairs) {
      m->weights[static_cast<size_t>(w)].order = order;
      m->weights[static_cast<size_t>(w)].head_dim = rows_out / 2;
    }
    m->program.ops.push_back(
        LinearOp{in, y, w, bias ? m->weight("b", 1, rows_out) : kNone, accumulate});
    m->program.ops.push_back(PoolOp{y, out, PoolKind::kFirst});
    m->program.result = out;
    m->program.name = "linear";
    for (int i = 0; i < count; ++i) {
      tokens.push_back(i);
      slices.push_back({i, 1, 0, {}});
    }
  }

  std::vector<float> run(Executor& e, int first, int count) const {
    std::vector<float> out(static_cast<size_t>(count * out_cols));
    std::vector<SequenceSlice> some(slices.begin(), slices.begin() + count);
    e.run({std::span(tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
           some,
           {}},
          nullptr, out);
    return out;
  }
};

// What the AMX path multiplies in the place of quantised weights: cut to the upper half of a float,
// raised before by what a cut takes off in the mean. `values` keeps them.
Weights as_tiles(const LinearCase& c, std::vector<float>& values) {
  Weights weights = c.m->weights;
  WeightView& view = weights[static_cast<size_t>(c.w)];
  auto cols = static_cast<size_t>(view.cols);
  values.resize(static_cast<size_t>(view.rows) * cols);
  for (int64_t r = 0; r < view.rows; ++r)
    dequantize_row(view, r, values.data() + static_cast<size_t>(r) * cols);
  for (float& v : values) {
    if (view.type == WeightType::kF32) {
      v = bf16_to_float(float_to_bf16(v));
    } else {
      uint32_t bits = std::bit_cast<uint32_t>(v * (1 + 0.72134752f / 256));
      v = std::bit_cast<float>(bits & 0xffff0000u);
    }
  }
  view.data = reinterpret_cast<const std::byte*>(values.data());
  view.type = WeightType::kF32;
  view.order = RowOrder::kPlain;
  return weights;
}

// Rows of integers up to 127 with a 127 in every 32: int8 holds them exactly.
std::vector<float> exact_rows(int count, int cols) {
  std::mt19937 g(5);
  std::vector<float> x(static_cast<size_t>(count * cols));
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(static_cast<int>(g() % 255) - 127);
  for (size_t i = 0; i < x.size(); i += 32)
    x[i + g() % std::min<size_t>(32, x.size() - i)] = g() % 2 ? 127 : -127;
  return x;
}
std::vector<float> normal_rows(int count, int cols) {
  std::mt19937 g(6);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(count * cols));
  for (float& v : x) v = normal(g);
  return x;
}

class CpuPath : public ::testing::TestWithParam<CpuIsa> {};

constexpr WeightType kAllTypes[] = {
    WeightType::kF32,  WeightType::kF16,  WeightType::kBF16, WeightType::kQ4_0, WeightType::kQ4_1,
    WeightType::kQ5_0, WeightType::kQ5_1, WeightType::kQ8_0, WeightType::kQ2_K, WeightType::kQ3_K,
    WeightType::kQ4_K, WeightType::kQ5_K, WeightType::kQ6_K};

// A linear layer's program is an encoder, whose F32 weights tiles multiply, too.
bool in_tiles(WeightType type) { return type == WeightType::kF32 || cpu::tile_format(type); }

TEST_P(CpuPath, LinearEqualsTheReferenceWhereInt8IsExact) {
  for (WeightType type : kAllTypes) {
    int block = block_values(type);
    for (auto [rows, cols] : {std::pair{16, 1}, {48, 3}, {1, 2}, {33, 5}, {130, 4}}) {
      int width = block == 1 ? cols * (rows % 2 ? 19 : 32) : block * cols;
      int tokens = rows % 2 ? 23 : 13;
      auto x = exact_rows(tokens, width);
      LinearCase c(type, rows, width, x, rows % 2 == 1, rows % 3 == 0);
      bool cut = GetParam() == CpuIsa::kAmx && type != WeightType::kBF16 && in_tiles(type);
      bool words = !cut && (type == WeightType::kF32 || type == WeightType::kF16);
      std::vector<float> values;
      Weights weights = cut ? as_tiles(c, values) : c.m->weights;
      auto want = c.run(*make_reference_executor(c.m->program, weights), 0, tokens);
      auto fast = cpu(*c.m, GetParam());
      auto got = c.run(*fast, 0, tokens);
      EXPECT_LT(test::relative_error(got, want), words ? test::kWords
                                                 : cut ? test::kCutWeights
                                                       : test::kExactSums)
          << weight_type_name(type) << " " << rows << "x" << width;
    }
  }
}

TEST_P(CpuPath, LinearWithRotaryRowOrder) {
  auto x = exact_rows(5, 256);
  LinearCase c(WeightType::kQ4_K, 64, 256, x, false, false, RowOrder::kRotaryPairs);
  bool cut = GetParam() == CpuIsa::kAmx;
  std::vector<float> values;
  Weights weights = cut ? as_tiles(c, values) : c.m->weights;
  auto want = c.run(*make_reference_executor(c.m->program, weights), 0, 5);
  EXPECT_LT(test::relative_error(c.run(*cpu(*c.m, GetParam()), 0, 5), want),
            cut ? test::kCutWeights : test::kExactSums);
}

TEST_P(CpuPath, LinearStaysWithinTheErrorOfRoundedActivations) {
  for (WeightType type : kAllTypes) {
    auto x = normal_rows(7, 1024);
    LinearCase c(type, 80, 1024, x, true, false);
    auto want = c.run(*make_reference_executor(c.m->program, c.m->weights), 0, 7);
    bool tiles = GetParam() == CpuIsa::kAmx && in_tiles(type);
    double limit = tiles                       ? test::kActBf16
                   : type == WeightType::kBF16 ? test::kFloat
                   : block_values(type) == 1   ? test::kWords
                                               : test::kActBlock32;
    double error = test::relative_error(c.run(*cpu(*c.m, GetParam()), 0, 7), want);
    EXPECT_LT(error, limit) << weight_type_name(type);
    EXPECT_GT(error, 0) << "the fast path must not be the reference";
  }
}

TEST_P(CpuPath, ARowsResultDoesNotDependOnTheRowsBesideIt) {
  for (WeightType type : kAllTypes) {
    // More rows and inputs than one panel holds.
    int cols = block_values(type) == 1 ? 101 : 1280;
    auto x = normal_rows(211, cols);
    LinearCase c(type, 50, cols, x, true, false);
    auto fast = cpu(*c.m, GetParam());
    auto all = c.run(*fast, 0, 211);
    for (int count : {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 25, 48, 97, 200}) {
      int first = 211 - count - count % 3;
      auto some = c.run(*fast, first, count);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + first * 50))
          << weight_type_name(type) << ", " << count << " rows";
    }
  }
}

// A page that cannot be read follows the packed weights.
TEST_P(CpuPath, ProductsReadNothingBehindTheWeights) {
  const cpu::Kernels& kernels = cpu::kernels_of(GetParam());
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (WeightType type : kAllTypes) {
    for (int blocks : {1, 2, 3, 5, 9}) {
      const int cols = block_values(type) == 1 ? 31 * blocks : block_values(type) * blocks;
      const bool tiles = kernels.tiles && in_tiles(type);
      const auto packing = tiles ? cpu::Packing::kTiles : cpu::Packing::kExact;
      Synthetic m(7);
      WeightId id = m.weight("w", 16, cols, type);
      cpu::PackedMatrix packed = cpu::packed_layout(type, packing, 16, cols);
      const size_t bytes = (packed.bytes() + page - 1) / page * page;
      void* map =
          mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      ASSERT_NE(map, MAP_FAILED);
      auto* begin = static_cast<uint8_t*>(map);
      ASSERT_EQ(mprotect(begin + bytes, page, PROT_NONE), 0);
      packed.data = begin + bytes - packed.bytes();
      cpu::pack_strips(m.weights[static_cast<size_t>(id)], packed, 0, 1);
      for (int rows : {1, 5, 40}) {
        auto x = normal_rows(rows, cols);
        cpu::LinearArgs args;
        args.weight = &packed;
        args.x = x.data();
        args.x_stride = cols;
        const auto kind = cpu::act_kind(type, packing);
        args.act_layout = cpu::act_layout(kind, cols);
        args.act_layout.group = cpu::act_group(kind, rows);
        std::vector<uint8_t> acts(static_cast<size_t>(rows + cpu::kActSlackRows) *
                                  args.act_layout.stride);
        args.acts = acts.data();
        if (cpu::takes_acts(type, packing)) {
          for (int r = 0; r < rows; ++r)
            kernels.quantize(kind, &x[static_cast<size_t>(r * cols)], args.act_layout,
                             acts.data() + args.act_layout.at(r));
        }
        std::vector<float> out(static_cast<size_t>(rows) * 16);
        args.out = out.data();
        args.out_stride = 16;
        args.row_end = rows;
        std::vector<uint8_t> scratch(cpu::linear_scratch_bytes(cols, kernels.tiles) + 64);
        const auto at = reinterpret_cast<uintptr_t>(scratch.data());
        kernels.linear(args, 0, 1, reinterpret_cast<uint8_t*>((at + 63) / 64 * 64));
        for (float y : out) EXPECT_TRUE(std::isfinite(y)) << weight_type_name(type);
      }
      munmap(map, bytes + page);
    }
  }
}

struct Tokens {
  std::vector<int32_t> ids;
  Tokens(int count, int vocab, uint32_t seed) {
    std::mt19937 g(seed);
    for (int i = 0; i < count; ++i)
      ids.push_back(static_cast<int32_t>(g() % static_cast<uint32_t>(vocab)));
  }
};

// Logits of all positions of one sequence in steps of `chunk` tokens, over scattered pages.
std::vector<float> decode(Executor& e, const std::vector<int32_t>& ids, int chunk, KvType type) {
  int groups = static_cast<int>(e.program().kv_groups.size()),
      pages = static_cast<int>(ids.size() + 63) / 64;
  std::vector<int> counts(static_cast<size_t>(groups), pages + 2);
  auto kv = e.make_kv(counts, type);
  std::vector<int32_t> table;
  for (int i = 0; i < pages; ++i) table.push_back((i * 5 + 1) % pages);
  if (pages % 5 == 0) std::iota(table.begin(), table.end(), 0);
  auto vocab =
      static_cast<size_t>(e.program().values[static_cast<size_t>(e.program().result)].cols);
  std::vector<float> all(ids.size() * vocab);
  for (size_t begin = 0; begin < ids.size(); begin += static_cast<size_t>(chunk)) {
    size_t n = std::min(static_cast<size_t>(chunk), ids.size() - begin);
    SequenceSlice slice{0, static_cast<int>(n), static_cast<int>(begin), {}};
    for (int g = 0; g < groups; ++g) slice.pages[static_cast<size_t>(g)] = table;
    std::vector<int32_t> rows(n);
    std::iota(rows.begin(), rows.end(), 0);
    e.run({std::span(ids).subspan(begin, n), std::span(&slice, 1), rows}, kv.get(),
          std::span(all).subspan(begin * vocab, n * vocab));
  }
  return all;
}

std::vector<test::DecoderShape> decoder_shapes() {
  std::vector<test::DecoderShape> shapes(5);
  shapes[0].types = {WeightType::kF32, WeightType::kF16};
  shapes[1].types = {WeightType::kQ4_K, WeightType::kQ6_K, WeightType::kQ5_0};
  shapes[1].heads = {7, 1, 64};
  shapes[2].types = {WeightType::kQ8_0, WeightType::kBF16};
  shapes[2].heads = {4, 4, 80};
  shapes[2].window = 40;
  shapes[2].activation = Activation::kGeluTanh;
  shapes[2].qk_norm = true;
  shapes[3].types = {WeightType::kF32};
  shapes[3].heads = {4, 1, 256};
  shapes[3].window = 70;
  shapes[3].softcap = 8;
  shapes[4].types = {WeightType::kF32};
  shapes[4].heads = {2, 1, 24};
  shapes[4].magnitude = 1.2f;
  shapes[4].width = 40;
  shapes[4].ffn = 72;
  shapes[4].vocab = 37;
  return shapes;
}

TEST_P(CpuPath, DecoderEqualsTheReference) {
  for (const auto& shape : decoder_shapes()) {
    auto m = test::synthetic_decoder(shape);
    Tokens t(150, shape.vocab, 4);
    auto want = decode(*make_reference_executor(m->program, m->weights), t.ids, 150, KvType::kF32);
    auto fast = cpu(*m, GetParam());
    bool exact = shape.types[0] == WeightType::kF32;
    double base = exact ? test::kFloat : 0.06;  // four layers' worth of int8 activations
    EXPECT_LT(test::relative_error(decode(*fast, t.ids, 150, KvType::kF32), want), base)
        << shape.heads.dim;
    if (!exact) continue;
    EXPECT_LT(test::relative_error(decode(*fast, t.ids, 64, KvType::kF16), want), test::kKvF16);
    EXPECT_LT(test::relative_error(decode(*fast, t.ids, 64, KvType::kBF16), want), test::kKvBf16);
    EXPECT_LT(test::relative_error(decode(*fast, t.ids, 64, KvType::kI8), want), test::kKvI8);
  }
}

TEST_P(CpuPath, ChunksThreadsAndNeighboursChangeNoBit) {
  for (const auto& shape : decoder_shapes()) {
    auto m = test::synthetic_decoder(shape);
    auto one = cpu(*m, GetParam(), 1), three = cpu(*m, GetParam(), 3);
    Tokens t(150, shape.vocab, 9);
    auto whole = decode(*one, t.ids, 150, KvType::kF16);
    EXPECT_EQ(whole, decode(*three, t.ids, 150, KvType::kF16)) << "threads";
    EXPECT_EQ(whole, decode(*one, t.ids, 1, KvType::kF16)) << "token by token";
    EXPECT_EQ(whole, decode(*three, t.ids, 37, KvType::kF16)) << "chunks";
    EXPECT_EQ(decode(*one, t.ids, 150, KvType::kI8), decode(*three, t.ids, 13, KvType::kI8))
        << "int8 KV";
    // Beside another sequence, at other pages.
    Tokens other(90, shape.vocab, 10);
    std::vector<int32_t> ids = other.ids, pages_a = {3, 1, 4}, pages_b = {0, 2};
    ids.insert(ids.end(), t.ids.begin(), t.ids.end());
    SequenceSlice slices[2] = {{0, 90, 0, {}}, {90, 150, 0, {}}};
    for (size_t g = 0; g < m->program.kv_groups.size(); ++g) {
      slices[0].pages[g] = pages_b;
      slices[1].pages[g] = pages_a;
    }
    std::vector<int> counts(m->program.kv_groups.size(), 5);
    auto kv = three->make_kv(counts, KvType::kF16);
    std::vector<int32_t> rows = {239, 100};
    auto vocab = static_cast<size_t>(shape.vocab);
    std::vector<float> out(2 * vocab);
    three->run({ids, slices, rows}, kv.get(), out);
    EXPECT_TRUE(
        std::equal(out.begin(), out.begin() + shape.vocab, whole.begin() + 149 * shape.vocab));
    EXPECT_TRUE(std::equal(out.begin() + shape.vocab, out.end(), whole.begin() + 10 * shape.vocab));
  }
}

std::vector<float> encode(Executor& e, const std::vector<std::vector<int32_t>>& texts) {
  std::vector<int32_t> ids;
  std::vector<SequenceSlice> slices;
  for (const auto& text : texts) {
    slices.push_back({static_cast<int>(ids.size()), static_cast<int>(text.size()), 0, {}});
    ids.insert(ids.end(), text.begin(), text.end());
  }
  auto dim = static_cast<size_t>(e.program().values[static_cast<size_t>(e.program().result)].cols);
  std::vector<float> out(texts.size() * dim);
  e.run({ids, slices, {}}, nullptr, out);
  return out;
}

// Vectors of single tokens: their means are what the whole program pools.
TEST_P(CpuPath, RowsOfAnEncoderWithoutItsPooling) {
  test::EncoderShape shape;
  auto m = test::synthetic_encoder(shape);
  const Program rows = *unpooled(m->program);
  std::vector<int32_t> tokens, wanted;
  std::vector<SequenceSlice> slices;
  for (int n : {1, 7, 70}) {
    slices.push_back({static_cast<int>(tokens.size()), n, 0, {}});
    for (int i = 0; i < n; ++i) tokens.push_back((i * 13 + n) % 40);
  }
  for (size_t t = 0; t < tokens.size(); ++t) wanted.push_back(static_cast<int32_t>(t));
  const auto width = static_cast<size_t>(shape.width);
  std::vector<float> pooled(slices.size() * width), single(tokens.size() * width);
  CpuOptions options;
  options.isa = GetParam();
  make_cpu_executor(m->program, m->weights, options)->run({tokens, slices, {}}, nullptr, pooled);
  make_cpu_executor(rows, m->weights, options)->run({tokens, slices, wanted}, nullptr, single);
  for (size_t q = 0; q < slices.size(); ++q) {
    std::vector<double> mean(width, 0);
    double norm = 0;
    for (int t = 0; t < slices[q].token_count; ++t) {
      for (size_t d = 0; d < width; ++d)
        mean[d] += single[static_cast<size_t>(slices[q].first_row + t) * width + d];
    }
    for (double& v : mean) v /= slices[q].token_count;
    for (double v : mean) norm += v * v;
    const bool unit = std::holds_alternative<L2NormalizeOp>(m->program.ops.back());
    for (size_t d = 0; d < width; ++d)
      EXPECT_NEAR(unit ? mean[d] / std::sqrt(norm) : mean[d], pooled[q * width + d], 1e-4);
  }
  // Another pooling is no mean of rows.
  shape.pool = PoolKind::kFirst;
  EXPECT_FALSE(unpooled(test::synthetic_encoder(shape)->program));
}

TEST_P(CpuPath, EncoderEqualsTheReferenceAloneAndInABatch) {
  // Tiles round the activations of every layer, and F32 weights.
  const bool tiles = GetParam() == CpuIsa::kAmx;
  double bf16 = tiles ? 4 * test::kActBf16 : test::kFloat;
  for (int window : {0, 20}) {
    for (auto [type, limit] : {std::pair{WeightType::kF32, tiles ? bf16 : test::kWords},
                               {WeightType::kF16, test::kWords},
                               {WeightType::kBF16, bf16},
                               {WeightType::kQ8_0, 0.04}}) {
      test::EncoderShape shape;
      shape.window = window;
      shape.type = type;
      shape.pool = window ? PoolKind::kFirst : PoolKind::kMean;
      auto m = test::synthetic_encoder(shape);
      std::vector<std::vector<int32_t>> texts;
      for (int n : {1, 130, 17, 64, 65})
        texts.push_back(Tokens(n, shape.vocab, static_cast<uint32_t>(n)).ids);
      auto want = encode(*make_reference_executor(m->program, m->weights), texts);
      auto fast = cpu(*m, GetParam(), 3);
      auto got = encode(*fast, texts);
      EXPECT_LT(test::relative_error(got, want), limit)
          << weight_type_name(type) << " window " << window;
      for (size_t i = 0; i < texts.size(); ++i) {
        auto alone = encode(*fast, {texts[i]});
        EXPECT_TRUE(std::equal(alone.begin(), alone.end(),
                               got.begin() + static_cast<long>(i) * shape.width))
            << i;
      }
    }
  }
}

TEST_P(CpuPath, PagesMoveAsBytes) {
  test::DecoderShape shape;
  auto m = test::synthetic_decoder(shape);
  auto e = cpu(*m, GetParam());
  Tokens t(70, shape.vocab, 2);
  std::vector<int> counts = {4};
  auto kv = e->make_kv(counts, KvType::kF16), second = e->make_kv(counts, KvType::kF16);
  std::vector<int32_t> pages = {2, 0}, moved = {1, 3}, row = {0};
  SequenceSlice prompt{0, 69, 0, {}}, next{0, 1, 69, {}};
  prompt.pages[0] = next.pages[0] = pages;
  std::vector<float> out(static_cast<size_t>(shape.vocab)), again = out;
  e->run({std::span(t.ids).first(69), std::span(&prompt, 1), row}, kv.get(), out);
  std::vector<std::byte> bytes(kv->page_bytes(0));
  kv->export_page(0, 2, bytes);
  second->import_page(0, 1, bytes);
  kv->copy_page(0, 0, 3, 5);
  kv->export_page(0, 3, bytes);
  second->import_page(0, 3, bytes);
  e->run({std::span(t.ids).last(1), std::span(&next, 1), row}, kv.get(), out);
  next.pages[0] = moved;
  e->run({std::span(t.ids).last(1), std::span(&next, 1), row}, second.get(), again);
  EXPECT_EQ(out, again);
  EXPECT_NE(kv->layout_id(), e->make_kv(counts, KvType::kI8)->layout_id());
}

INSTANTIATE_TEST_SUITE_P(Isa, CpuPath, ::testing::ValuesIn(available_cpu_isas()), isa_name);

TEST(CpuExecutor, RefusesAPathThatTheMachineLacks) {
  auto m = test::synthetic_decoder({});
  auto have = available_cpu_isas();
  for (CpuIsa isa : {CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kVnni, CpuIsa::kAmx}) {
    CpuOptions options;
    options.isa = isa;
    if (std::find(have.begin(), have.end(), isa) != have.end()) continue;
    EXPECT_THROW(make_cpu_executor(m->program, m->weights, options), Error) << cpu_isa_name(isa);
  }
}

}  // namespace
}  // namespace apud
