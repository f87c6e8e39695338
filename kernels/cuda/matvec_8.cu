// The matvec kernels for up to 8 rows of activations; apart so that they compile side by side.
#include "kernels/cuda/matvec.cuh"

namespace apud::cuda {
template MatvecKernel matvec_kernel_for<8>(WeightType, bool);
}  // namespace apud::cuda
