// Architectures as data: a file's hyperparameters become a ModelConfig, the config and the tensors
// become a Program. Nothing here knows tokenizers or templates.
//
// Threads: pure functions; the TensorSource must outlive the views in a LoadedProgram.
#pragma once

#include <string>
#include <vector>

#include "models/arch/tensors.h"
#include "models/gguf.h"
#include "models/model.h"

namespace apud {

/// Tensor names and conventions differ between the two kinds of file.
enum class FileLayout { kGguf, kFolder };

/// Dense layers after pooling (sentence-transformers), in order: out = weight · x (+ bias).
struct DenseLayer {
  std::string prefix;  // of its tensors in the source
  int in = 0;
  int out = 0;
  bool bias = false;
};

/// A config and what only building the program needs to know.
struct ArchConfig {
  ModelConfig model;
  FileLayout layout = FileLayout::kGguf;
  bool encoder = false;
  // Encoders:
  Activation activation = Activation::kGeluErf;
  int position_offset = 0;
  int position_rows = 0;
  std::vector<DenseLayer> dense;
  std::vector<ExtraTensors> extra_files;
  bool normalize = false;
  /// Position at which long rope changes from its short to its long factors; 0: none.
  int original_context = 0;
};

struct LoadedProgram {
  Program program;
  Weights weights;
};

/// `context`: as in ModelOptions. All three throw apud::Error (kBadData) naming file, key and
/// value.
ArchConfig config_from_gguf(const GgufFile& file, int context);
ArchConfig config_from_folder(const Path& folder, int context);
LoadedProgram build_program(const ArchConfig& config, const TensorSource& source);

}  // namespace apud
