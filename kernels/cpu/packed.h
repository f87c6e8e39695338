// The fast CPU executor's own layout of a weight matrix, and of quantised activations.
//
// A strip is 16 output rows. Within a strip the input dimension runs outermost, so a dot product of
// 16 rows reads memory in one direction. Values equal the file's: only their places change.
//
// Quantised formats, per strip and 256 inputs (a chunk; the last one of a row may hold fewer):
//   scales  (per 32 values: half d[16] (, half m[16]);  K formats, per 256 values: half d[16]
//            (, half dmin[16]), int8 scale[S][16] (, uint8 min[S][16]), S = sub-blocks), padded to
//            64 bytes
//   quants  per 32 values, as planes of 16 rows x 4 consecutive values (64 bytes, row-major in
//   dwords):
//            low 4 bits: 4 planes, plane j = value group j | value group j+4 << 4
//            low 2 bits: 2 planes, plane h = groups 4h..4h+3 at bits 0, 2, 4, 6
//            high 1 bit: 1 plane, group g at bit g;  high 2 bits: 2 planes as low 2 bits
//            8 bits:     8 planes, value + 128
//   (value group g = values 4g .. 4g+3 of the 32)
// Float formats, per strip: F32, F16: [cols][16]; BF16: [cols/2][16][2] (odd cols padded with
// zero).
//
// On the AMX path, some formats (Packing::kTiles, tile_format): what unpacks best into the bf16
// tiles that this path multiplies, each of 16 rows x 32 inputs (a block). BF16 (an encoder's F32
// rounded to it, too), per strip: the tiles themselves, the last one padded with zeros. Quantised,
// per strip and 256 inputs (a chunk; in the last one of a row, bits of blocks beyond the end are
// zero):
//   scales  as above, padded to those of a whole chunk
//   quants  whole fours of blocks; of each, row by row, the bits of 4 x 32 values without gaps:
//           word by word, 4 bits of all four blocks, 6 and 8 bits of two blocks and then of the
//           other two; 5 bits block by block
// The words of a tile's row, of weights and activations alike, are a block's inputs 0, 16, 1, 17, …
// 15, 31 (tile_input), so that the two of a dword are neighbours in two vectors of floats.
//
// An encoder's other F32 and F16 weights (Packing::kWords), per strip and 128 inputs (the last
// chunk of a row may hold fewer): float scale[16], then int16 [inputs/2][16][2], odd inputs padded
// with zero. Values are rounded to +-4095 of a row's largest in the chunk: twice the speed of
// float, and an embedding's cosine with the exact one stays above 0.99999 (docs/performance.md).
//
// Scales stand beside their quants, not in front of the strip: with two streams to read, one core
// drew 11 GB/s of 29 from memory (Zen 4), whatever was prefetched.
//
// The first layout serves the matvec, the VNNI products and AVX2 (which takes half a plane).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace apud::cpu {

inline constexpr int kStripRows = 16;

/// What the kernels must know of a quantised format; values are template parameters there.
struct FormatTraits {
  bool quantised;  // else float
  bool super;      // K format: blocks of 256 with integer sub-scales
  int low_bits;    // 2, 4 or 8
  int high_bits;   // 0, 1 or 2
  int offset;      // subtracted from the stored unsigned value
  int sub;         // values per (sub-)scale: 32 or 16
  bool has_min;    // value = d * q + m, or d * sc * q - dmin * mn
};

constexpr FormatTraits format_traits(WeightType type) {
  switch (type) {
    case WeightType::kF32:
    case WeightType::kF16:
    case WeightType::kBF16:
      return {false, false, 0, 0, 0, 0, false};
    case WeightType::kQ4_0:
      return {true, false, 4, 0, 8, 32, false};
    case WeightType::kQ4_1:
      return {true, false, 4, 0, 0, 32, true};
    case WeightType::kQ5_0:
      return {true, false, 4, 1, 16, 32, false};
    case WeightType::kQ5_1:
      return {true, false, 4, 1, 0, 32, true};
    case WeightType::kQ8_0:
      return {true, false, 8, 0, 128, 32, false};
    case WeightType::kQ2_K:
      return {true, true, 2, 0, 0, 16, true};
    case WeightType::kQ3_K:
      return {true, true, 2, 1, 4, 16, false};
    case WeightType::kQ4_K:
      return {true, true, 4, 0, 0, 32, true};
    case WeightType::kQ5_K:
      return {true, true, 4, 1, 0, 32, true};
    case WeightType::kQ6_K:
      return {true, true, 4, 2, 32, 16, false};
  }
  return {};
}

/// Bytes of quants for 32 values of a strip.
constexpr size_t quant_bytes32(const FormatTraits& f) {
  return static_cast<size_t>(f.low_bits + f.high_bits) * 64;
}
/// Bytes of scales for one block (32 or 256 values) of a strip.
constexpr size_t scale_bytes(const FormatTraits& f) {
  if (!f.super) return f.has_min ? 64 : 32;
  size_t subs = 256 / static_cast<size_t>(f.sub);
  return (f.has_min ? 64 : 32) + subs * 16 * (f.has_min ? 2 : 1);
}

/// Blocks of 32 values in a chunk; its scales; its bytes.
inline constexpr int64_t kChunkBlocks = 8;
constexpr size_t chunk_scales(const FormatTraits& f) {
  return f.super ? (scale_bytes(f) + 63) / 64 * 64 : 8 * scale_bytes(f);
}
constexpr size_t chunk_bytes(const FormatTraits& f) {
  return chunk_scales(f) + 8 * quant_bytes32(f);
}
/// Where in a strip the scales and the quants of block `b` (of 32 values) begin.
constexpr size_t scales_at(const FormatTraits& f, int64_t b) {
  return static_cast<size_t>(b / kChunkBlocks) * chunk_bytes(f) +
         (f.super ? 0 : static_cast<size_t>(b % kChunkBlocks) * scale_bytes(f));
}
constexpr size_t quants_at(const FormatTraits& f, int64_t b) {
  return static_cast<size_t>(b / kChunkBlocks) * chunk_bytes(f) + chunk_scales(f) +
         static_cast<size_t>(b % kChunkBlocks) * quant_bytes32(f);
}

/// Blocks of 32 inputs, the last one padded; and those of chunk `c` of `blocks`.
constexpr int64_t tile_blocks(int64_t cols) { return (cols + 31) / 32; }
constexpr int64_t blocks_of_chunk(int64_t blocks, int64_t c) {
  int64_t left = blocks - c * kChunkBlocks;
  return left < kChunkBlocks ? left : kChunkBlocks;
}
/// kTiles: the input of a block that word `w` (0..31) stands for.
constexpr int tile_input(int w) { return w / 2 + 16 * (w % 2); }
constexpr int value_bits(const FormatTraits& f) { return f.low_bits + f.high_bits; }
/// Formats that the AMX path multiplies in tiles for any number of rows. The others' products are
/// VNNI's.
constexpr bool tile_format(WeightType type) {
  return type == WeightType::kBF16 || value_bits(format_traits(type)) >= 4;
}
/// kTiles: bytes of four blocks of a row.
constexpr size_t tile_row_bytes(const FormatTraits& f) {
  return static_cast<size_t>(value_bits(f)) * 16;
}
/// Bytes of a chunk of `blocks`, to whole fours of them, which kernels unpack at once.
constexpr size_t tile_chunk_bytes(const FormatTraits& f, int64_t blocks) {
  auto fours = static_cast<size_t>((blocks + 3) / 4);
  return chunk_scales(f) + fours * kStripRows * tile_row_bytes(f);
}
inline constexpr size_t kTileBytes = kStripRows * 64;  // of 16 x 32 bf16

enum class Packing : uint8_t { kExact, kWords, kTiles };

/// Inputs that share a scale, and their largest magnitude: 128 products stay within 31 bits.
inline constexpr int64_t kWordChunk = 128;
inline constexpr int kWordMost = 4095;
static_assert(kWordChunk * kWordMost * kWordMost < int64_t{1} << 31);
inline constexpr size_t kWordChunkBytes = kStripRows * (sizeof(float) + kWordChunk * 2);

/// A repacked matrix. Owns nothing: `data` lies in the executor's arena, 64-byte aligned.
struct PackedMatrix {
  WeightType type = WeightType::kF32;
  Packing packing = Packing::kExact;
  int64_t rows = 0;
  int64_t cols = 0;
  size_t strip_bytes = 0;  // multiple of 64
  uint8_t* data = nullptr;

  int strips() const { return static_cast<int>((rows + kStripRows - 1) / kStripRows); }
  const uint8_t* strip(int s) const { return data + static_cast<size_t>(s) * strip_bytes; }
  size_t bytes() const { return static_cast<size_t>(strips()) * strip_bytes; }
};

/// Layout of `weight` without data. REQUIRES: whole blocks in a row.
PackedMatrix packed_layout(WeightType type, Packing packing, int64_t rows, int64_t cols);
/// Fills strips [begin, end) of `packed` from the file's blocks; rows beyond the last are zero.
void pack_strips(const WeightView& weight, const PackedMatrix& packed, int begin, int end);

/// One row of activations as int8 with one scale per 32 values, beside the float row. kBlock32 and
/// kFormatK, for the two families of formats; G = 32 values for kBlock32, 16 for kFormatK:
///   scale float[cols/32], neg_sum int32[cols/G], sum32 float[cols/32], kFormatK: sum16
///   float[cols/16]
/// neg_sum, for the offsets of weights: minus the sum of the quantised values of a group; on paths
/// without a dot product two int16, minus the sums of values 0, 1 and of values 2, 3 of every four.
/// sum32, sum16, for minima: the sums of the values that they stand for.
/// kWords, for Packing::kWords: int16 within +-kWordMost, scale float[chunks of 128], nothing else.
/// kBf16, for Packing::kTiles: rounded to bfloat16, inputs padded with zeros to whole blocks of 32
/// and in the order of tile_input; `group` rows lie interleaved, [inputs / 2][group][2], so that a
/// block of theirs is a tile.
enum class ActKind : uint8_t { kBlock32, kFormatK, kWords, kBf16 };

/// Rows of `kind` that lie interleaved when a step has `rows` of them.
constexpr int act_group(ActKind kind, int rows) {
  return kind != ActKind::kBf16 ? 1 : rows < 16 ? rows : 16;
}

struct ActLayout {
  int64_t cols = 0;
  int group = 1;                                        // act_group, kBf16
  size_t scale = 0, neg_sum = 0, sum32 = 0, sum16 = 0;  // byte offsets in a row; values start at 0
  size_t stride = 0;                                    // bytes of a row

  /// Where row `r` begins, from the first row.
  size_t at(int r) const {
    auto begin = static_cast<size_t>(r / group * group);
    return begin * stride + static_cast<size_t>(r % group) * 4;
  }
};

constexpr ActLayout act_layout(ActKind kind, int64_t cols) {
  auto align = [](size_t x) { return (x + 63) / 64 * 64; };
  ActLayout a;
  size_t n = static_cast<size_t>(cols);
  a.cols = cols;
  if (kind == ActKind::kWords) {
    a.scale = align(2 * n);
    a.stride = a.scale + align((n + kWordChunk - 1) / kWordChunk * 4);
    if (a.stride % 4096 == 0) a.stride += 64;
    return a;
  }
  if (kind == ActKind::kBf16) {
    a.stride = static_cast<size_t>(tile_blocks(cols)) * 64;
    return a;
  }
  a.scale = align(n);
  size_t group = kind == ActKind::kBlock32 ? 32 : 16;
  a.neg_sum = a.scale + align(n / 32 * 4);
  a.sum32 = a.neg_sum + align(n / group * 4);
  a.sum16 = a.sum32 + align(n / 32 * 4);
  a.stride = a.sum16 + (kind == ActKind::kBlock32 ? 0 : align(n / 16 * 4));
  // Rows a multiple of 4 KiB apart would share cache sets.
  if (a.stride % 4096 == 0) a.stride += 64;
  return a;
}

/// Whether products take quantised activations, and of which kind.
constexpr bool takes_acts(WeightType type, Packing packing) {
  return packing != Packing::kExact || format_traits(type).quantised;
}
constexpr ActKind act_kind(WeightType type, Packing packing) {
  if (packing == Packing::kWords) return ActKind::kWords;
  if (packing == Packing::kTiles) return ActKind::kBf16;
  return format_traits(type).super ? ActKind::kFormatK : ActKind::kBlock32;
}

/// Floats from one row of `cols` values to the next: whole lines, an odd number of them. Rows of an
/// even number meet in a few sets of the first cache, which then cannot hold the 32 rows of a
/// product's results.
constexpr int64_t row_stride(int64_t cols) { return (cols + 15) / 16 * 16 | 16; }

}  // namespace apud::cpu
