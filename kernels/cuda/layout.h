// Layout of repacked weights on the device. A row is one record, aligned to 16 bytes, made of
// planes so that a warp reads whole lines: a *group* is what one lane takes at a time (32 values of
// a quantised type, 8 of a float type), groups of a row follow each other within every plane.
//
//   plane 0   low bits: 16 bytes a group (8 for Q2_K, Q3_K)
//   plane 1   high bits, or the second 16 bytes (Q8_0, F32)
//   scales    per group: d, d+m, or the integer scales of K-quants
//   supers    per 8 groups: d (and dmin) of K-quants
//
// Values v = 16h + 4w + j of a group of 32 (h half, w word, j byte) are stored as
//   nibbles      byte j of word w, low nibble for h = 0, high nibble for h = 1
//   1-bit plane  bit 2w + h of byte j of one word
//   2-bit plane  bits 2w, 2w+1 of byte j of word h
//   bytes        plane h, byte 4w + j
// so that one shift and one mask give the four bytes of a dp4a. Nothing is requantised: values
// equal the file's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace apud::cuda {

struct PlaneBytes {
  int low, high, scale, super;  // bytes per group; super: per 8 groups
  int group;                    // values per group
};

constexpr PlaneBytes plane_bytes(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return {16, 16, 0, 0, 8};
    case WeightType::kF16:
      return {16, 0, 0, 0, 8};
    case WeightType::kBF16:
      return {16, 0, 0, 0, 8};
    case WeightType::kQ4_0:
      return {16, 0, 2, 0, 32};
    case WeightType::kQ4_1:
      return {16, 0, 4, 0, 32};
    case WeightType::kQ5_0:
      return {16, 4, 2, 0, 32};
    case WeightType::kQ5_1:
      return {16, 4, 4, 0, 32};
    case WeightType::kQ8_0:
      return {16, 16, 2, 0, 32};
    case WeightType::kQ2_K:
      return {8, 0, 2, 4, 32};
    case WeightType::kQ3_K:
      return {8, 4, 2, 2, 32};
    case WeightType::kQ4_K:
      return {16, 0, 2, 4, 32};
    case WeightType::kQ5_K:
      return {16, 4, 2, 4, 32};
    case WeightType::kQ6_K:
      return {16, 8, 2, 2, 32};
  }
  return {0, 0, 0, 0, 0};
}
constexpr bool is_float_type(WeightType type) { return plane_bytes(type).group == 8; }

/// Where the planes of a row lie.
struct PackedShape {
  int groups = 0;
  uint32_t high = 0, scale = 0, super = 0;  // byte offsets within a row
  uint32_t stride = 0;                      // bytes of a row
};

inline PackedShape packed_shape(WeightType type, int64_t cols) {
  PlaneBytes b = plane_bytes(type);
  auto pad = [](int64_t n) { return static_cast<uint32_t>((n + 15) / 16 * 16); };
  PackedShape s;
  s.groups = static_cast<int>((cols + b.group - 1) / b.group);
  s.high = pad(int64_t{s.groups} * b.low);
  s.scale = s.high + pad(int64_t{s.groups} * b.high);
  s.super = s.scale + pad(int64_t{s.groups} * b.scale);
  s.stride = s.super + pad(int64_t{(s.groups + 7) / 8} * b.super);
  return s;
}

/// A repacked weight matrix on the device.
struct PackedMatrix {
  const uint8_t* data = nullptr;
  WeightType type = WeightType::kF32;
  int rows = 0;
  int cols = 0;
  PackedShape shape;
  size_t bytes() const { return static_cast<size_t>(rows) * shape.stride; }
};

}  // namespace apud::cuda
