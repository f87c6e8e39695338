// Hopper's warpgroup products, tensor copies and the barriers that they complete on (sm_90a only;
// elsewhere the bodies are empty and the host never launches their kernels).
//
// Operands in shared memory lie as the tensor copy engine writes them with a swizzle as wide as a
// row: rows of 64 values (128 bytes) or 32 (64 bytes), eight rows to a swizzle atom.
#pragma once

#include "kernels/cuda/mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define APUD_SM90A 1
#endif

namespace apud::cuda {

#ifdef APUD_SM90A
/// Descriptor of an operand whose rows have kRowBytes (128 or 64). `leading` is the distance in
/// bytes between 64-value column blocks where the columns are the outer side (V), else unused.
template <int kRowBytes>
__device__ __forceinline__ uint64_t shared_operand(const void* p, uint32_t leading) {
  constexpr uint64_t kSwizzle = kRowBytes == 128 ? 1 : 2;
  uint64_t d = (shared_address(p) & 0x3ffff) >> 4;
  d |= static_cast<uint64_t>((leading & 0x3ffff) >> 4) << 16;
  d |= static_cast<uint64_t>(8 * kRowBytes >> 4) << 32;
  return d | kSwizzle << 62;
}
/// The same 16 bytes further on, or some times that: the address is in the low word alone.
struct SharedOperand {
  uint32_t low, high;
  __device__ __forceinline__ explicit SharedOperand(uint64_t d)
      : low(static_cast<uint32_t>(d)), high(static_cast<uint32_t>(d >> 32)) {}
  __device__ __forceinline__ uint64_t at(uint32_t sixteens) const {
    return static_cast<uint64_t>(high) << 32 | (low + sixteens);
  }
};
__device__ __forceinline__ void product_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void product_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void product_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving uses of accumulators across a wait.
template <int N>
__device__ __forceinline__ void pin(float (&c)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

// A warpgroup product of 64 rows has its accumulators named one by one. Lists of them, and of the
// operands they stand for:
#define APUD_LIST16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define APUD_LIST32 APUD_LIST16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define APUD_LIST48 APUD_LIST32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define APUD_LIST64 APUD_LIST48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define APUD_LIST96                                                   \
  APUD_LIST64                                                         \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79," \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define APUD_LIST128                                                                            \
  APUD_LIST96                                                                                   \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114" \
  ",%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define APUD_OPERANDS4(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define APUD_OPERANDS16(c, i)                                               \
  APUD_OPERANDS4(c, i), APUD_OPERANDS4(c, i + 4), APUD_OPERANDS4(c, i + 8), \
      APUD_OPERANDS4(c, i + 12)
#define APUD_OPERANDS32(c, i) APUD_OPERANDS16(c, i), APUD_OPERANDS16(c, i + 16)
#define APUD_OPERANDS48(c, i) APUD_OPERANDS32(c, i), APUD_OPERANDS16(c, i + 32)
#define APUD_OPERANDS64(c, i) APUD_OPERANDS32(c, i), APUD_OPERANDS32(c, i + 32)
#define APUD_OPERANDS96(c, i) APUD_OPERANDS64(c, i), APUD_OPERANDS32(c, i + 64)
#define APUD_OPERANDS128(c, i) APUD_OPERANDS64(c, i), APUD_OPERANDS64(c, i + 64)
/// `columns` is twice the accumulators of a thread.
#define APUD_PRODUCT(before, columns, list, after, ...)                                         \
  if constexpr (std::is_same_v<H, __half>)                                                      \
    asm volatile(before "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.f16.f16 {" list   \
                        "}, " after                                                             \
                 : __VA_ARGS__);                                                                \
  else                                                                                          \
    asm volatile(before "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" list \
                        "}, " after                                                             \
                 : __VA_ARGS__)

/// c (64 x columns) = or += a * b, both in shared memory, k running along rows. The numbers: of the
/// operands behind c.
#define APUD_PRODUCT_SHARED(columns, size, a_number, b_number, add_number)                         \
  template <typename H>                                                                            \
  __device__ __forceinline__ void product_shared(float(&c)[size], uint64_t a, uint64_t b,          \
                                                 bool add) {                                       \
    APUD_PRODUCT("{ .reg .pred p; setp.ne.b32 p, %" #add_number ", 0; ", columns, APUD_LIST##size, \
                 "%" #a_number ", %" #b_number ", p, 1, 1, 0, 0; }", APUD_OPERANDS##size(c, 0)     \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                    \
  }
APUD_PRODUCT_SHARED(64, 32, 32, 33, 34)
APUD_PRODUCT_SHARED(96, 48, 48, 49, 50)
APUD_PRODUCT_SHARED(128, 64, 64, 65, 66)
APUD_PRODUCT_SHARED(256, 128, 128, 129, 130)

/// c (64 x columns) += a (registers) * b, whose columns run along rows, or where `turned` is 0, k.
#define APUD_PRODUCT_REGISTERS(name, turned, columns, size, a_list, b_number)                     \
  template <typename H>                                                                           \
  __device__ __forceinline__ void name(float(&c)[size], const uint32_t(&a)[4], uint64_t b) {      \
    APUD_PRODUCT("", columns, APUD_LIST##size,                                                    \
                 "{" a_list "}, %" #b_number ", 1, 1, 1, " #turned ";", APUD_OPERANDS##size(c, 0) \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                           \
  }
APUD_PRODUCT_REGISTERS(product_registers, 1, 32, 16, "%16,%17,%18,%19", 20)
APUD_PRODUCT_REGISTERS(product_registers, 1, 64, 32, "%32,%33,%34,%35", 36)
APUD_PRODUCT_REGISTERS(product_registers, 1, 128, 64, "%64,%65,%66,%67", 68)
APUD_PRODUCT_REGISTERS(product_registers_rows, 0, 192, 96, "%96,%97,%98,%99", 100)

/// Four lanes hold neighbouring pairs of a row of accumulators, in four blocks of 8 columns: they
/// trade until each has its block's 16 bytes side by side.
__device__ __forceinline__ uint4 row_of_quad(const uint32_t (&words)[4], int lane) {
  const bool odd = lane & 1, high = lane & 2;
  uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? words[0] : words[1], 1);
  uint32_t b = __shfl_xor_sync(0xffffffffu, odd ? words[2] : words[3], 1);
  uint32_t m[4] = {odd ? a : words[0], odd ? words[1] : a, odd ? b : words[2], odd ? words[3] : b};
  uint32_t c = __shfl_xor_sync(0xffffffffu, high ? m[0] : m[2], 2);
  uint32_t d = __shfl_xor_sync(0xffffffffu, high ? m[1] : m[3], 2);
  return high ? make_uint4(c, d, m[2], m[3]) : make_uint4(m[0], m[1], c, d);
}

template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

__device__ __forceinline__ void barrier_init(uint64_t* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals)
               : "memory");
}
__device__ __forceinline__ void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_expect(uint64_t* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive_at(uint32_t b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(b) : "memory");
}
__device__ __forceinline__ void barrier_wait_at(uint32_t b, uint32_t parity) {
  asm volatile(
      "{ .reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\nbra again;\ndone: }" ::"r"(b),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* b) {
  barrier_arrive_at(shared_address(b));
}
/// At the same barrier of block `rank` of the cluster.
__device__ __forceinline__ void barrier_arrive_of(uint64_t* b, int rank) {
  asm volatile(
      "{ .reg .b32 a;\n"
      "mapa.shared::cluster.u32 a, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [a]; }" ::"r"(shared_address(b)),
      "r"(rank)
      : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t* b, int parity) {
  barrier_wait_at(shared_address(b), parity);
}
/// Behind the dependency wait: copies of this thread read what earlier kernels wrote.
__device__ __forceinline__ void copies_see_writes() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
/// A box of a tensor to shared memory; its bytes count on `b`.
__device__ __forceinline__ void copy_box2(void* to, const void* map, uint64_t* b, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(b)), "r"(c0), "r"(c1)
      : "memory");
}
/// The same to the same place, and barrier, of every block of the cluster that `mask` names.
__device__ __forceinline__ void copy_box2_to_cluster(void* to, const void* map, uint64_t* b, int c0,
                                                     int c1, int mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(b)), "r"(c0), "r"(c1), "h"(static_cast<short>(mask))
      : "memory");
}
__device__ __forceinline__ void copy_box5(void* to, const void* map, uint64_t* b, int c0, int c1,
                                          int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(b)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
#endif  // APUD_SM90A

}  // namespace apud::cuda
