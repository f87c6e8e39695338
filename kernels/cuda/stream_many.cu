// The quantised products of six to eight rows of activations, a tile at a time. The others are in
// files of their own, so that they compile side by side.
#include "kernels/cuda/stream_many.cuh"

namespace apud::cuda {

StreamKernel many_tile_kernel(WeightType a, WeightType b) {
  return many_kernel_for<ManyKind::kTile>(a, b);
}

size_t many_slot(WeightType type) {
  size_t bytes = 0;
  with_type(type, [&]<WeightType F>() {
    if constexpr (!is_float_type(F)) bytes = ManySlot<F>::kSize;
  });
  return bytes;
}

}  // namespace apud::cuda
