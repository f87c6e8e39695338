// Scalar functions that several kernels share.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/program.h"

namespace apud::cuda {

/// x Phi(x) to 4e-6, of several values side by side: Phi is the logistic function of x P(x^2), with
/// P fitted to its logit where the error shows. Ten instructions each, where erff and its branches
/// take thirty; one behind the other they would wait for one another.
template <int N>
__device__ __forceinline__ void gelu_erf(float (&x)[N]) {
  constexpr float kLog2e = 1.4426950408889634f;
  float t[N], p[N];
#pragma unroll
  for (int i = 0; i < N; ++i) t[i] = x[i] * x[i];
#pragma unroll
  for (int i = 0; i < N; ++i)
    p[i] = fmaf(t[i], -kLog2e * 2.22526469e-06f, kLog2e * 6.09344189e-05f);
#pragma unroll
  for (int i = 0; i < N; ++i) p[i] = fmaf(t[i], p[i], kLog2e * 2.50952289e-04f);
#pragma unroll
  for (int i = 0; i < N; ++i) p[i] = fmaf(t[i], p[i], -kLog2e * 7.29398613e-02f);
#pragma unroll
  for (int i = 0; i < N; ++i) p[i] = fmaf(t[i], p[i], -kLog2e * 1.59565515e+00f);
#pragma unroll
  for (int i = 0; i < N; ++i) p[i] *= x[i];
#pragma unroll
  for (int i = 0; i < N; ++i) asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(p[i]) : "f"(p[i]));
#pragma unroll
  for (int i = 0; i < N; ++i) p[i] += 1.f;
#pragma unroll
  for (int i = 0; i < N; ++i) asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(p[i]) : "f"(p[i]));
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] *= p[i];
}
__device__ __forceinline__ float gelu_erf(float x) {
  float one[1] = {x};
  gelu_erf(one);
  return one[0];
}
__device__ __forceinline__ float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::kSilu:
      return __fdividef(x, 1.f + __expf(-x));
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
