// A Program compiled for the device: two lists of stages. Decode's works on up to kSmallRows rows
// in floats with fused matvec stages; prefill's on many rows with 16-bit matrix products.
//
// Threads: stages only enqueue; a plan belongs to its executor's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/kv_store.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/weights.h"

namespace apud::cuda {

inline constexpr int kSmallRows = 8;     // rows up to which decode's kernels serve
inline constexpr int kOutputChunk = 64;  // output rows computed at a time

/// What one step's stages need to know.
struct Step {
  Launch where;
  BatchView batch;
  CudaKv* kv = nullptr;
  int tokens = 0, sequences = 0;
  int out_first = 0, out_rows = 0;  // the chunk of output rows
  int tiles = 0;                    // prefill query tiles
  bool small = false;               // decode's plan and values
  bool single = false;              // every sequence has one token: decode attention may be fused
  bool identity = false;            // output rows are the rows themselves
  bool few = false;                 // an encoder's, of one short text
  bool long_rows = false;  // some row has more context than decode attention's few runs take
};

struct Stage {
  std::string name;  // "norm+qkv", for profiles
  double bytes = 0;  // weights read
  std::function<void(const Step&)> run;
};

/// Values of a program in device memory, laid out for one of the two modes.
class Values {
 public:
  struct Request {
    bool large = false;
    int max_tokens = 0, max_sequences = 0;
  };
  Values(const Program& program, const std::vector<LinearGroup>& groups, const Request& request);
  /// Where value `id` lies; of kOutputs values, row 0 of the chunk.
  const Matrix& at(ValueId id) const { return matrices_[id]; }
  /// 16-bit twin that norms write beside a float value; data null where none is kept.
  const Matrix& twin(ValueId id) const { return twins_[id]; }
  size_t bytes() const { return memory_.bytes(); }

 private:
  std::vector<Matrix> matrices_, twins_;
  DeviceBuffer memory_;
};

/// Things that stages share; outlives them.
struct PlanContext {
  const Program* program = nullptr;
  const DeviceWeights* weights = nullptr;
  const std::vector<LinearGroup>* groups = nullptr;
  Gemm* gemm = nullptr;
  int multiprocessors = 0;
  int max_tokens = 0;
  std::vector<RotaryArgs> rotary;  // by op index (others empty)
  DecodeScratch scratch;
  DecodeRuns runs;
  void* convert_scratch = nullptr;  // (max_tokens, widest x) 16-bit
  void* panel = nullptr;            // 16-bit rows of weights not kept resident
  size_t panel_bytes = 0;
  float* attention_scratch =
      nullptr;  // 2 * (max_tokens, heads * dim): KV type and activations differ
};

struct Plan {
  std::vector<Stage> body;           // rows kTokens
  std::vector<Stage> outputs;        // from the first op on selected or pooled rows
  std::vector<DeviceBuffer> memory;  // quantised activations
  size_t bytes() const;
};
/// Room for `rows` rows of quantised activations, kept by the plan.
QuantRows make_quant_rows(Plan& plan, int rows, int cols);
Plan compile_small(const PlanContext& c, const Values& values);
Plan compile_large(const PlanContext& c, const Values& values);

/// The embedding that op `i` is, with those behind it that add rows of tables of its type to it.
EmbedArgs embed_args(const PlanContext& c, const Matrix& out, int i);

/// Values an op reads and writes (a value updated in place is in both).
struct OpUse {
  std::vector<ValueId> reads, writes;
};
OpUse op_use(const Op& op);
/// True where nothing after op `index` reads the value before it is written afresh.
bool dead_after(const Program& program, int index, ValueId value);

}  // namespace apud::cuda
