// Scalar functions that several kernels share.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/program.h"

namespace apud::cuda {

/// x Phi(x) to 2e-7 |x|: erfc by Abramowitz and Stegun 7.1.26, a dozen instructions where erff and
/// its branches take thirty.
__device__ __forceinline__ float gelu_erf(float x) {
  const float a = fabsf(x);
  float t, e;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(fmaf(a, 0.3275911f * 0.7071067811865476f, 1.f)));
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(a * a * -0.7213475204444817f));
  // Half of erfc(a / sqrt 2).
  float tail = fmaf(t, 0.5f * 1.061405429f, -0.5f * 1.453152027f);
  tail = fmaf(t, tail, 0.5f * 1.421413741f);
  tail = fmaf(t, tail, -0.5f * 0.284496736f);
  tail = fmaf(t, tail, 0.5f * 0.254829592f);
  return fmaf(-a, tail * t * e, fmaxf(x, 0.f));
}
__device__ __forceinline__ float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::kSilu:
      return x / (1.f + __expf(-x));
    case Activation::kGeluTanh: {
      float t = 0.7978845608028654f * (x + 0.044715f * x * x * x);
      return 0.5f * x * (1.f + tanhf(t));
    }
    case Activation::kGeluErf:
      return gelu_erf(x);
  }
  return 0;
}
__device__ __forceinline__ float soft_cap(float x, float cap) { return cap * tanhf(x / cap); }

}  // namespace apud::cuda
