// Gate and up of six to eight rows of activations.
#include "kernels/cuda/stream_many.cuh"

namespace apud::cuda {

StreamKernel many_pair_kernel(WeightType type) {
  StreamKernel found = nullptr;
  with_type(type, [&]<WeightType F>() {
    if constexpr (!is_float_type(F)) found = many_rows_kernel<F, F, ManyKind::kPair>;
  });
  return found;
}

}  // namespace apud::cuda
