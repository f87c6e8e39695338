// Attention over paged KV (decode and prefill) and over packed sequences (encoders), and the rotary
// step that fills the pages.
//
// Threads: launchers only enqueue.
#pragma once

#include "kernels/cuda/batch.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/repack.h"
#include "kernels/cuda/stream.h"

namespace apud::cuda {

struct RotaryArgs {
  HeadShape shape;
  const uint64_t* turns = nullptr;
  int pairs = 0;
  float magnitude = 1;
  const float* q_norm = nullptr;  // (dim)
  const float* k_norm = nullptr;
  float norm_eps = 0, norm_offset = 0;
};

struct AttentionArgs {
  Matrix q, k, v, out;  // rows T; k and v of encoders, or the new ones of a fused decode step
  HeadShape shape;
  float scale = 1, softcap = 0;
  int window = 0;
  bool paged = true;
  KvView kv;
  BatchView batch;
  int rows = 0;   // T
  int tiles = 0;  // prefill: query tiles in batch.tiles
  Half16 half16 = Half16::kFp16;
  QuantRows quantised;  // decode: out as the next product reads it; data null: not wanted
};

/// Norms and rotates q and k in place and, where kv.base is set, stores k and v in the pages.
void rotary(const AttentionArgs& a, const RotaryArgs& r, const Launch& where);

/// Query rows of one prefill tile for this head width; the host cuts the batch into tiles by it.
int prefill_tile_rows(int dim);
void attention_prefill(const AttentionArgs& a, const Launch& where);
/// The same on Hopper's tensor cores; false where the card, the head width or the types are not
/// for it.
bool attention_hopper(const AttentionArgs& a, const Launch& where);

/// How decode attention cuts a row's context: into `few` runs, a cluster, up to `short_units` units
/// of 16 tokens, into `many` beyond, or into `whole`, one on every multiprocessor, where that is
/// not 0 and the pages are of 16 bits. Depends on the model and the card alone, so that a
/// sequence's bits do not depend on the batch around it.
inline constexpr int kDecodeUnit = 16;  // tokens
struct DecodeRuns {
  int few = 1, many = 1, whole = 0, short_units = 0;
};
DecodeRuns decode_runs(const HeadShape& shape, int multiprocessors);

/// Where the many runs leave their results.
struct DecodeScratch {
  float* partial = nullptr;  // (rows, heads, runs, dim)
  float2* state = nullptr;   // (rows, heads, runs): running maximum (base 2) and sum
  int runs = 1;
  int max_rows = 0;
};
/// One query row per token. With `fused`, q, k and v are as the projections left them (float):
/// norms, rotation and the KV write of the new token happen here; every sequence then has one
/// token. `long_rows`: a row may have more than runs.short_units units.
void attention_decode(const AttentionArgs& a, const RotaryArgs* fused, const DecodeScratch& scratch,
                      const DecodeRuns& runs, bool long_rows, const Launch& where);

}  // namespace apud::cuda
