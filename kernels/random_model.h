// Models of well-known shapes with random weights, made in memory: for benchmarks and device tests
// that need a size and no file.
//
// Ownership: a RandomModel owns its weights' bytes. Threads: immutable after construction.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/program.h"

namespace apud {

struct RandomModel {
  std::string shape;   // "llama-7b"
  std::string format;  // "q4_k_m"
  Program program;
  Weights weights;
  int layers = 0;
  std::vector<std::unique_ptr<std::byte[]>> storage;
};

/// Names understood by random_model, "llama-7b", "llama-3-8b", …
std::vector<std::string> random_model_shapes();
/// `description` is SHAPE:FORMAT; formats are the weight types ("f16", "q8_0", …) and the mixes
/// q4_k_m and q5_k_m. Throws apud::Error (kUsage) naming what is unknown and what would be
/// understood.
std::unique_ptr<RandomModel> random_model(const std::string& description);

}  // namespace apud
