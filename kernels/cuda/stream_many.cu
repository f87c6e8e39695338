// The quantised products of five to eight rows of activations but for pairs; apart so that they
// compile side by side.
#include "kernels/cuda/stream_many.cuh"

namespace apud::cuda {

StreamKernel many_kernel(WeightType a, WeightType b) {
  StreamKernel found = nullptr;
  if (a == b)
    with_type(a, [&]<WeightType F>() {
      if constexpr (!is_float_type(F)) found = many_rows_kernel<F, F, false>;
    });
  else
    with_mix(a, b, [&]<WeightType A, WeightType B>() { found = many_rows_kernel<A, B, false>; });
  return found;
}

size_t many_slot(WeightType type) {
  size_t bytes = 0;
  with_type(type, [&]<WeightType F>() {
    if constexpr (!is_float_type(F)) bytes = ManySlot<F>::kSize;
  });
  return bytes;
}

}  // namespace apud::cuda
