// The fast CPU executor: a Program's plan over repacked weights, on its own thread pool.
//
// Threads: as Executor; run() uses the pool's workers inside.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/kv_pages.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/plan.h"

namespace apud::cpu {

class CpuExecutor : public Executor {
 public:
  CpuExecutor(const Program& program, const Weights& weights, const Kernels& kernels,
              const CpuOptions& options);
  std::string name() const override { return kernels_.name; }
  const Program& program() const override { return program_; }
  std::unique_ptr<KvStore> make_kv(std::span<const int> pages_per_group, KvType type) override;
  int max_step_tokens() const override { return max_rows_; }
  void run(const Batch& batch, KvStore* kv, std::span<float> out) override;
  size_t memory_bytes() const override;

 private:
  struct Worker;
  void pack_weights();
  void load_vector(WeightId id, float offset);
  void check_batch(const Batch& batch, KvStore* kv, std::span<float> out) const;
  void start_step(const Batch& batch, KvStore* kv, std::span<float> out);

  void run_stage(size_t index, int worker);
  void run_rows(const Stage& stage, std::atomic<int>& next);
  void run_linear(const Stage& stage, std::atomic<int>& next, int worker);
  LinearArgs linear_args(const PlannedLinear& l, int rows);
  ActivatedArgs activated_args(const Stage& stage, int rows);
  void run_gather(const AttentionOp& op, std::atomic<int>& next);
  void run_attention(const AttentionOp& op, std::atomic<int>& next, int worker);

  void apply(const EmbedOp& op, int row);
  void apply(const NormOp& op, int row);
  void apply(const PlannedRotary& op, int row);
  void apply(const ActivationOp& op, int row);
  void apply(const AddOp& op, int row);
  void apply(const SelectOp& op, int row);
  void apply(const PoolOp& op, int row);
  void apply(const SoftcapOp& op, int row);
  void apply(const L2NormalizeOp& op, int row);
  void apply(const QuantizeOp& op, int row);
  void apply(const TrigOp& op, int row);

  int row_count(Rows rows) const;
  int cols(ValueId id) const { return program_.values[static_cast<size_t>(id)].cols; }
  int64_t stride(ValueId id) const;
  float* row(ValueId id, int r);
  const float* vector(WeightId id) const;

  const Program program_;
  const Weights& weights_;
  const Kernels& kernels_;
  Plan plan_;
  ThreadPool pool_;
  int max_rows_;
  Arena packed_memory_;
  std::vector<PackedMatrix> packed_;         // by weight; data == nullptr where not a linear weight
  std::vector<std::vector<float>> vectors_;  // by weight: norm weights and biases in float
  std::vector<Arena> slots_;                 // values: max_rows_ x slot_cols floats
  std::vector<Arena> acts_;                  // max_rows_ x act stride bytes
  Arena trig_;                               // [table][max_rows_][2][trig_cols]
  std::vector<Arena> scratch_;               // by worker
  std::vector<std::byte> gathered_;          // encoders: K and V of all sequences
  std::vector<std::atomic<int>> next_;       // by stage: next piece of work

  // The step that runs.
  const Batch* batch_ = nullptr;
  KvPages* kv_ = nullptr;
  std::span<float> out_;
  std::vector<int> positions_;    // by token
  std::vector<int> sequence_of_;  // by token
  std::vector<int> first_block_;  // encoders: by sequence, in gathered_
};

}  // namespace apud::cpu
