// Builds without CUDA have nothing to measure.
#ifndef APUD_HAVE_CUDA
#include "kernels/gpu_bench.h"

#include "base/error.h"
#include "kernels/backend.h"

namespace apud {

GpuCeilings measure_gpu_ceilings(int) {
  throw Error(ErrorKind::kUnavailable, "no CUDA device: " + cuda_unavailable_reason(),
              "use --device cpu");
}
void gpu_bench(const GpuBenchOptions&, const GpuCeilings&,
               const std::function<void(const GpuBenchRow&)>&) {
  throw Error(ErrorKind::kUnavailable, "no CUDA device: " + cuda_unavailable_reason(),
              "use --device cpu");
}

}  // namespace apud
#endif
