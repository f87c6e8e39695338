// The AMX path: tiles of bfloat16 for some formats, VNNI for the others. Compiled with its own
// instruction flags (kernels/CMakeLists.txt): everything but the table lies in an anonymous
// namespace, so that no inline function built here is linked elsewhere.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "kernels/cpu/kernels.h"
#include "kernels/prefetch.h"
#ifdef APUD_EMULATE_AMX
#include <cstring>

#include "kernels/cpu/amx_emulated.inc"
#endif

#define APUD_CPU_VNNI 1
namespace apud::cpu {
namespace {
// Each builds on those before it.
// clang-format off
#include "kernels/cpu/simd_avx512.inc"
#include "kernels/cpu/linear_shared.inc"
#include "kernels/cpu/linear_dot.inc"
#include "kernels/cpu/linear_words.inc"
#include "kernels/cpu/linear_float.inc"
#include "kernels/cpu/linear.inc"
#include "kernels/cpu/rowwise.inc"
#include "kernels/cpu/attention_blocks.inc"
#include "kernels/cpu/tile_unpack.inc"
#include "kernels/cpu/amx_results.inc"
#include "kernels/cpu/amx.inc"
#include "kernels/cpu/amx_attention.inc"
// clang-format on
}  // namespace

const Kernels& amx_kernels() {
  static constexpr Kernels kTable = {CpuIsa::kAmx, "cpu-amx",     true,         amx_linear,
                                     amx_quantize, quantize_rest, norm,         activate,
                                     scale_add,    softcap,       rotate,       l2_normalize,
                                     store_kv,     amx_attend,    amx_activated};
  return kTable;
}

bool amx_works() {
#ifdef APUD_EMULATE_AMX
  return tile_product_is_right();
#else
  // Linux hands out the 8 KiB of tile state on request only; a tile instruction without permission
  // dies of SIGILL, whatever CPUID says.
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return false;
  return tile_product_is_right();
#endif
}

}  // namespace apud::cpu
