// Scalar functions that several kernels share.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/program.h"

namespace apud::cuda {

__device__ __forceinline__ float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::kSilu:
      return x / (1.f + __expf(-x));
    case Activation::kGeluTanh: {
      float t = 0.7978845608028654f * (x + 0.044715f * x * x * x);
      return 0.5f * x * (1.f + tanhf(t));
    }
    case Activation::kGeluErf:
      return 0.5f * x * (1.f + erff(x * 0.7071067811865476f));
  }
  return 0;
}
__device__ __forceinline__ float soft_cap(float x, float cap) { return cap * tanhf(x / cap); }

}  // namespace apud::cuda
