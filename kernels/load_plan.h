// What a model will need on a device, before anything is loaded: weights, KV pages, workspace and
// head-room, the largest context that fits, and the ladder of what would fit where it does not.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace apud {

struct LoadRequest {
  int64_t device_bytes = 0;  // free on the device
  int context = 0;           // tokens per sequence; 0: what fits, at most the program's own
  int sequences = 1;         // that hold a full context at once,
  int spare_tokens = 0;      //   each with room for so many more: pages in which two of them part
  KvType kv_type = KvType::kF16;
  int max_step_tokens = 4096;        // workspace grows with it
  double read_bytes_per_second = 0;  // of the device; 0: no speed is predicted
};

struct LoadStep {
  std::string change;  // "context 8192, KV i8"
  int context = 0;
  int sequences = 0;
  KvType kv_type = KvType::kF16;
  double tokens_per_second =
      0;  // upper bound at half the context: bytes over read rate; 0: unknown
};

struct LoadPlan {
  bool fits = false;
  int context = 0;        // taken (a multiple of the page, or the request)
  int64_t weights = 0;    // repacked
  int64_t half_copy = 0;  // 16-bit weights for prefill; 0 where they would not fit
  int64_t kv = 0;
  int64_t workspace = 0;
  int64_t head_room = 0;  // left free for the driver and other programs
  int64_t total() const { return weights + half_copy + kv + workspace + head_room; }
  std::vector<LoadStep>
      ladder;  // where !fits: what would, most useful first; empty: not even one page
};

/// Bytes of KV for `tokens` tokens of one sequence, in whole pages. Groups with a sliding window
/// keep all of them, too (the engine frees none behind it).
int64_t kv_bytes(const Program& program, int tokens, KvType type);
LoadPlan plan_load(const Program& program, const Weights& weights, const LoadRequest& request);
/// Whether room for `sequences` instead of the request's costs neither context nor the 16-bit copy.
bool more_sequences_are_free(const Program& program, const Weights& weights,
                             const LoadRequest& request, int sequences);

}  // namespace apud
