#include "rag/store/half.h"

#include <bit>

namespace apud::half {

uint16_t from_float(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude >= 0x7F800000) return sign | (magnitude > 0x7F800000 ? 0x7E00 : 0x7C00);
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // rounds above 65504
  if (magnitude < 0x38800000) {
    // Subnormal: adding 0.5 leaves the rounded bits in the low mantissa (ulp of [0.5, 1) is 2^-24).
    float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3F000000);
  }
  magnitude += 0xC8000FFF + ((magnitude >> 13) & 1);  // rebias by -112, round half to even
  return sign | static_cast<uint16_t>(magnitude >> 13);
}

float to_float(uint16_t value) {
  uint32_t sign = static_cast<uint32_t>(value & 0x8000) << 16;
  uint32_t exponent = (value >> 10) & 31;
  uint32_t mantissa = value & 1023;
  if (exponent == 0) {
    float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | mantissa << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

std::vector<uint16_t> from_floats(std::span<const float> values) {
  std::vector<uint16_t> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) out[i] = from_float(values[i]);
  return out;
}

}  // namespace apud::half
