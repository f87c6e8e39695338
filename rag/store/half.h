// IEEE half precision for stored vectors. Portable; the index converts with instructions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace apud {

uint16_t float_to_half(float value);  // round to nearest even
float half_to_float(uint16_t value);
std::vector<uint16_t> to_half(std::span<const float> values);

}  // namespace apud
