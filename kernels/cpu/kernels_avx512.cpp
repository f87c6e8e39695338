// The AVX-512 path. Compiled with its own instruction flags (kernels/CMakeLists.txt): everything
// but the table lies in an anonymous namespace, so that no inline function built here is linked
// elsewhere.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/kernels.h"
#include "kernels/prefetch.h"

#define APUD_CPU_VNNI 0
namespace apud::cpu {
namespace {
// Each builds on those before it.
// clang-format off
#include "kernels/cpu/simd_avx512.inc"
#include "kernels/cpu/linear_shared.inc"
#include "kernels/cpu/linear_pairs.inc"
#include "kernels/cpu/linear_words.inc"
#include "kernels/cpu/linear_float.inc"
#include "kernels/cpu/linear.inc"
#include "kernels/cpu/rowwise.inc"
#include "kernels/cpu/attention_blocks.inc"
#include "kernels/cpu/attention.inc"
// clang-format on
}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels kTable = {CpuIsa::kAvx512, "cpu-avx512", false,    linear,    quantize,
                                     quantize_rest,   norm,         activate, scale_add, softcap,
                                     rotate,          l2_normalize, store_kv, attend};
  return kTable;
}

}  // namespace apud::cpu
