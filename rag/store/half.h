// IEEE half precision for stored vectors. Portable; the index converts with instructions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace apud::half {

uint16_t from_float(float value);  // round to nearest even
float to_float(uint16_t value);
std::vector<uint16_t> from_floats(std::span<const float> values);

}  // namespace apud::half
