#include "rag/index/scan.h"

#include <bit>

#include "base/check.h"
#include "rag/store/half.h"

#if defined(__x86_64__)
// GCC 12's own AVX-512 headers leave a register undefined on purpose and then warn about it.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace apud {
namespace {

/// Of a finite half; a multiplication rebias instead of branches, so that compilers vectorise it.
inline float finite_half(uint16_t half) {
  float magnitude = std::bit_cast<float>(static_cast<uint32_t>(half & 0x7FFF) << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) |
                              static_cast<uint32_t>(half & 0x8000) << 16);
}

void scan_portable(const uint16_t* rows, const float* query, int dimension, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t* row = rows + i * dimension;
    float sum = 0;
    for (int d = 0; d < dimension; ++d) sum += finite_half(row[d]) * query[d];
    out[i] = sum;
  }
}

#if defined(__x86_64__)

__attribute__((target("avx2,fma,f16c"))) void scan_avx2(const uint16_t* rows, const float* query,
                                                        int dimension, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t* row = rows + i * dimension;
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                     _mm256_setzero_ps()};
    int d = 0;
    for (; d + 32 <= dimension; d += 32) {
      // The next rows come from memory: asking early keeps several lines in flight.
      _mm_prefetch(reinterpret_cast<const char*>(row + d) + 2048, _MM_HINT_T0);
      for (int j = 0; j < 4; ++j) {
        __m256 half =
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + d + 8 * j)));
        sum[j] = _mm256_fmadd_ps(half, _mm256_loadu_ps(query + d + 8 * j), sum[j]);
      }
    }
    for (; d + 8 <= dimension; d += 8) {
      __m256 half = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + d)));
      sum[0] = _mm256_fmadd_ps(half, _mm256_loadu_ps(query + d), sum[0]);
    }
    __m256 all = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    float total = _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
    for (; d < dimension; ++d) total += half::to_float(row[d]) * query[d];
    out[i] = total;
  }
}

__attribute__((target("avx512f"))) void scan_avx512(const uint16_t* rows, const float* query,
                                                    int dimension, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t* row = rows + i * dimension;
    __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                     _mm512_setzero_ps()};
    int d = 0;
    for (; d + 64 <= dimension; d += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(row + d) + 4096, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(row + d) + 4160, _MM_HINT_T0);
      for (int j = 0; j < 4; ++j) {
        __m512 half =
            _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + d + 16 * j)));
        sum[j] = _mm512_fmadd_ps(half, _mm512_loadu_ps(query + d + 16 * j), sum[j]);
      }
    }
    for (; d + 16 <= dimension; d += 16) {
      __m512 half = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + d)));
      sum[0] = _mm512_fmadd_ps(half, _mm512_loadu_ps(query + d), sum[0]);
    }
    float total = _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
    for (; d < dimension; ++d) total += half::to_float(row[d]) * query[d];
    out[i] = total;
  }
}

#endif

}  // namespace

const char* scan_isa_name(ScanIsa isa) {
  switch (isa) {
    case ScanIsa::kPortable:
      return "portable";
    case ScanIsa::kAvx2:
      return "avx2";
    case ScanIsa::kAvx512:
      return "avx512";
  }
  return "?";
}

std::vector<ScanIsa> scan_isas() {
  std::vector<ScanIsa> isas = {ScanIsa::kPortable};
#if defined(__x86_64__)
  // GCC's probe includes the operating system's permission (XGETBV), not just CPUID.
  // Clang 14 does not know the name of F16C: CPUID leaf 1, ECX bit 29.
  unsigned a = 0, b = 0, c = 0, d = 0;
  bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1) != 0;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c)
    isas.push_back(ScanIsa::kAvx2);
  if (__builtin_cpu_supports("avx512f")) isas.push_back(ScanIsa::kAvx512);
#endif
  return isas;
}

ScanFunction scan_function(ScanIsa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case ScanIsa::kAvx512:
      return scan_avx512;
    case ScanIsa::kAvx2:
      return scan_avx2;
#endif
    default:
      return scan_portable;
  }
}

}  // namespace apud
