// The quantised products of three rows of activations; apart so that they compile side by side.
#include "kernels/cuda/stream.cuh"

namespace apud::cuda {
template StreamKernel stream_kernel_for<3>(WeightType, WeightType, StreamKind);
}  // namespace apud::cuda
