// Steps as CUDA graphs: captured once, replayed from then on.
#include <mutex>

#include "kernels/cuda/executor.h"

namespace apud::cuda {

std::shared_mutex& whole_device() {
  static std::shared_mutex mutex;
  return mutex;
}

/// The first step of a kind runs plainly (kernels load), the second is captured, later ones replay.
/// What another thread of this process does may break a capture (an executor that is being made
/// waits for the whole device): then this step runs plainly and the next is captured.
void CudaExecutor::replay(const GraphKey& key, const std::function<void()>& all) {
  Captured& c = graphs_[key];
  if (c.graph) {
    APUD_CUDA(cudaGraphLaunch(c.graph, stream_));
    return;
  }
  if (c.seen++ == 0) return all();
  std::unique_lock<std::shared_mutex> capturing(whole_device(), std::try_to_lock);
  if (!capturing) return all();
  cudaGraph_t graph = nullptr;
  APUD_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
  bool whole = true;
  try {
    all();
  } catch (const Error&) {
    whole = false;
  }
  if (cudaStreamEndCapture(stream_, &graph) != cudaSuccess || !whole) {
    cudaGetLastError();
    if (graph) cudaGraphDestroy(graph);
    return all();
  }
  cudaError_t status = cudaGraphInstantiate(&c.graph, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  APUD_CUDA(cudaGraphLaunch(c.graph, stream_));
}

void CudaExecutor::run_graph(const Step& step, bool greedy) {
  replay(graph_key(step, greedy), [&] {
    enqueue(small_.body, step);
    if (step.out_rows > 0) enqueue(small_.outputs, step);
    if (greedy) enqueue_greedy(step);
  });
}

/// A short text's hundred kernels take longer to launch than to run: its step is a graph, too.
void CudaExecutor::run_encoder(const Step& step) {
  auto all = [&] {
    enqueue(large_.body, step);
    enqueue(large_.outputs, step);
  };
  if (!step.few) return all();
  replay(GraphKey{step.tokens, 1, true, false, false, false, nullptr}, all);
}

}  // namespace apud::cuda
