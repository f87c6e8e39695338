// What the instruction-set paths offer to the executor: one table of functions for each path. The
// functions are pure (they write only where their arguments say) and single-threaded; the executor
// splits the work. Within one path a row's result never depends on how rows are split.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/packed.h"
#include "kernels/program.h"

namespace apud::cpu {

/// out[row] (+)= weight · x[row] (+ bias) for rows [row_begin, row_end).
struct LinearArgs {
  const PackedMatrix* weight = nullptr;
  const uint8_t* acts = nullptr;  // weights that take them: rows of act_layout, from row 0
  ActLayout act_layout;
  const float* x = nullptr;  // float weights: rows of x_stride floats
  int64_t x_stride = 0;
  float* out = nullptr;  // rows of out_stride floats
  int64_t out_stride = 0;
  const float* bias = nullptr;  // weight->rows floats
  bool accumulate = false;
  int row_begin = 0;  // of interleaved activations: a multiple of 2 * group, or 0
  int row_end = 0;
};

/// Where only the next products read an activation: activated(in.weight · x (+ in.bias)), or that
/// times (up · x (+ up_bias)), for rows [in.row_begin, in.row_end), rounded as `quantize` does.
struct ActivatedArgs {
  LinearArgs in;  // out, accumulate: not used
  const PackedMatrix* up = nullptr;
  const float* up_bias = nullptr;
  Activation kind = Activation::kSilu;
  uint8_t* to = nullptr;  // rows of to_layout (ActKind::kBf16), from row 0
  ActLayout to_layout;
};

struct NormArgs {
  NormKind kind = NormKind::kRms;
  const float* weight = nullptr;  // offset already added
  const float* bias = nullptr;
  int cols = 0;
  float eps = 0;
};

/// K and V of one (page, layer, KV head): K transposed [dim][64], so that scores of consecutive
/// keys fill a vector; V [64][dim rounded up to 16]; for int8, scales of K[64] and V[64] in float.
struct KvHeadLayout {
  KvType type = KvType::kF16;
  int dim = 0;
  int v_cols = 0;
  size_t v_offset = 0;
  size_t scale_offset = 0;
  size_t bytes = 0;
};
KvHeadLayout kv_head_layout(KvType type, int dim);

/// Attention of some query rows over the KV blocks of one sequence and KV head, in ascending order.
/// Every block gives (max, sum, weighted values) of its own, which are merged; on tiles it is added
/// to the row's sums, which are scaled anew only when the maximum has grown by more than 2^8
/// (FlashAttention-4's rule). A row's result so depends on nothing but its query, its range and the
/// keys.
struct AttentionArgs {
  KvHeadLayout layout;
  const std::byte* const* blocks = nullptr;  // by block of 64 positions, from block 0
  int first_block = 0;
  int end_block = 0;
  int rows = 0;
  const float* const* q = nullptr;  // [rows] -> dim floats
  float* const* out = nullptr;      // [rows] -> dim floats; may be q
  const int* low = nullptr;         // [rows] first visible position
  const int* high = nullptr;        // [rows] one past the last
  float scale = 1;
  float softcap = 0;
  float* scratch = nullptr;  // attention_scratch_floats(rows, dim)
};
/// Enough for every path: queries and states of the rows, a block's keys and values as tiles.
constexpr size_t attention_scratch_floats(int rows, int dim) {
  size_t d = static_cast<size_t>((dim + 31) / 32 * 32),
         r = static_cast<size_t>((rows + 15) / 16 * 16);
  return r * (2 * d + 32) + 128 * d + 4200;
}

struct Kernels {
  CpuIsa isa;
  const char* name;  // Executor::name()
  bool tiles;        // Packing::kTiles for what is a tile_format
  void (*linear)(const LinearArgs& args, int strip_begin, int strip_end, uint8_t* scratch);
  void (*quantize)(ActKind kind, const float* x, const ActLayout& layout, uint8_t* row);
  /// out = x - the values that `row` holds.
  void (*quantize_rest)(const float* x, const ActLayout& layout, const uint8_t* row, float* out);
  void (*norm)(const NormArgs& args, const float* x, float* out);
  void (*activate)(Activation kind, const float* gate, const float* up, float* out, int n);
  /// out (+)= x * scale.
  void (*scale_add)(const float* x, float scale, bool accumulate, float* out, int n);
  void (*softcap)(float cap, float* x, int n);
  /// Halves rotation of one head; cos and sin hold `half` floats each.
  void (*rotate)(const float* cos, const float* sin, int half, float* head);
  void (*l2_normalize)(float* x, int n);
  void (*store_kv)(const KvHeadLayout& layout, std::byte* head, int slot, const float* k,
                   const float* v);
  void (*attend)(const AttentionArgs& args);
  /// Paths with tiles. REQUIRES: strip_begin and strip_end are even, in.weight and up alike.
  void (*activated)(const ActivatedArgs& args, int strip_begin, int strip_end,
                    uint8_t* scratch) = nullptr;
};

inline constexpr size_t kTileScratchBytes = 576 << 10;
/// Bytes of scratch that `linear` needs for a matrix of `cols` inputs: unpacked panels of two
/// strips, their minima and sums of rows, in the largest of the paths' forms.
/// Tiles' does not depend on `cols`.
constexpr size_t linear_scratch_bytes(int64_t cols, bool tiles) {
  size_t panels = static_cast<size_t>(cols + 64) * 4 * kStripRows + (192 << 10);
  return tiles && panels < kTileScratchBytes ? kTileScratchBytes : panels;
}

const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& vnni_kernels();
const Kernels& amx_kernels();
/// REQUIRES: `isa` is of available_cpu_isas.
const Kernels& kernels_of(CpuIsa isa);
/// Asks the system for the tile registers and checks one product of tiles. REQUIRES: AMX is listed.
bool amx_works();
/// Rows of quantised activations that kernels may read (not use) behind the last one.
inline constexpr int kActSlackRows = 32;

}  // namespace apud::cpu
