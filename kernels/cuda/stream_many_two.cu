// The quantised products of six to eight rows of activations, two tiles at a time.
#include "kernels/cuda/stream_many.cuh"

namespace apud::cuda {

StreamKernel many_two_tiles_kernel(WeightType a, WeightType b) {
  return many_kernel_for<ManyKind::kTwoTiles>(a, b);
}

}  // namespace apud::cuda
