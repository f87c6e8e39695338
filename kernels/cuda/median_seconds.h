// Timing what a stream does, for `bench`.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cuda/common.cuh"

namespace apud::cuda {

/// Median seconds of `runs` calls of `enqueue` after a first one, which may load kernels.
template <typename Fn>
double median_seconds(int runs, cudaStream_t stream, Fn&& enqueue) {
  cudaEvent_t begin, end;
  APUD_CUDA(cudaEventCreate(&begin));
  APUD_CUDA(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i <= runs; ++i) {
    APUD_CUDA(cudaEventRecord(begin, stream));
    enqueue();
    APUD_CUDA(cudaEventRecord(end, stream));
    APUD_CUDA(cudaEventSynchronize(end));
    float ms = 0;
    APUD_CUDA(cudaEventElapsedTime(&ms, begin, end));
    if (i > 0) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2] / 1000;
}

}  // namespace apud::cuda
