#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/packed.h"
#include "kernels/quant.h"

namespace apud::cpu {
namespace {

using Dwords = uint32_t[kStripRows];  // one plane: 16 rows x 4 values

uint32_t load32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

// All of these read one 32-value block (index `b` within the row) as unsigned bytes, group by
// group: q[g] = values 4g..4g+3. Offsets and structure: GGML's block definitions (GGUF
// specification).
void nibbles_simple(const uint8_t* qs, uint32_t q[8]) {  // lo = first 16 values, hi = last 16
  for (int j = 0; j < 4; ++j) {
    uint32_t x = load32(qs + 4 * j);
    q[j] = x & 0x0f0f0f0fu;
    q[j + 4] = (x >> 4) & 0x0f0f0f0fu;
  }
}

// Bit k belongs to value k and goes to bit 4 of its byte.
void add_high_bits(uint32_t bits, uint32_t q[8]) {
  using V = uint64_t __attribute__((vector_size(16)));
  constexpr uint64_t kEach = 0x0101010101010101u;
  for (int i = 0; i < 2; ++i) {
    // A byte in all eight places; bit k of it is left in the k-th, and what is not zero carries up.
    V x = {(bits >> (16 * i) & 255) * kEach, (bits >> (16 * i + 8) & 255) * kEach};
    x &= 0x8040201008040201u;
    x = (((x & 0x7f * kEach) + 0x7f * kEach) | x) & 0x80 * kEach;
    V sum;
    std::memcpy(&sum, q + 4 * i, 16);
    sum |= x >> 3;
    std::memcpy(q + 4 * i, &sum, 16);
  }
}

template <WeightType type>
inline void read_block(const uint8_t* row, int64_t b, uint32_t q[8]) {
  const uint8_t* p;
  int in = static_cast<int>(b & 7);
  switch (type) {
    case WeightType::kQ4_0:
      nibbles_simple(row + b * 18 + 2, q);
      return;
    case WeightType::kQ4_1:
      nibbles_simple(row + b * 20 + 4, q);
      return;
    case WeightType::kQ5_0:
      nibbles_simple(row + b * 22 + 6, q);
      add_high_bits(load32(row + b * 22 + 2), q);
      return;
    case WeightType::kQ5_1:
      nibbles_simple(row + b * 24 + 8, q);
      add_high_bits(load32(row + b * 24 + 4), q);
      return;
    case WeightType::kQ8_0:
      for (int g = 0; g < 8; ++g) q[g] = load32(row + b * 34 + 2 + 4 * g) ^ 0x80808080u;
      return;
    case WeightType::kQ2_K:  // scales[16] qs[64] d dmin; 128 values share 32 bytes
      p = row + (b >> 3) * 84 + 16 + (in >> 2) * 32;
      for (int g = 0; g < 8; ++g) q[g] = load32(p + 4 * g) >> (2 * (in & 3)) & 0x03030303u;
      return;
    case WeightType::kQ3_K: {  // hmask[32] qs[64] scales[12] d; value = 2 bits + 4 * mask bit
      const uint8_t* block = row + (b >> 3) * 110;
      p = block + 32 + (in >> 2) * 32;
      for (int g = 0; g < 8; ++g) {
        q[g] = (load32(p + 4 * g) >> (2 * (in & 3)) & 0x03030303u) |
               (load32(block + 4 * g) >> in & 0x01010101u) << 2;
      }
      return;
    }
    case WeightType::kQ4_K:  // d dmin scales[12] qs[128]; 64 values share 32 bytes
      p = row + (b >> 3) * 144 + 16 + (in >> 1) * 32;
      for (int g = 0; g < 8; ++g) q[g] = load32(p + 4 * g) >> (4 * (in & 1)) & 0x0f0f0f0fu;
      return;
    case WeightType::kQ5_K: {  // d dmin scales[12] qh[32] qs[128]
      const uint8_t* block = row + (b >> 3) * 176;
      p = block + 48 + (in >> 1) * 32;
      for (int g = 0; g < 8; ++g) {
        q[g] = (load32(p + 4 * g) >> (4 * (in & 1)) & 0x0f0f0f0fu) |
               (load32(block + 16 + 4 * g) >> in & 0x01010101u) << 4;
      }
      return;
    }
    case WeightType::kQ6_K: {  // ql[128] qh[64] scales[16] d; 128 values share 64 + 32 bytes
      const uint8_t* block = row + (b >> 3) * 210;
      p = block + (in >> 2) * 64 + (in & 1) * 32;
      const uint8_t* h = block + 128 + (in >> 2) * 32;
      int low = in & 2 ? 4 : 0, high = 2 * (in & 3);
      for (int g = 0; g < 8; ++g) {
        q[g] = (load32(p + 4 * g) >> low & 0x0f0f0f0fu) | (load32(h + 4 * g) >> high & 0x03030303u)
                                                              << 4;
      }
      return;
    }
    default:
      APUD_CHECK(false, "quantised format");
  }
}

// Eight groups of rows r .. r + 3, group by group.
inline void transpose(const uint32_t (&four)[4][8], int r, Dwords q[8]) {
  using V = uint32_t __attribute__((vector_size(16)));
  for (int g = 0; g < 8; g += 4) {
    V a, b, c, d;
    std::memcpy(&a, &four[0][g], 16);
    std::memcpy(&b, &four[1][g], 16);
    std::memcpy(&c, &four[2][g], 16);
    std::memcpy(&d, &four[3][g], 16);
    const V low_ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
            low_cd = __builtin_shufflevector(c, d, 0, 4, 1, 5),
            high_ab = __builtin_shufflevector(a, b, 2, 6, 3, 7),
            high_cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const V columns[4] = {__builtin_shufflevector(low_ab, low_cd, 0, 1, 4, 5),
                          __builtin_shufflevector(low_ab, low_cd, 2, 3, 6, 7),
                          __builtin_shufflevector(high_ab, high_cd, 0, 1, 4, 5),
                          __builtin_shufflevector(high_ab, high_cd, 2, 3, 6, 7)};
    for (int i = 0; i < 4; ++i) std::memcpy(&q[g + i][r], &columns[i], 16);
  }
}

template <WeightType type>
inline void write_planes(const Dwords q[8], uint8_t* out) {
  constexpr FormatTraits f = format_traits(type);
  auto* plane = reinterpret_cast<Dwords*>(out);
  if (f.low_bits == 8) {
    std::memcpy(out, q, 8 * sizeof(Dwords));
    return;
  }
  if (f.low_bits == 4) {
    for (int j = 0; j < 4; ++j) {
      for (int r = 0; r < kStripRows; ++r) {
        plane[j][r] = (q[j][r] & 0x0f0f0f0fu) | (q[j + 4][r] & 0x0f0f0f0fu) << 4;
      }
    }
    plane += 4;
  } else {
    for (int h = 0; h < 2; ++h) {
      for (int r = 0; r < kStripRows; ++r) {
        uint32_t v = 0;
        for (int g = 0; g < 4; ++g) v |= (q[4 * h + g][r] & 0x03030303u) << (2 * g);
        plane[h][r] = v;
      }
    }
    plane += 2;
  }
  if (f.high_bits == 1) {
    for (int r = 0; r < kStripRows; ++r) {
      uint32_t v = 0;
      for (int g = 0; g < 8; ++g) v |= (q[g][r] >> f.low_bits & 0x01010101u) << g;
      plane[0][r] = v;
    }
  } else if (f.high_bits == 2) {
    for (int h = 0; h < 2; ++h) {
      for (int r = 0; r < kStripRows; ++r) {
        uint32_t v = 0;
        for (int g = 0; g < 4; ++g) v |= (q[4 * h + g][r] >> 4 & 0x03030303u) << (2 * g);
        plane[h][r] = v;
      }
    }
  }
}

// Six-bit scales and minima of Q4_K and Q5_K in 12 bytes.
void scale_min_k4(const uint8_t* s, int j, uint8_t* scale, uint8_t* min) {
  if (j < 4) {
    *scale = s[j] & 63;
    *min = s[j + 4] & 63;
  } else {
    *scale = static_cast<uint8_t>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
    *min = static_cast<uint8_t>((s[j + 4] >> 4) | (s[j] >> 6) << 4);
  }
}

// Scales of row `r` of the strip for block `b` (of 32 or 256 values). `out`: the block's scale
// area.
template <WeightType type>
inline void write_scales(const uint8_t* row, int64_t b, int r, uint8_t* out) {
  constexpr FormatTraits f = format_traits(type);
  auto half = [&](int slot, const uint8_t* from) { std::memcpy(out + slot * 32 + 2 * r, from, 2); };
  if (!f.super) {
    const uint8_t* p = row + b * block_bytes(type);
    half(0, p);
    if (f.has_min) half(1, p + 2);
    return;
  }
  const uint8_t* p = row + b * block_bytes(type);
  uint8_t* scales = out + (f.has_min ? 64 : 32);
  int subs = 256 / f.sub;
  uint8_t* mins = scales + subs * 16;
  auto put = [&](int s, uint8_t scale, uint8_t min) {
    scales[s * 16 + r] = scale;
    if (f.has_min) mins[s * 16 + r] = min;
  };
  switch (type) {
    case WeightType::kQ2_K:
      half(0, p + 80);
      half(1, p + 82);
      for (int s = 0; s < 16; ++s) put(s, p[s] & 15, p[s] >> 4);
      return;
    case WeightType::kQ3_K: {
      half(0, p + 108);
      const uint8_t* packed = p + 96;  // 16 six-bit scales, offset 32
      for (int s = 0; s < 16; ++s) {
        int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
        int high = packed[8 + (s & 3)] >> (2 * (s >> 2)) & 3;
        put(s, static_cast<uint8_t>((low | high << 4) - 32), 0);
      }
      return;
    }
    case WeightType::kQ4_K:
    case WeightType::kQ5_K:
      half(0, p);
      half(1, p + 2);
      for (int s = 0; s < 8; ++s) {
        uint8_t scale, min;
        scale_min_k4(p + 4, s, &scale, &min);
        put(s, scale, min);
      }
      return;
    case WeightType::kQ6_K:
      half(0, p + 208);
      for (int s = 0; s < 16; ++s) put(s, p[192 + s], 0);
      return;
    default:
      APUD_CHECK(false, "K format");
  }
}

// The next strip's rows in the file, asked for a part at a time while a strip is packed: 16 rows
// read side by side are more streams than a processor follows by itself.
class NextStrip {
 public:
  NextStrip(const WeightView& w, int strip) {
    const int64_t first = static_cast<int64_t>(strip + 1) * kStripRows;
    if (first >= w.rows || w.order != RowOrder::kPlain) return;  // else not one run of bytes
    from_ = w.row(first);
    lines_ = std::min<int64_t>(kStripRows, w.rows - first) *
             static_cast<int64_t>(row_bytes(w.type, w.cols)) / kLine;
  }
  /// Part `i` of `parts`.
  void fetch(int64_t i, int64_t parts) const {
    for (int64_t n = lines_ * i / parts; n < lines_ * (i + 1) / parts; ++n) {
      __builtin_prefetch(from_ + n * kLine);
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  const std::byte* from_ = nullptr;
  int64_t lines_ = 0;
};

template <WeightType type>
void pack_quantised(const WeightView& w, const PackedMatrix& m, int strip) {
  constexpr FormatTraits f = format_traits(type);
  uint8_t* out = m.data + static_cast<size_t>(strip) * m.strip_bytes;
  const uint8_t* rows[kStripRows];
  int count = 0;
  for (; count < kStripRows && strip * kStripRows + count < w.rows; ++count) {
    rows[count] = reinterpret_cast<const uint8_t*>(w.row(strip * kStripRows + count));
  }
  if (count < kStripRows) std::memset(out, 0, m.strip_bytes);
  constexpr int64_t kPerScale = f.super ? kChunkBlocks : 1;
  const NextStrip next(w, strip);
  alignas(64) Dwords q[8] = {};
  const int64_t blocks = w.cols / 32;
  for (int64_t b = 0; b < blocks; ++b) {
    next.fetch(b, blocks);
    if (b % kPerScale == 0) {
      for (int r = 0; r < count; ++r) {
        write_scales<type>(rows[r], b / kPerScale, r, out + scales_at(f, b));
      }
    }
    for (int r = 0; r < count; r += 4) {
      uint32_t four[4][8] = {};
      for (int i = 0; i < 4 && r + i < count; ++i) read_block<type>(rows[r + i], b, four[i]);
      transpose(four, r, q);
    }
    write_planes<type>(q, out + quants_at(f, b));
  }
}

// The low kBits of eight bytes, side by side: of two, of four, of all.
template <int kBits>
inline uint64_t close_gaps(uint64_t x) {
  auto halve = [](uint64_t y, uint64_t low, int width) {
    return (y & low) | (y >> (width - width / 8 * kBits) & low << (width / 8 * kBits));
  };
  constexpr uint64_t kOne = (1u << kBits) - 1, kTwo = (uint64_t{1} << 2 * kBits) - 1,
                     kFour = (uint64_t{1} << 4 * kBits) - 1;
  x = halve(x, kOne * 0x0001000100010001u, 8);
  x = halve(x, kTwo * 0x0000000100000001u, 16);
  return halve(x, kFour, 32);
}

// Four blocks of a row, values in the order of a tile's words.
template <WeightType type>
inline void write_four(const uint8_t (&v)[4][32], uint8_t* to) {
  constexpr FormatTraits f = format_traits(type);
  constexpr int kBits = value_bits(f);
  if constexpr (kBits == 4) {
    uint16_t words[32];
    for (int w = 0; w < 32; ++w) {
      words[w] = static_cast<uint16_t>(v[0][w] | v[1][w] << 4 | v[2][w] << 8 | v[3][w] << 12);
    }
    std::memcpy(to, words, 64);
  } else {
    uint8_t bytes[4 * 32];  // in the order of their bits
    for (int n = 0; n < 4; n += 2) {
      for (int w = 0; w < 32; ++w) {
        bytes[32 * n + (kBits == 5 ? w : 2 * w)] = v[n][w];
        bytes[32 * n + (kBits == 5 ? 32 + w : 2 * w + 1)] = v[n + 1][w];
      }
    }
    for (int i = 0; i < 4 * 32; i += 8, to += kBits) {
      uint64_t x;
      std::memcpy(&x, bytes + i, 8);
      x = close_gaps<kBits>(x);
      std::memcpy(to, &x, kBits);
    }
  }
}

// Packing::kTiles, quantised.
template <WeightType type>
void pack_tiles(const WeightView& w, const PackedMatrix& m, int strip) {
  constexpr FormatTraits f = format_traits(type);
  uint8_t* out = m.data + static_cast<size_t>(strip) * m.strip_bytes;
  const int64_t blocks = w.cols / 32, per_scale = f.super ? kChunkBlocks : 1;
  const int count = static_cast<int>(std::min<int64_t>(kStripRows, w.rows - strip * kStripRows));
  if (count < kStripRows || blocks % kChunkBlocks != 0) std::memset(out, 0, m.strip_bytes);
  for (int r = 0; r < count; ++r) {
    const auto* row = reinterpret_cast<const uint8_t*>(w.row(strip * kStripRows + r));
    for (int64_t b = 0; b < blocks; b += 4) {
      const auto in = static_cast<int>(b % kChunkBlocks);
      uint8_t* chunk =
          out + static_cast<size_t>(b / kChunkBlocks) * tile_chunk_bytes(f, kChunkBlocks);
      uint8_t values[4][32] = {};
      for (int n = 0; n < 4 && b + n < blocks; ++n) {
        if ((b + n) % per_scale == 0) {
          write_scales<type>(row, (b + n) / per_scale, r,
                             chunk + (f.super ? 0 : static_cast<size_t>(in + n) * scale_bytes(f)));
        }
        uint32_t groups[8];
        read_block<type>(row, b + n, groups);
        uint8_t one[32];
        std::memcpy(one, groups, 32);
        for (int i = 0; i < 16; ++i) {  // tile_input
          values[n][2 * i] = one[i];
          values[n][2 * i + 1] = one[16 + i];
        }
      }
      write_four<type>(values,
                       chunk + chunk_scales(f) +
                           static_cast<size_t>(in / 4 * kStripRows + r) * tile_row_bytes(f));
    }
  }
}

// Packing::kTiles, BF16 and F32 rounded to it: the tiles themselves.
void pack_bf16_tiles(const WeightView& w, const PackedMatrix& m, int strip) {
  uint8_t* out = m.data + static_cast<size_t>(strip) * m.strip_bytes;
  std::memset(out, 0, m.strip_bytes);
  for (int r = 0; r < kStripRows && strip * kStripRows + r < w.rows; ++r) {
    const std::byte* row = w.row(strip * kStripRows + r);
    for (int64_t c = 0; c < w.cols; c += 32) {
      uint16_t inputs[32] = {}, words[32];
      const int64_t count = std::min<int64_t>(32, w.cols - c);
      if (w.type == WeightType::kF32) {
        for (int64_t i = 0; i < count; ++i) {
          float value = 0;
          std::memcpy(&value, row + 4 * (c + i), sizeof value);
          inputs[i] = float_to_bf16(value);
        }
      } else {
        std::memcpy(inputs, row + 2 * c, static_cast<size_t>(count) * 2);
      }
      for (int i = 0; i < 32; ++i) words[i] = inputs[tile_input(i)];
      std::memcpy(out + static_cast<size_t>(c / 32) * kTileBytes + r * 64, words, 64);
    }
  }
}

void pack_float(const WeightView& w, const PackedMatrix& m, int strip) {
  uint8_t* out = m.data + static_cast<size_t>(strip) * m.strip_bytes;
  int64_t first = static_cast<int64_t>(strip) * kStripRows;
  int count = static_cast<int>(w.rows - first < kStripRows ? w.rows - first : kStripRows);
  if (count < kStripRows || w.cols % 2 != 0) std::memset(out, 0, m.strip_bytes);
  for (int64_t c0 = 0; c0 < w.cols; c0 += 16) {  // 16 x 16 tiles, so that both sides stay in cache
    int64_t c1 = c0 + 16 < w.cols ? c0 + 16 : w.cols;
    for (int r = 0; r < count; ++r) {
      const std::byte* row = w.row(first + r);
      if (m.type == WeightType::kF32) {
        auto* to = reinterpret_cast<uint32_t*>(out);
        for (int64_t c = c0; c < c1; ++c) std::memcpy(&to[c * 16 + r], row + 4 * c, 4);
      } else if (m.type == WeightType::kF16) {
        auto* to = reinterpret_cast<uint16_t*>(out);
        for (int64_t c = c0; c < c1; ++c) std::memcpy(&to[c * 16 + r], row + 2 * c, 2);
      } else {
        auto* to = reinterpret_cast<uint16_t*>(out);
        for (int64_t c = c0; c < c1; ++c)
          std::memcpy(&to[(c / 2) * 32 + 2 * r + (c & 1)], row + 2 * c, 2);
      }
    }
  }
}

void pack_words(const WeightView& w, const PackedMatrix& m, int strip) {
  uint8_t* out = m.data + static_cast<size_t>(strip) * m.strip_bytes;
  std::memset(out, 0, m.strip_bytes);
  std::vector<float> values(static_cast<size_t>(w.cols));
  for (int r = 0; r < kStripRows; ++r) {
    int64_t row = static_cast<int64_t>(strip) * kStripRows + r;
    if (row >= w.rows) return;
    dequantize_row(w, row, values.data());
    for (int64_t begin = 0; begin < w.cols; begin += kWordChunk) {
      uint8_t* chunk = out + static_cast<size_t>(begin / kWordChunk) * kWordChunkBytes;
      auto* words = reinterpret_cast<int16_t*>(chunk + kStripRows * sizeof(float));
      std::span<const float> x(values.data() + begin,
                               static_cast<size_t>(std::min(kWordChunk, w.cols - begin)));
      float top = 0;
      for (float v : x) top = std::max(top, std::fabs(v));
      float scale = top / kWordMost, inverse = top > 0 ? kWordMost / top : 0;
      std::memcpy(chunk + static_cast<size_t>(r) * sizeof(float), &scale, sizeof scale);
      for (size_t c = 0; c < x.size(); ++c) {
        words[c / 2 * 2 * kStripRows + static_cast<size_t>(r) * 2 + c % 2] =
            static_cast<int16_t>(std::nearbyint(x[c] * inverse));
      }
    }
  }
}

size_t align64(size_t x) { return (x + 63) / 64 * 64; }

}  // namespace

PackedMatrix packed_layout(WeightType type, Packing packing, int64_t rows, int64_t cols) {
  FormatTraits f = format_traits(type);
  PackedMatrix m;
  m.type = type;
  m.packing = packing;
  m.rows = rows;
  m.cols = cols;
  size_t n = static_cast<size_t>(cols);
  if (packing == Packing::kWords) {
    size_t chunks = (n - 1) / kWordChunk, left = n - chunks * kWordChunk;
    m.strip_bytes = chunks * kWordChunkBytes + kStripRows * (sizeof(float) + (left + 1) / 2 * 4);
  } else if (packing == Packing::kTiles) {
    if (type == WeightType::kF32) m.type = WeightType::kBF16;
    APUD_CHECK(tile_format(m.type) && cols % block_values(type) == 0, "whole blocks in a row");
    int64_t blocks = tile_blocks(cols), last = (blocks - 1) / kChunkBlocks;
    m.strip_bytes = f.quantised ? static_cast<size_t>(last) * tile_chunk_bytes(f, kChunkBlocks) +
                                      tile_chunk_bytes(f, blocks_of_chunk(blocks, last))
                                : static_cast<size_t>(blocks) * kTileBytes;
  } else if (f.quantised) {
    APUD_CHECK(cols % block_values(type) == 0, "whole blocks in a row");
    m.strip_bytes = quants_at(f, cols / 32 - 1) + quant_bytes32(f);
  } else {
    size_t element = type == WeightType::kF32 ? 4 : 2;
    m.strip_bytes = align64((type == WeightType::kBF16 ? n + n % 2 : n) * kStripRows * element);
  }
  return m;
}

void pack_strips(const WeightView& weight, const PackedMatrix& packed, int begin, int end) {
  for (int s = begin; s < end; ++s) {
    if (packed.packing == Packing::kWords) {
      pack_words(weight, packed, s);
      continue;
    }
    const bool tiles = packed.packing == Packing::kTiles;
    auto quantised = [&]<WeightType type>() {
      if constexpr (tile_format(type)) {
        if (tiles) return pack_tiles<type>(weight, packed, s);
      }
      pack_quantised<type>(weight, packed, s);
    };
    switch (packed.type) {
      case WeightType::kF32:
      case WeightType::kF16:
      case WeightType::kBF16:
        tiles ? pack_bf16_tiles(weight, packed, s) : pack_float(weight, packed, s);
        break;
      case WeightType::kQ4_0:
        quantised.template operator()<WeightType::kQ4_0>();
        break;
      case WeightType::kQ4_1:
        quantised.template operator()<WeightType::kQ4_1>();
        break;
      case WeightType::kQ5_0:
        quantised.template operator()<WeightType::kQ5_0>();
        break;
      case WeightType::kQ5_1:
        quantised.template operator()<WeightType::kQ5_1>();
        break;
      case WeightType::kQ8_0:
        quantised.template operator()<WeightType::kQ8_0>();
        break;
      case WeightType::kQ2_K:
        quantised.template operator()<WeightType::kQ2_K>();
        break;
      case WeightType::kQ3_K:
        quantised.template operator()<WeightType::kQ3_K>();
        break;
      case WeightType::kQ4_K:
        quantised.template operator()<WeightType::kQ4_K>();
        break;
      case WeightType::kQ5_K:
        quantised.template operator()<WeightType::kQ5_K>();
        break;
      case WeightType::kQ6_K:
        quantised.template operator()<WeightType::kQ6_K>();
        break;
    }
  }
}

}  // namespace apud::cpu
