// The CUDA executor: places weights, compiles the program, and runs steps. Decode steps of up to
// kSmallRows rows replay a captured graph; everything is allocated at construction.
//
// Threads: one thread at a time.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <shared_mutex>
#include <tuple>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/sample.h"

namespace apud::cuda {

/// Microseconds of one stage of a profiled step.
struct StageTime {
  std::string name;
  double microseconds = 0;
  double bytes = 0;  // weights read
};

/// Shared while executors are made or end, held alone while one captures a step: a wait for the
/// whole device fails while some stream is captured, and breaks that capture.
std::shared_mutex& whole_device();

class CudaExecutor : public Executor {
 public:
  CudaExecutor(const Program& program, const Weights& weights, const CudaOptions& options);
  ~CudaExecutor() override;

  std::string name() const override { return name_; }
  const Program& program() const override { return program_; }
  std::unique_ptr<KvStore> make_kv(std::span<const int> pages_per_group, KvType type) override;
  KvType default_kv_type() const override;
  int max_step_tokens() const override { return options_.max_step_tokens; }
  void run(const Batch& batch, KvStore* kv, std::span<float> out) override;
  void run_sampled(const Batch& batch, KvStore* kv, std::span<const SamplingRow> rows,
                   std::span<SampledToken> out) override;
  size_t memory_bytes() const override;

  /// Runs one step stage by stage and times each with events (so without overlap); for `bench`.
  std::vector<StageTime> profile(const Batch& batch, KvStore* kv);
  /// Seconds of each of a decode step's stages called `name`, all of them one behind the other in a
  /// graph, as decode runs them; median of five. Their results mean nothing.
  double chain_seconds(const Batch& batch, KvStore* kv, const std::string& name);
  bool resident_halves() const { return weights_->resident_halves(); }

 private:
  /// Device copy of a batch and its pinned twin. Arrays lie at fixed offsets, pages last.
  struct Meta {
    int tokens = 0, capacity = 0, groups = 0;
    size_t ints = 0, used = 0;  // before `pages`; of the last batch
    size_t page_capacity = 0, tile_capacity = 0;
    DeviceBuffer device;
    int32_t* host = nullptr;
    BatchView view;
  };
  struct Window;  // part of a batch that one pass runs
  void make_meta(Meta& meta, int tokens, int capacity, size_t pages);
  Step prepare(Meta& meta, const Batch& batch, CudaKv* kv);
  bool use_small(const Batch& batch) const;
  /// Of an encoder: its step is a graph.
  bool short_text(const Batch& batch) const;
  void check_batch(const Batch& batch, const KvStore* kv) const;
  /// Enqueues the step's body; then `sink(step, logits)` after each chunk of output rows.
  template <typename Sink>
  void pass(const Batch& batch, CudaKv* kv, bool greedy, Sink&& sink);
  void run_rows(const Batch& batch, KvStore* kv,
                const std::function<void(const Batch&, int)>& one) const;
  void enqueue(const std::vector<Stage>& stages, const Step& step);
  /// Tokens, output rows, single, identity, long_rows, greedy, KV store.
  using GraphKey = std::tuple<int, int, bool, bool, bool, bool, const CudaKv*>;
  static GraphKey graph_key(const Step& s, bool greedy) {
    return {s.tokens, s.out_rows, s.single, s.identity, s.long_rows, greedy, s.kv};
  }
  void replay(const GraphKey& key, const std::function<void()>& all);
  void run_graph(const Step& step, bool greedy);
  void run_encoder(const Step& step);
  void enqueue_greedy(const Step& step);
  void sample_rows(const Step& step, std::span<const SamplingRow> rows);
  /// Whether greedy drawing leaves the device ready for the next step.
  static bool advances(const Step& step) {
    return step.small && step.single && step.identity && step.out_rows == step.tokens;
  }
  // run_ahead.cu
  bool continues(const Batch& batch, const CudaKv* kv) const;
  bool take_ahead(const Batch& batch, CudaKv* kv, std::span<SampledToken> out);
  void run_ahead(const Step& step, const Batch& batch, bool continuing);
  void read_drawn(const Batch& batch, std::span<SampledToken> out);
  const float* result(const Step& step) const;
  int64_t result_ld() const;

  const Program program_;
  CudaOptions options_;
  std::string name_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<PageLanes> lanes_;  // of decoders' KV stores
  bool programmatic_ = false;
  std::vector<LinearGroup> groups_;
  std::unique_ptr<DeviceWeights> weights_;
  std::unique_ptr<Gemm> gemm_;
  PlanContext context_;
  std::unique_ptr<Values> small_values_, large_values_;
  Plan small_, large_;
  DeviceBuffer shared_;  // rotary tables, attention scratch, conversion, panel
  Meta small_meta_, large_meta_;
  int tile_rows_ = 0;  // of prefill query tiles
  // Sampling.
  int vocab_ = 0;
  DeviceBuffer sample_memory_;
  SampleArgs sample_;
  uint8_t* sample_host_ = nullptr;  // pinned: rows, seen, masks
  size_t sample_host_bytes_ = 0;
  DeviceBuffer sample_inputs_;
  SampledToken* drawn_ = nullptr;  // pinned, written by the device
  int result_rows_ = 0;
  float* result_host_ = nullptr;  // pinned (result_rows_, result columns)
  /// Greedy decoding runs one step ahead of its caller: when a step continues the one before, the
  /// next is enqueued before its tokens are known to the host.
  struct Ahead {
    Step step;                    // the last that advanced; kv null: none
    std::vector<int> positions;   // of the step that would continue it,
    std::vector<int32_t> tokens;  //   and its tokens, once they have been read
    bool running = false;         // that step is enqueued
    cudaEvent_t done[2] = {};     // of steps in turns
    int turn = 0;                 // of the last step that the caller asked for
    void forget() {
      step.kv = nullptr;
      running = false;
    }
  } ahead_;
  struct Captured {
    int seen = 0;
    cudaGraphExec_t graph = nullptr;
  };
  std::map<GraphKey, Captured> graphs_;
  uint64_t kv_serial_ = 0;
};

}  // namespace apud::cuda
