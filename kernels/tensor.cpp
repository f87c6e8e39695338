#include "kernels/tensor.h"

#include "base/check.h"

namespace apud {

namespace {
struct TypeTraits {
  const char* name;
  int values;
  int bytes;
};
constexpr TypeTraits kTraits[kWeightTypeCount] = {
    {"f32", 1, 4},      {"f16", 1, 2},      {"bf16", 1, 2},     {"q4_0", 32, 18},
    {"q4_1", 32, 20},   {"q5_0", 32, 22},   {"q5_1", 32, 24},   {"q8_0", 32, 34},
    {"q2_k", 256, 84},  {"q3_k", 256, 110}, {"q4_k", 256, 144}, {"q5_k", 256, 176},
    {"q6_k", 256, 210},
};
const TypeTraits& traits(WeightType type) {
  auto i = static_cast<size_t>(type);
  APUD_CHECK(i < kWeightTypeCount, "weight type in range");
  return kTraits[i];
}
}  // namespace

const char* weight_type_name(WeightType type) { return traits(type).name; }

std::optional<WeightType> weight_type_from_name(std::string_view name) {
  for (int i = 0; i < kWeightTypeCount; ++i) {
    if (name == kTraits[i].name) return static_cast<WeightType>(i);
  }
  return std::nullopt;
}

int block_values(WeightType type) { return traits(type).values; }
int block_bytes(WeightType type) { return traits(type).bytes; }

size_t row_bytes(WeightType type, int64_t cols) {
  APUD_CHECK(cols % block_values(type) == 0, "whole blocks in a row");
  return static_cast<size_t>(cols / block_values(type)) * static_cast<size_t>(block_bytes(type));
}

}  // namespace apud
