// Shared by the CUDA sources: error checks, conversions, warp helpers, programmatic dependent
// launch.
//
// Ordering rule of every kernel here: weights, page tables and old KV pages may be read before
// grid_dependency_wait(); everything that another kernel of the same step writes is read after it,
// through L2 (ld_stream), and nothing is written before it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/error.h"

namespace apud::cuda {

/// Throws kUnavailable (kBusy for out of memory) naming the call.
void throw_cuda(cudaError_t status, const char* what);
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw_cuda(status, what);
}
#define APUD_CUDA(call) ::apud::cuda::check((call), #call)
inline void check_launch(const char* what) { check(cudaGetLastError(), what); }

inline int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }
inline int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

/// Launches with the programmatic edge to the previous kernel of the stream (sm_90 and later).
struct Launch {
  cudaStream_t stream = nullptr;
  bool programmatic = false;
};

/// `cluster` blocks along x share a cluster (sm_90 and later); 0: none.
template <typename... P, typename... A>
void launch_cluster(int cluster, const Launch& l, void (*kernel)(P...), dim3 grid, dim3 block,
                    size_t shared, A&&... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = l.stream;
  cudaLaunchAttribute attributes[2] = {};
  if (cluster > 0) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = cluster;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    config.numAttrs = 1;
  }
  if (l.programmatic) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a.val.programmaticStreamSerializationAllowed = 1;
  }
  config.attrs = attributes;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...), "kernel launch");
}
template <typename... P, typename... A>
void launch(const Launch& l, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
            A&&... args) {
  launch_cluster(0, l, kernel, grid, block, shared, static_cast<A&&>(args)...);
}

#ifdef __CUDACC__
/// Lets the next kernel of the stream start its weight loads.
__device__ inline void grid_dependency_trigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/// Returns when all earlier kernels of the stream are complete and their writes visible.
__device__ inline void grid_dependency_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Weight loads: read once, keep them out of L1. Not .nc: the assembler moves those behind the
// dependency wait, where they come too late.
__device__ inline uint4 ld_weight16(const void* p) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ inline uint2 ld_weight8(const void* p) {
  uint2 v;
  asm volatile("ld.global.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
__device__ inline uint32_t ld_weight4(const void* p) {
  uint32_t v;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
__device__ inline uint32_t ld_weight2(const void* p) {
  uint16_t v;
  asm volatile("ld.global.u16 %0, [%1];" : "=h"(v) : "l"(p));
  return v;
}
// Activation loads: written by other SMs in this step, so L2 is the place to read them.
__device__ inline float4 ld_stream4(const float* p) {
  float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
__device__ inline float ld_stream(const float* p) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
  return v;
}

__device__ inline float half_bits(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits & 0xffff)));
}

__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int i = 16; i > 0; i >>= 1) v += __shfl_xor_sync(0xffffffffu, v, i);
  return v;
}
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int i = 16; i > 0; i >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, i));
  return v;
}
/// Sum over the block, the same value and order for every thread. `scratch`: 33 floats of shared
/// memory. Every thread of the block calls it.
__device__ inline float block_sum(float v, float* scratch) {
  v = warp_sum(v);
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  __syncthreads();
  if (lane == 0) scratch[warp] = v;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < warps; ++i) total += scratch[i];
  return total;
}

/// 16-bit floats of the step: fp16 (saturating) or bf16.
template <typename H>
__device__ inline H to_h16(float v);
template <>
__device__ inline __half to_h16<__half>(float v) {
  return __float2half_rn(fminf(fmaxf(v, -65504.f), 65504.f));
}
template <>
__device__ inline __nv_bfloat16 to_h16<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}
__device__ inline float to_float(__half v) { return __half2float(v); }
__device__ inline float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float to_float(float v) { return v; }
template <typename H>
__device__ inline uint32_t pack2(float a, float b) {
  H pair[2] = {to_h16<H>(a), to_h16<H>(b)};
  uint32_t bits;
  memcpy(&bits, pair, 4);
  return bits;
}
#endif  // __CUDACC__

}  // namespace apud::cuda
