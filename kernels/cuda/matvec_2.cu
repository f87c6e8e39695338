// The matvec kernels for up to 2 rows of activations; apart so that they compile side by side.
#include "kernels/cuda/matvec.cuh"

namespace apud::cuda {
template MatvecKernel matvec_kernel_for<2>(WeightType, bool);
}  // namespace apud::cuda
