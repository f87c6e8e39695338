// Values sent to the shared memory of another block of a cluster (sm_90 and later; nothing before).
#pragma once

#include "kernels/cuda/mma.cuh"

namespace apud::cuda {

/// Two halves of a barrier that says only that every block of the cluster runs: before that, its
/// shared memory is not there to be written.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  __syncwarp();
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
#endif
}
/// A barrier in a block's shared memory that counts the bytes sent to it: no block waits for more
/// than what it merges, and nothing is flushed.
__device__ __forceinline__ void inbox_open(uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(barrier))
      : "memory");
#endif
}
__device__ __forceinline__ void inbox_expect(uint64_t* barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
#endif
}
__device__ __forceinline__ void inbox_wait(uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .pred p;\n"
      "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], 0;\n"
      "@!p bra again; }" ::"r"(shared_address(barrier))
      : "memory");
#endif
}
/// Writes to the same place in the shared memory of block `rank` of the cluster, and counts there.
__device__ __forceinline__ void inbox_send(int rank, float* to, float value, uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .b32 a, b;\n"
      "mapa.shared::cluster.u32 a, %0, %3;\n"
      "mapa.shared::cluster.u32 b, %1, %3;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [a], %2, [b]; }" ::"r"(
          shared_address(to)),
      "r"(shared_address(barrier)), "f"(value), "r"(rank)
      : "memory");
#endif
}

}  // namespace apud::cuda
