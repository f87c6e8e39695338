// What the GPU in front of us can do, and what the engine makes of it: ceilings measured in the
// same run, then decode, prefill, attention, embedding and load of models of any shape with random
// weights.
//
// Threads: one call at a time; nothing else should use the device meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/program.h"

namespace apud {

struct GpuCeilings {
  std::string device;
  double read = 0;                      // bytes/s, device memory
  double copy = 0;                      // bytes/s read plus written
  double host_link = 0;                 // bytes/s, pinned host to device
  double gemm_2048 = 0, gemm_8192 = 0;  // flop/s, fp16 with float sums, M=2048 / 8192, N=K=8192
};

struct StageLoss {
  std::string stage;
  int count = 0;
  double microseconds = 0;  // of all of them in one step, measured one by one
  double lost = 0;          // per stage, beyond bytes / read ceiling
};

struct GpuBenchRow {
  std::string work;   // "decode", "prefill", "attention", "embed", "load"
  std::string model;  // SHAPE:FORMAT
  int context = 0;    // cached tokens before the measured ones
  double value = 0;
  std::string unit;
  double share = 0;                   // of the ceiling that binds
  std::string ceiling;                // which: "read", "gemm", "link"
  double microseconds_per_stage = 0;  // decode: lost beyond bytes / read, per dependent stage
  uint64_t logits_hash = 0;
  std::vector<StageLoss> stages;
};

struct GpuBenchOptions {
  int device = 0;
  std::vector<std::string> models = {"llama-7b:q4_k_m"};  // random weights of these shapes,
  const Program* program = nullptr;                       // or this model, where it is set:
  const Weights* weights = nullptr;
  std::string name;
  std::vector<std::string> works = {"decode", "prefill"};   // also: attention, embed, load
  std::vector<int> contexts = {512};                        // of decode and attention,
  std::vector<int> attention_contexts;                      // or of attention, where there are any
  std::vector<std::pair<int, int>> prefills = {{2048, 0}};  // new tokens, cached tokens
  int decode_tokens = 64;
  int sequences = 1;    // that decode side by side; tok/s are of all of them
  bool stages = false;  // time stages one by one too
};

/// Throws kUnavailable where there is no usable device.
GpuCeilings measure_gpu_ceilings(int device);
/// Calls `row` as results come in.
void gpu_bench(const GpuBenchOptions& options, const GpuCeilings& ceilings,
               const std::function<void(const GpuBenchRow&)>& row);

}  // namespace apud
