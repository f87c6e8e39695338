// Timing the stages of a step, for `bench`.
#include "kernels/cuda/executor.h"
#include "kernels/cuda/median_seconds.h"

namespace apud::cuda {

std::vector<StageTime> CudaExecutor::profile(const Batch& batch, KvStore* kv) {
  APUD_CUDA(cudaSetDevice(options_.device));
  ahead_.forget();
  check_batch(batch, kv);
  bool small = use_small(batch);
  Step step = prepare(small ? small_meta_ : large_meta_, batch, static_cast<CudaKv*>(kv));
  step.where.programmatic = false;
  step.out_rows = std::min<int>(kOutputChunk, static_cast<int>(batch.output_rows.size()));
  std::vector<StageTime> times;
  std::vector<cudaEvent_t> events;
  auto mark = [&] {
    cudaEvent_t e = nullptr;
    APUD_CUDA(cudaEventCreate(&e));
    APUD_CUDA(cudaEventRecord(e, stream_));
    events.push_back(e);
  };
  const Plan& plan = small ? small_ : large_;
  mark();
  for (const auto* list : {&plan.body, &plan.outputs})
    for (const Stage& s : *list) {
      s.run(step);
      mark();
      times.push_back({s.name, 0, s.bytes});
    }
  APUD_CUDA(cudaStreamSynchronize(stream_));
  for (size_t i = 0; i < times.size(); ++i) {
    float ms = 0;
    APUD_CUDA(cudaEventElapsedTime(&ms, events[i], events[i + 1]));
    times[i].microseconds = ms * 1000;
  }
  for (cudaEvent_t e : events) cudaEventDestroy(e);
  return times;
}

double CudaExecutor::chain_seconds(const Batch& batch, KvStore* kv, const std::string& name) {
  APUD_CUDA(cudaSetDevice(options_.device));
  ahead_.forget();
  check_batch(batch, kv);
  APUD_CHECK(use_small(batch), "stages of a decode step");
  const Step step = prepare(small_meta_, batch, static_cast<CudaKv*>(kv));
  int count = 0;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replayed = nullptr;
  APUD_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
  for (const Stage& s : small_.body)
    if (s.name == name) {
      s.run(step);
      ++count;
    }
  APUD_CUDA(cudaStreamEndCapture(stream_, &graph));
  APUD_CHECK(count > 0, "a stage of that name");
  const cudaError_t status = cudaGraphInstantiate(&replayed, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  const double seconds =
      median_seconds(5, stream_, [&] { APUD_CUDA(cudaGraphLaunch(replayed, stream_)); });
  cudaGraphExecDestroy(replayed);
  return seconds / count;
}

}  // namespace apud::cuda
