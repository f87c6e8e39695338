// Weight tensors as they lie in a model file: element types, block sizes, views. Nothing here owns
// memory: the bytes belong to the file map that a Model keeps.
//
// Threads: values and pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace apud {

/// Element types of weights. Values are stored in cache keys: do not renumber. Block layouts are
/// GGML's (GGUF specification); `quant.h` turns them into floats.
enum class WeightType : uint8_t {
  kF32 = 0,
  kF16 = 1,
  kBF16 = 2,
  kQ4_0 = 3,
  kQ4_1 = 4,
  kQ5_0 = 5,
  kQ5_1 = 6,
  kQ8_0 = 7,
  kQ2_K = 8,
  kQ3_K = 9,
  kQ4_K = 10,
  kQ5_K = 11,
  kQ6_K = 12,
};
inline constexpr int kWeightTypeCount = 13;

/// Lower-case name as used on the command line and by GGUF tools: "f32", "q4_k", …
const char* weight_type_name(WeightType type);
std::optional<WeightType> weight_type_from_name(std::string_view name);
/// Values in one block (1 for floats, 32 or 256) and bytes of one block.
int block_values(WeightType type);
int block_bytes(WeightType type);
/// Bytes of a row of `cols` values. REQUIRES: cols is a multiple of block_values(type).
size_t row_bytes(WeightType type, int64_t cols);

/// How the rows of the stored matrix map to the rows that ops see.
enum class RowOrder : uint8_t {
  kPlain,
  /// Within each head of `head_dim` rows the file stores rotary pairs next to each other (GGUF
  /// files of architecture llama: 0, h/2, 1, h/2+1, …). Ops see the halves layout: row i of a
  /// head's first half is stored row 2i, of its second half stored row 2i+1.
  kRotaryPairs,
};

/// A weight matrix (rows = output features, cols = input features), row-major in the file's own
/// blocks; or a vector (rows = 1).
struct WeightView {
  WeightType type = WeightType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const std::byte* data = nullptr;
  RowOrder order = RowOrder::kPlain;
  int head_dim = 0;  // for kRotaryPairs

  size_t bytes() const { return static_cast<size_t>(rows) * row_bytes(type, cols); }
  /// Stored row of logical row `row`.
  int64_t stored_row(int64_t row) const {
    if (order == RowOrder::kPlain) return row;
    int64_t head = row / head_dim, in = row % head_dim, half = head_dim / 2;
    return head * head_dim + (in < half ? 2 * in : 2 * (in - half) + 1);
  }
  const std::byte* row(int64_t logical) const {
    return data + static_cast<size_t>(stored_row(logical)) * row_bytes(type, cols);
  }
};

}  // namespace apud
