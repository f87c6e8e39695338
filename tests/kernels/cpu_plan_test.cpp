// How the CPU executor holds matrices and joins stages.
#include <gtest/gtest.h>

#include <set>

#include "kernels/cpu/plan.h"
#include "tests/kernels/synthetic.h"

namespace apud {
namespace {

using test::Synthetic;

// Rows of outputs are one or few, and one row reads integers faster than it folds them into tiles.
TEST(CpuPlan, TilesAreForMatricesThatManyRowsMeet) {
  test::DecoderShape shape;
  shape.types = {WeightType::kQ8_0};
  auto m = test::synthetic_decoder(shape);
  int inner = 0, output = 0;
  for (const Op& op : m->program.ops) {
    auto* linear = std::get_if<LinearOp>(&op);
    if (!linear) continue;
    bool last = m->program.values[static_cast<size_t>(linear->out)].rows == Rows::kOutputs;
    ++(last ? output : inner);
    EXPECT_EQ(cpu::packing_of(m->program, m->weights, linear->weight, true),
              last ? cpu::Packing::kExact : cpu::Packing::kTiles);
    EXPECT_EQ(cpu::packing_of(m->program, m->weights, linear->weight, false), cpu::Packing::kExact);
  }
  EXPECT_EQ(output, 1);
  EXPECT_GT(inner, 5);
}

// F32 is rounded for tiles in an encoder alone, F16 nowhere.
TEST(CpuPlan, FloatWeightsKeepTheirBitsInDecodersAndF16Everywhere) {
  using cpu::Packing;
  auto packings = [](const Synthetic& m, bool tiles) {
    std::set<Packing> all;
    for (const Op& op : m.program.ops) {
      if (auto* linear = std::get_if<LinearOp>(&op))
        all.insert(cpu::packing_of(m.program, m.weights, linear->weight, tiles));
    }
    return all;
  };
  for (auto [type, in_tiles] :
       {std::pair{WeightType::kF32, Packing::kTiles}, {WeightType::kF16, Packing::kWords}}) {
    test::DecoderShape decoder;
    decoder.types = {type};
    test::EncoderShape encoder;
    encoder.type = type;
    EXPECT_EQ(packings(*test::synthetic_decoder(decoder), true), std::set{Packing::kExact});
    EXPECT_EQ(packings(*test::synthetic_encoder(encoder), true), std::set{in_tiles});
    EXPECT_EQ(packings(*test::synthetic_encoder(encoder), false), std::set{Packing::kWords});
  }
}

// Activations by themselves, and those made where their inputs are.
std::pair<int, int> activations(const std::vector<WeightType>& types, bool tiles) {
  test::DecoderShape shape;
  shape.types = types;
  auto m = test::synthetic_decoder(shape);
  cpu::Plan plan = cpu::make_plan(m->program, m->weights, tiles);
  int apart = 0, fused = 0;
  for (const cpu::Stage& stage : plan.stages) {
    fused += stage.activation.has_value();
    for (const cpu::RowOp& op : stage.row_ops) apart += std::holds_alternative<ActivationOp>(op);
  }
  return {apart, fused};
}

TEST(CpuPlan, ActivationsOfTilesAreMadeWhereTheirInputsAre) {
  using enum WeightType;
  EXPECT_EQ(activations({kQ4_K}, true), std::pair(0, 2));
  EXPECT_EQ(activations({kQ4_K}, false), std::pair(2, 0));
  // Products that take floats, or other roundings, need the floats.
  EXPECT_EQ(activations({kF32}, true), std::pair(2, 0));
  EXPECT_EQ(activations({kQ2_K}, true), std::pair(2, 0));
  EXPECT_EQ(activations({kQ4_K, kQ4_K, kQ4_K, kQ4_K, kQ4_K, kQ5_K, kQ4_K}, true), std::pair(2, 0));
  EXPECT_EQ(activations({kQ4_K, kQ4_K, kQ4_K, kQ4_K, kQ4_K, kQ4_K, kQ2_K}, true), std::pair(2, 0));
}

}  // namespace
}  // namespace apud
