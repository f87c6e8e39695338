#include "kernels/quant.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace apud {

float half_to_float(uint16_t bits) {
  uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  uint32_t exponent = (bits >> 10) & 31;
  uint32_t mantissa = bits & 0x3FF;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  // Subnormal: mantissa * 2^-24 is exact in float.
  float value = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

uint16_t float_to_half(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000)
    return static_cast<uint16_t>(sign | 0x7E00 | ((magnitude >> 13) & 0x3FF));
  // 65520 is halfway between the largest half and the next step: it rounds to infinity.
  if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
  if (magnitude >= 0x38800000) {
    uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
  }
  if (magnitude < 0x33000000) return sign;  // below half of the smallest subnormal
  int shift = 126 - static_cast<int>(magnitude >> 23);
  uint32_t mantissa = (magnitude & 0x7FFFFF) | 0x800000;
  uint32_t kept = mantissa >> shift;
  uint32_t rest = mantissa & ((1u << shift) - 1);
  uint32_t half = 1u << (shift - 1);
  if (rest > half || (rest == half && (kept & 1))) ++kept;
  return static_cast<uint16_t>(sign | kept);
}

uint16_t float_to_bf16(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

namespace {

// Block layouts: ggml's ggml-common.h, described in the GGUF specification. The order of the float
// operations is that of gguf/quants.py, so that values agree to the bit.

uint8_t byte_at(const std::byte* p, int i) { return static_cast<uint8_t>(p[i]); }

float half_at(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return half_to_float(bits);
}

uint32_t u32_at(const std::byte* p) {
  uint32_t bits;
  std::memcpy(&bits, p, 4);
  return bits;
}

void decode_q4_0(const std::byte* b, float* out) {
  float d = half_at(b);
  for (int i = 0; i < 16; ++i) {
    int q = byte_at(b + 2, i);
    out[i] = d * static_cast<float>((q & 15) - 8);
    out[i + 16] = d * static_cast<float>((q >> 4) - 8);
  }
}

void decode_q4_1(const std::byte* b, float* out) {
  float d = half_at(b), m = half_at(b + 2);
  for (int i = 0; i < 16; ++i) {
    int q = byte_at(b + 4, i);
    out[i] = d * static_cast<float>(q & 15) + m;
    out[i + 16] = d * static_cast<float>(q >> 4) + m;
  }
}

void decode_q5_0(const std::byte* b, float* out) {
  float d = half_at(b);
  uint32_t high = u32_at(b + 2);
  for (int i = 0; i < 16; ++i) {
    int q = byte_at(b + 6, i);
    int low = (q & 15) | static_cast<int>((high >> i) & 1) << 4;
    int up = (q >> 4) | static_cast<int>((high >> (i + 16)) & 1) << 4;
    out[i] = d * static_cast<float>(low - 16);
    out[i + 16] = d * static_cast<float>(up - 16);
  }
}

void decode_q5_1(const std::byte* b, float* out) {
  float d = half_at(b), m = half_at(b + 2);
  uint32_t high = u32_at(b + 4);
  for (int i = 0; i < 16; ++i) {
    int q = byte_at(b + 8, i);
    int low = (q & 15) | static_cast<int>((high >> i) & 1) << 4;
    int up = (q >> 4) | static_cast<int>((high >> (i + 16)) & 1) << 4;
    out[i] = d * static_cast<float>(low) + m;
    out[i + 16] = d * static_cast<float>(up) + m;
  }
}

void decode_q8_0(const std::byte* b, float* out) {
  float d = half_at(b);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(b[2 + i])) * d;
}

// scales[16] (4-bit scale, 4-bit min), qs[64], d, dmin.
void decode_q2_k(const std::byte* b, float* out) {
  float d = half_at(b + 80), dmin = half_at(b + 82);
  for (int group = 0; group < 16; ++group) {
    int packed = byte_at(b, group);
    float scale = d * static_cast<float>(packed & 15);
    float minimum = dmin * static_cast<float>(packed >> 4);
    // 128 values share 32 bytes of qs; each group of 32 takes two bits of every byte.
    const std::byte* q = b + 16 + (group / 8) * 32 + (group % 2) * 16;
    int shift = (group % 8) / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      out[group * 16 + i] = scale * static_cast<float>((byte_at(q, i) >> shift) & 3) - minimum;
    }
  }
}

// hmask[32], qs[64], scales[12] (sixteen 6-bit values), d.
void decode_q3_k(const std::byte* b, float* out) {
  float d = half_at(b + 108);
  const std::byte* scales = b + 96;
  for (int group = 0; group < 16; ++group) {
    int low = byte_at(scales, group % 8) >> (group / 8 * 4) & 15;
    int high = byte_at(scales, 8 + group % 4) >> (group / 4 * 2) & 3;
    float scale = d * static_cast<float>((low | high << 4) - 32);
    const std::byte* q = b + 32 + (group / 8) * 32 + (group % 2) * 16;
    const std::byte* mask = b + (group % 2) * 16;
    int shift = (group % 8) / 2 * 2, bit = group / 2;
    for (int i = 0; i < 16; ++i) {
      int value = (byte_at(q, i) >> shift & 3) - ((byte_at(mask, i) >> bit & 1) ? 0 : 4);
      out[group * 16 + i] = scale * static_cast<float>(value);
    }
  }
}

// Scale and minimum of sub-block j of Q4_K and Q5_K: eight pairs of 6-bit values in 12 bytes.
void scale_min(const std::byte* s, int j, int* scale, int* minimum) {
  if (j < 4) {
    *scale = byte_at(s, j) & 63;
    *minimum = byte_at(s, j + 4) & 63;
  } else {
    *scale = (byte_at(s, j + 4) & 15) | (byte_at(s, j - 4) >> 6) << 4;
    *minimum = (byte_at(s, j + 4) >> 4) | (byte_at(s, j) >> 6) << 4;
  }
}

// d, dmin, scales[12], qs[128].
void decode_q4_k(const std::byte* b, float* out) {
  float d = half_at(b), dmin = half_at(b + 2);
  for (int j = 0; j < 8; ++j) {
    int scale, minimum;
    scale_min(b + 4, j, &scale, &minimum);
    float ds = d * static_cast<float>(scale), dm = dmin * static_cast<float>(minimum);
    const std::byte* q = b + 16 + j / 2 * 32;
    int shift = j % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[j * 32 + i] = ds * static_cast<float>(byte_at(q, i) >> shift & 15) - dm;
    }
  }
}

// d, dmin, scales[12], qh[32], qs[128].
void decode_q5_k(const std::byte* b, float* out) {
  float d = half_at(b), dmin = half_at(b + 2);
  for (int j = 0; j < 8; ++j) {
    int scale, minimum;
    scale_min(b + 4, j, &scale, &minimum);
    float ds = d * static_cast<float>(scale), dm = dmin * static_cast<float>(minimum);
    const std::byte* q = b + 48 + j / 2 * 32;
    int shift = j % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      int value = (byte_at(q, i) >> shift & 15) | (byte_at(b + 16, i) >> j & 1) << 4;
      out[j * 32 + i] = ds * static_cast<float>(value) - dm;
    }
  }
}

// ql[128], qh[64], scales[16] (int8), d.
void decode_q6_k(const std::byte* b, float* out) {
  float d = half_at(b + 208);
  for (int group = 0; group < 16; ++group) {
    float scale = d * static_cast<float>(static_cast<int8_t>(b[192 + group]));
    int half = group / 8, quarter = group % 8 / 2, first = group % 2 * 16;
    const std::byte* ql = b + half * 64 + quarter % 2 * 32 + first;
    const std::byte* qh = b + 128 + half * 32 + first;
    int low_shift = quarter / 2 * 4, high_shift = quarter * 2;
    for (int i = 0; i < 16; ++i) {
      int value = (byte_at(ql, i) >> low_shift & 15) | (byte_at(qh, i) >> high_shift & 3) << 4;
      out[group * 16 + i] = scale * static_cast<float>(value - 32);
    }
  }
}

template <typename Decode>
void decode_blocks(WeightType type, const std::byte* blocks, int64_t count, float* out,
                   Decode decode) {
  int values = block_values(type), bytes = block_bytes(type);
  for (int64_t i = 0; i < count; i += values, blocks += bytes) decode(blocks, out + i);
}

}  // namespace

void dequantize(WeightType type, const std::byte* blocks, int64_t count, float* out) {
  APUD_CHECK(count % block_values(type) == 0, "whole blocks");
  switch (type) {
    case WeightType::kF32:
      std::memcpy(out, blocks, static_cast<size_t>(count) * 4);
      return;
    case WeightType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = half_at(blocks + 2 * i);
      return;
    case WeightType::kBF16:
      for (int64_t i = 0; i < count; ++i) {
        uint16_t bits;
        std::memcpy(&bits, blocks + 2 * i, 2);
        out[i] = bf16_to_float(bits);
      }
      return;
    case WeightType::kQ4_0:
      return decode_blocks(type, blocks, count, out, decode_q4_0);
    case WeightType::kQ4_1:
      return decode_blocks(type, blocks, count, out, decode_q4_1);
    case WeightType::kQ5_0:
      return decode_blocks(type, blocks, count, out, decode_q5_0);
    case WeightType::kQ5_1:
      return decode_blocks(type, blocks, count, out, decode_q5_1);
    case WeightType::kQ8_0:
      return decode_blocks(type, blocks, count, out, decode_q8_0);
    case WeightType::kQ2_K:
      return decode_blocks(type, blocks, count, out, decode_q2_k);
    case WeightType::kQ3_K:
      return decode_blocks(type, blocks, count, out, decode_q3_k);
    case WeightType::kQ4_K:
      return decode_blocks(type, blocks, count, out, decode_q4_k);
    case WeightType::kQ5_K:
      return decode_blocks(type, blocks, count, out, decode_q5_k);
    case WeightType::kQ6_K:
      return decode_blocks(type, blocks, count, out, decode_q6_k);
  }
  APUD_CHECK(false, "weight type in range");
}

void dequantize_row(const WeightView& weight, int64_t row, float* out) {
  dequantize(weight.type, weight.row(row), weight.cols, out);
}

}  // namespace apud
