// Activations that tiles make for the next products, against the same sums activated and rounded
// apart.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "tests/kernels/synthetic.h"

namespace apud {
namespace {

float exactly(Activation kind, float x) {
  const double v = x;
  switch (kind) {
    case Activation::kSilu:
      return static_cast<float>(v / (1 + std::exp(-v)));
    case Activation::kGeluTanh:
      return static_cast<float>(v / 2 * (1 + std::tanh(0.7978845608 * (v + 0.044715 * v * v * v))));
    case Activation::kGeluErf:
      return static_cast<float>(v / 2 * (1 + std::erf(v * std::sqrt(0.5))));
  }
  return 0;
}

template <class T>
T* aligned(std::vector<T>& v, size_t count) {
  v.assign(count + 64 / sizeof(T), T{});
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(v.data()) + 63) / 64 * 64);
}

TEST(CpuActivated, TilesActivateTheirSums) {
  const std::vector<CpuIsa> isas = available_cpu_isas();
  if (isas.empty() || isas.back() != CpuIsa::kAmx) GTEST_SKIP() << "this machine has no AMX path";
  const cpu::Kernels& kernels = cpu::amx_kernels();
  constexpr int kIn = 64, kOut = 96;
  constexpr auto kPacking = cpu::Packing::kTiles;
  test::Synthetic made(11);
  std::vector<uint8_t> bytes[2];
  cpu::PackedMatrix matrix[2];
  for (int i = 0; i < 2; ++i) {
    const WeightId id = made.weight(i == 0 ? "gate" : "up", kOut, kIn, WeightType::kQ8_0);
    matrix[i] = cpu::packed_layout(WeightType::kQ8_0, kPacking, kOut, kIn);
    matrix[i].data = aligned(bytes[i], matrix[i].bytes());
    cpu::pack_strips(made.weights[static_cast<size_t>(id)], matrix[i], 0, matrix[i].strips());
  }
  std::normal_distribution<float> normal(0, 4);
  std::vector<uint8_t> scratch_bytes;
  uint8_t* scratch = aligned(scratch_bytes, cpu::linear_scratch_bytes(kIn, true));
  for (int rows : {1, 7, 53}) {
    std::vector<uint8_t> in_bytes, made_bytes;
    cpu::LinearArgs args;
    args.weight = &matrix[0];
    args.act_layout = cpu::act_layout(cpu::ActKind::kBf16, kIn);
    args.act_layout.group = cpu::act_group(cpu::ActKind::kBf16, rows);
    const auto many = static_cast<size_t>(rows + cpu::kActSlackRows);
    uint8_t* acts = aligned(in_bytes, many * args.act_layout.stride);
    for (int r = 0; r < rows; ++r) {
      float x[kIn];
      for (float& v : x) v = normal(made.generator());
      kernels.quantize(cpu::ActKind::kBf16, x, args.act_layout, acts + args.act_layout.at(r));
    }
    args.acts = acts;
    args.row_end = rows;
    args.out_stride = kOut;
    std::vector<float> sums[2];
    for (int i = 0; i < 2; ++i) {
      sums[i].resize(static_cast<size_t>(rows * kOut));
      cpu::LinearArgs one = args;
      one.weight = &matrix[i];
      one.out = sums[i].data();
      kernels.linear(one, 0, matrix[i].strips(), scratch);
    }
    cpu::ActivatedArgs activated;
    activated.to_layout = cpu::act_layout(cpu::ActKind::kBf16, kOut);
    activated.to_layout.group = cpu::act_group(cpu::ActKind::kBf16, rows);
    for (Activation kind : {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluErf}) {
      for (bool gated : {false, true}) {
        uint8_t* to = aligned(made_bytes, many * activated.to_layout.stride);
        activated.in = args;
        activated.up = gated ? &matrix[1] : nullptr;
        activated.kind = kind;
        activated.to = to;
        kernels.activated(activated, 0, matrix[0].strips(), scratch);
        int large = 0;
        for (int r = 0; r < rows; ++r) {
          for (int c = 0; c < kOut; ++c) {
            // tile_input: a dword holds inputs i and 16 + i of 32.
            uint16_t bits;
            std::memcpy(&bits,
                        to + activated.to_layout.at(r) +
                            (c / 32 * 16 + c % 16) * 4 * activated.to_layout.group +
                            c % 32 / 16 * 2,
                        2);
            const uint32_t wide = static_cast<uint32_t>(bits) << 16;
            float got;
            std::memcpy(&got, &wide, 4);
            const auto at = static_cast<size_t>(r * kOut + c);
            const float factor = gated ? sums[1][at] : 1;
            const float want = exactly(kind, sums[0][at]) * factor;
            // Half a step of bfloat16, and what the header of coarse_activation allows.
            EXPECT_NEAR(
                got, want,
                std::abs(want) * (1.0F / 256 + 2.5e-4F) + 1e-4F * std::abs(sums[0][at] * factor))
                << "row " << r << " of " << rows << ", column " << c << ", sum " << sums[0][at]
                << ", kind " << static_cast<int>(kind) << (gated ? ", gated" : "");
            large += std::abs(want) > 0.1F;
          }
        }
        EXPECT_GT(large, rows * kOut / 10) << "sums of all sizes";
      }
    }
  }
}

}  // namespace
}  // namespace apud
