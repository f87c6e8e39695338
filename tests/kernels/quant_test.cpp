#include "kernels/quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "tests/support/paths.h"

namespace apud {
namespace {

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// tests/data/quant_golden.bin: layout in scripts/make-quant-golden.
class Golden {
 public:
  Golden() {
    std::ifstream file(test::test_data() + "/quant_golden.bin", std::ios::binary);
    data_.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::string text(size_t size) {
    std::string out = data_.substr(at_, size);
    at_ += size;
    return out;
  }
  uint32_t number() {
    uint32_t value;
    std::memcpy(&value, text(4).data(), 4);
    return value;
  }
  bool done() const { return at_ == data_.size(); }

 private:
  std::string data_;
  size_t at_ = 0;
};

TEST(Quant, EveryTypeEqualsTheGgufPackageBitForBit) {
  Golden golden;
  ASSERT_EQ(golden.text(4), "AQG1");
  uint32_t types = golden.number();
  std::set<WeightType> seen;
  for (uint32_t i = 0; i < types; ++i) {
    std::string name = golden.text(golden.number());
    uint32_t count = golden.number(), size = golden.number();
    std::string blocks = golden.text(size), values = golden.text(count * 4);
    auto type = weight_type_from_name(name);
    ASSERT_TRUE(type) << name;
    seen.insert(*type);
    ASSERT_EQ(row_bytes(*type, count), size) << name;
    std::vector<float> wanted(count), got(count, -1);
    std::memcpy(wanted.data(), values.data(), values.size());
    dequantize(*type, reinterpret_cast<const std::byte*>(blocks.data()), count, got.data());
    std::set<float> distinct(wanted.begin(), wanted.end());
    ASSERT_GT(distinct.size(), 20u) << name << ": degenerate golden";
    for (uint32_t j = 0; j < count; ++j) {
      ASSERT_EQ(bits_of(got[j]), bits_of(wanted[j])) << name << " value " << j;
    }
  }
  EXPECT_TRUE(golden.done());
  EXPECT_EQ(seen.size(), static_cast<size_t>(kWeightTypeCount));
}

TEST(Quant, HalfRoundTripsEveryPattern) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    auto half = static_cast<uint16_t>(bits);
    float value = half_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value))));
    } else {
      ASSERT_EQ(float_to_half(value), half) << bits;
    }
  }
}

TEST(Quant, HalfRoundsToNearestEven) {
  // Between each pair of neighbouring halves: below the middle goes down, above goes up, the middle
  // itself to the even one.
  for (uint16_t bits = 0; bits < 0x7BFF; ++bits) {
    float low = half_to_float(bits), high = half_to_float(static_cast<uint16_t>(bits + 1));
    float middle = low + (high - low) / 2;
    ASSERT_EQ(float_to_half(middle), bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(float_to_half(std::nextafter(middle, 1e9f)), bits + 1);
    ASSERT_EQ(float_to_half(-middle), 0x8000 | (bits % 2 == 0 ? bits : bits + 1));
  }
  EXPECT_EQ(float_to_half(65519.99f), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0f), 0x7C00);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::infinity()), 0x7C00);
}

TEST(Quant, Bf16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7F80; ++bits) {
    float low = bf16_to_float(static_cast<uint16_t>(bits));
    ASSERT_EQ(float_to_bf16(low), bits);
    uint32_t wide = (bits << 16) + 0x8000;
    float middle;
    std::memcpy(&middle, &wide, 4);
    ASSERT_EQ(float_to_bf16(middle), bits % 2 == 0 ? bits : bits + 1);
  }
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Quant, RotaryPairRowsComeInHalvesOrder) {
  // Stored rows of two heads of width 4: 0, 2, 1, 3 within a head.
  std::vector<float> stored(8);
  for (int i = 0; i < 8; ++i) stored[static_cast<size_t>(i)] = static_cast<float>(i);
  WeightView view{WeightType::kF32,       8, 1, reinterpret_cast<const std::byte*>(stored.data()),
                  RowOrder::kRotaryPairs, 4};
  std::vector<float> logical(8);
  for (int i = 0; i < 8; ++i) dequantize_row(view, i, &logical[static_cast<size_t>(i)]);
  EXPECT_EQ(logical, (std::vector<float>{0, 2, 1, 3, 4, 6, 5, 7}));
}

}  // namespace
}  // namespace apud
