// Gate and up of five to eight rows of activations; apart so that they compile side by side.
#include "kernels/cuda/stream_many.cuh"

namespace apud::cuda {

StreamKernel many_pair_kernel(WeightType type) {
  StreamKernel found = nullptr;
  with_type(type, [&]<WeightType F>() {
    if constexpr (!is_float_type(F)) found = many_rows_kernel<F, F, true>;
  });
  return found;
}

}  // namespace apud::cuda
