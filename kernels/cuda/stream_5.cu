// The quantised products of five rows of activations; apart so that they compile side by side.
#include "kernels/cuda/stream.cuh"

namespace apud::cuda {
template StreamKernel stream_kernel_for<5>(WeightType, WeightType, StreamKind);
}  // namespace apud::cuda
