// A loaded model: config, program, weights (mapped, not copied), tokenizer, chat template.
// Immutable after load; shared by executors, engine and embedder.
//
// Threads: const after load, shared freely.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "kernels/program.h"
#include "models/chat_template.h"
#include "models/tokenizer.h"

namespace apud {

/// The numbers of an architecture, whatever file they came from. `architecture` is one of: llama
/// qwen2 qwen3 gemma2 gemma3 phi3 bert xlm-roberta gemma-embedding.
struct ModelConfig {
  std::string architecture;
  std::string name;  // general.name or folder name
  int layers = 0;
  int width = 0;  // residual stream
  int ffn_width = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocab = 0;
  int context = 0;  // trained positions
  float norm_eps = 0;
  double rope_base = 10000;
  double rope_local_base = 0;  // gemma3: sliding layers
  int rope_dim = 0;
  std::string rope_scaling;  // "", "linear", "llama3", "longrope"
  std::vector<float> rope_factors;
  float rope_scale = 1;  // linear: positions are divided by it
  float rope_magnitude = 1;
  int window = 0;             // sliding window, 0 = none
  int window_pattern = 0;     // every n-th layer is global (gemma3: 6, gemma2: 2)
  float attention_scale = 0;  // 0: 1/sqrt(head_dim)
  float attention_softcap = 0;
  float logit_softcap = 0;
  bool tied_output = false;
  PoolKind pooling = PoolKind::kMean;  // encoders
  int embedding_dim = 0;               // encoders: size of the vector
  std::vector<int> matryoshka;         // smaller sizes that the vector may be cut to
  std::string query_prompt;            // encoders: text put before a query / a passage
  std::string passage_prompt;
  int max_input_tokens = 0;  // encoders
  /// Constants that the file leaves out and that came from the named table ("gemma3: sliding
  /// pattern 6, local rope base 10000: Gemma 3 report, table 1"); shown by `model info`.
  std::vector<std::string> from_table;
};

struct ModelOptions {
  /// Context the program is built for (long rope picks its factors by it); 0: the model's own.
  int context = 0;
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const Program& program() const = 0;
  virtual const Weights& weights() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  /// Null for base models and embedders.
  virtual const ChatTemplate* chat_template() const = 0;
  virtual const Path& path() const = 0;
  /// Bytes of the model's files.
  virtual uint64_t file_bytes() const = 0;
  /// Identity of weights, tokenizer and template: 32 hex digits. From sizes, headers and a sample
  /// of the data that is fixed by the format, cheap enough for every start (a full SHA-256 is
  /// checked when a model is fetched).
  virtual const std::string& fingerprint() const = 0;
  /// "Q4_K_M"-like description of the weight types: the types by share.
  virtual std::string quantisation() const = 0;
};

/// Opens a GGUF file or a Hugging Face folder. Throws apud::Error: kNoInput when it is not there,
/// kBadData with file, field and value when it is malformed or its architecture is unknown.
std::shared_ptr<const Model> load_model(const Path& path, const ModelOptions& options = {});

}  // namespace apud
