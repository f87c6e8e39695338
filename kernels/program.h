// The Program: a model as data. A short list of coarse ops over symbolic, ragged sizes, built once
// from a model's config and run by every executor (reference, fast CPU, CUDA).
//
// Values are matrices of float semantics, row-major, whose number of rows is symbolic:
//   kTokens     T rows: the new tokens of all sequences of a step, packed without padding
//   kOutputs    R rows: the rows selected by Batch::output_rows
//   kSequences  S rows: one per sequence of the step
// Executors may hold a value in another precision and may fuse ops, as long as the result stays
// within the tolerance table (tests/kernels/tolerance.h).
//
// Threads: immutable after construction.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels/tensor.h"

namespace apud {

using ValueId = int;   // index into Program::values; kNone where optional
using WeightId = int;  // index into Program::weights; kNone where optional
inline constexpr int kNone = -1;

enum class Rows : uint8_t { kTokens, kOutputs, kSequences };

struct Value {
  std::string name;
  Rows rows = Rows::kTokens;
  int cols = 0;
};

/// A weight as the program expects it. The bytes come with the model (Weights below).
struct WeightSlot {
  std::string name;  // of the tensor in the file, for messages
  int64_t rows = 0;
  int64_t cols = 0;
};

enum class IndexSource : uint8_t { kToken, kPosition, kZero };
enum class NormKind : uint8_t { kRms, kLayer };
enum class Activation : uint8_t { kSilu, kGeluTanh, kGeluErf };
enum class PoolKind : uint8_t { kMean, kFirst, kLast };

/// out[t] (+)= scale * table[index(t) + offset], index = token id, position, or 0 (token type).
struct EmbedOp {
  WeightId table = kNone;
  ValueId out = kNone;
  IndexSource index = IndexSource::kToken;
  int offset = 0;   // XLM-R positions start at 2
  float scale = 1;  // Gemma: sqrt(width)
  bool accumulate = false;
};

/// out = norm(x) * (weight + weight_offset) (+ bias). kRms: x / sqrt(mean(x^2) + eps);
/// kLayer: (x - mean) / sqrt(var + eps). out may be x.
struct NormOp {
  ValueId x = kNone;
  ValueId out = kNone;
  WeightId weight = kNone;
  WeightId bias = kNone;
  NormKind kind = NormKind::kRms;
  float eps = 1e-6f;
  float weight_offset = 0;  // 1 for Gemma weights of Hugging Face files
};

/// out (+)= x · weightᵀ (+ bias). weight: (out.cols, x.cols). accumulate adds to out (residual).
struct LinearOp {
  ValueId x = kNone;
  ValueId out = kNone;
  WeightId weight = kNone;
  WeightId bias = kNone;
  bool accumulate = false;
};

/// Heads of an attention layer.
struct HeadShape {
  int heads = 0;     // query heads
  int kv_heads = 0;  // divides heads
  int dim = 0;       // per head
};

/// Rotary embedding in the halves layout: for i < inv_freq.size(), elements i and i + size rotate
/// by position * inv_freq[i]; both are multiplied by `magnitude`. Empty inv_freq: no rotation.
/// Elements from 2*size on stay (partial rotary).
struct Rotary {
  std::vector<float> inv_freq;
  float magnitude = 1;
};

/// In place on q (T, heads*dim) and k (T, kv_heads*dim): per-head RMS norm where q_norm/k_norm are
/// given (qwen3, gemma3: norm first), then rotation; then k and v are appended to the KV cache of
/// `kv_layer` at each token's position. kv_layer = kNone (encoders): nothing is stored.
struct RotaryOp {
  ValueId q = kNone;
  ValueId k = kNone;
  ValueId v = kNone;
  HeadShape shape;
  Rotary rotary;
  WeightId q_norm = kNone;
  WeightId k_norm = kNone;
  float norm_eps = 1e-6f;
  float norm_offset = 0;
  int kv_layer = kNone;
};

/// out (T, heads*dim) = softmax(mask(softcap(scale * q·kᵀ)))·v.
/// kv_layer >= 0: causal, over the paged KV cache of that layer (which holds the new tokens
/// already). kv_layer = kNone: k and v are values, attention is bidirectional within each sequence.
/// window > 0: a token sees itself and the window-1 tokens before it (causal); for encoders, tokens
/// at a distance <= window/2 (Gemma-embedding's convention: |i - j| <= window / 2).
/// softcap > 0: s = softcap * tanh(s / softcap).
struct AttentionOp {
  ValueId q = kNone;
  ValueId out = kNone;
  ValueId k = kNone;
  ValueId v = kNone;
  HeadShape shape;
  float scale = 1;
  float softcap = 0;
  int window = 0;
  int kv_layer = kNone;
};

/// out = activation(gate) * up. up = kNone: out = activation(gate). out may be gate.
struct ActivationOp {
  ValueId gate = kNone;
  ValueId up = kNone;
  ValueId out = kNone;
  Activation kind = Activation::kSilu;
};

/// out += x.
struct AddOp {
  ValueId x = kNone;
  ValueId out = kNone;
};

/// out (R rows) = the rows of x (T rows) named by Batch::output_rows.
struct SelectOp {
  ValueId x = kNone;
  ValueId out = kNone;
};

/// out (S rows) = mean, first or last of each sequence's rows of x.
struct PoolOp {
  ValueId x = kNone;
  ValueId out = kNone;
  PoolKind kind = PoolKind::kMean;
};

/// In place: softcap > 0: x = softcap * tanh(x / softcap).
struct SoftcapOp {
  ValueId x = kNone;
  float softcap = 0;
};

/// In place: every row divided by its Euclidean norm (a zero row stays zero).
struct L2NormalizeOp {
  ValueId x = kNone;
};

using Op = std::variant<EmbedOp, NormOp, LinearOp, RotaryOp, AttentionOp, ActivationOp, AddOp,
                        SelectOp, PoolOp, SoftcapOp, L2NormalizeOp>;

/// Layers of equal KV shape and window share a group; a page holds kKvPageTokens tokens of all
/// layers of one group.
inline constexpr int kKvPageTokens = 64;
inline constexpr int kMaxKvGroups = 4;
struct KvGroup {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int window = 0;  // 0: all tokens are kept
};
struct KvLayerPlace {
  int group = 0;
  int index = 0;  // layer within the group
};

struct Program {
  std::string name;  // "qwen2", for prints
  std::vector<Value> values;
  std::vector<WeightSlot> weights;
  std::vector<Op> ops;
  std::vector<KvGroup> kv_groups;       // empty: encoder
  std::vector<KvLayerPlace> kv_layers;  // by kv_layer
  ValueId result = kNone;               // logits (R, vocab) or vectors (S, dim)
  int max_positions = 0;                // positions the model was made for

  bool is_encoder() const { return kv_groups.empty(); }
};

/// An encoder's program up to its pooling, with the rows named by Batch::output_rows as its result:
/// vectors of single tokens. Nothing where the pooled vector is not these rows' mean (another
/// pooling, or layers after it).
std::optional<Program> unpooled(const Program& encoder);

/// Bytes of weights by slot, same order as Program::weights; shapes equal the slots'.
using Weights = std::vector<WeightView>;

/// Cost of one token, from the ops: for `model info`, `bench` and placement.
struct ProgramCost {
  int64_t parameters = 0;              // weights counted once (tied ones too)
  int64_t weight_bytes = 0;            // as stored
  int64_t flops_per_token = 0;         // multiply and add, linear layers, logits included
  int64_t read_bytes_per_token = 0;    // weight bytes read by one decode step at batch 1
  int64_t attention_flops_per_kv = 0;  // per token and token of context
  int64_t kv_values_per_token = 0;     // K and V values stored per token, all layers
};
ProgramCost program_cost(const Program& program, const Weights& weights);

/// The list for `apud model info --ops`, one line per op with shapes and weight types.
std::string print_program(const Program& program, const Weights& weights);

/// Checks that every id is in range, shapes agree and values are written before they are read;
/// throws apud::Error (kBadData) naming op and value. Executors may rely on it.
void validate_program(const Program& program, const Weights& weights);

}  // namespace apud
