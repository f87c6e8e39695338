#include "kernels/cpu/isa.h"

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/prefetch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace apud {
namespace cpu {
namespace {

#if defined(__x86_64__)
uint64_t enabled_registers() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low | static_cast<uint64_t>(high) << 32;
}

CpuFeatures probe() {
  CpuFeatures f;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  bool osxsave = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
  if (!osxsave || !avx) return f;
  uint64_t registers = enabled_registers();
  if ((registers & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.avx2 = (b >> 5 & 1) && fma && f16c;
  bool zmm = (registers & 0xe6) == 0xe6;
  f.avx512 = f.avx2 && zmm && (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) && (b >> 31 & 1);
  f.vnni = f.avx512 && (c >> 11 & 1);
  bool vbmi = c >> 1 & 1;
  bool tiles = (registers & 0x60000) == 0x60000;
  bool amx = tiles && (d >> 22 & 1) && (d >> 24 & 1);
#ifdef APUD_EMULATE_AMX
  amx = true;
#endif
  // Leaf 7 has a second half where AVX512_BF16 may be; all AMX machines have it.
  f.amx_listed = f.vnni && vbmi && amx && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
  return f;
}
#else
CpuFeatures probe() { return {}; }
#endif

// Intel's second cache waits for three times as many lines as the first, so it is asked early. Of
// an AMD (Zen 3) the two must be asked almost together: where the line has come to the second cache
// long before the first one asks, two cores read 21 GB/s of 28.
PrefetchDistance distance() {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  if (__get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx) return {2048, 2560};
#endif
  return {1024, 4096};
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = probe();
  return features;
}

const Kernels& kernels_of(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512:
      return avx512_kernels();
    case CpuIsa::kVnni:
      return vnni_kernels();
    case CpuIsa::kAmx:
      return amx_kernels();
    default:
      return avx2_kernels();
  }
}

}  // namespace cpu

const PrefetchDistance prefetch_distance = cpu::distance();

std::vector<CpuIsa> available_cpu_isas() {
  const cpu::CpuFeatures& f = cpu::cpu_features();
  std::vector<CpuIsa> found;
  if (f.avx2) found.push_back(CpuIsa::kAvx2);
  if (f.avx512) found.push_back(CpuIsa::kAvx512);
  if (f.vnni) found.push_back(CpuIsa::kVnni);
  static const bool amx = f.amx_listed && cpu::amx_works();
  if (amx) found.push_back(CpuIsa::kAmx);
  return found;
}

}  // namespace apud
