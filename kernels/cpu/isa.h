// Which instruction-set paths this machine can run. Threads: pure after the first call.
#pragma once

namespace apud::cpu {

struct CpuFeatures {
  bool avx2 = false;        // AVX2, FMA, F16C and the system's support for their registers
  bool avx512 = false;      // F, BW, VL, DQ
  bool vnni = false;        // AVX512_VNNI
  bool amx_listed = false;  // VNNI, AVX512_BF16, AMX-TILE, AMX-BF16; permission is another matter
};
const CpuFeatures& cpu_features();

}  // namespace apud::cpu
