// What CUDA device there is.
#include "kernels/backend.h"
#include "kernels/cuda/common.cuh"

namespace apud {

bool cuda_compiled() { return true; }

std::string cuda_unavailable_reason() {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return cudaGetErrorString(status);
  }
  if (count == 0) return "no CUDA device";
  int major = 0;
  status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (major < 8)
    return "the GPU has compute capability " + std::to_string(major) + ".x; 8.0 is needed";
  return {};
}

CudaMemory cuda_memory(int device) {
  std::string reason = cuda_unavailable_reason();
  if (!reason.empty())
    throw Error(ErrorKind::kUnavailable, "no usable CUDA device: " + reason, "use --device cpu");
  CudaMemory m;
  APUD_CUDA(cudaSetDevice(device));
  cudaDeviceProp properties;
  APUD_CUDA(cudaGetDeviceProperties(&properties, device));
  m.device = properties.name;
  size_t free_bytes = 0, total = 0;
  APUD_CUDA(cudaMemGetInfo(&free_bytes, &total));
  m.free_bytes = static_cast<int64_t>(free_bytes);
  m.total_bytes = static_cast<int64_t>(total);
  int kilohertz = 0, bits = 0;
  APUD_CUDA(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device));
  APUD_CUDA(cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device));
  m.read_bytes_per_second = 2.0 * kilohertz * 1e3 * bits / 8;  // two transfers a clock
  return m;
}

}  // namespace apud
