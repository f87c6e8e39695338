#include "rag/index/blas.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "base/error.h"

namespace apud {
namespace {

constexpr const char* kLibrary = "libopenblas.so.0";

void* blas_symbol(const char* name) {
  static void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  void* found = library ? dlsym(library, name) : nullptr;
  if (!found) {
    const char* reason = dlerror();
    throw Error(
        ErrorKind::kUnavailable,
        fmt::format("{}, needed to index this many chunks: {}", kLibrary, reason ? reason : name),
        "apt-get install libopenblas0");
  }
  return found;
}

}  // namespace

void load_blas() { blas_symbol("sgemm_"); }

}  // namespace apud

// What libfaiss.a refers to, in the Fortran convention: every argument is a pointer.
#define APUD_BLAS(name, parameters, arguments)                                               \
  extern "C" int name parameters {                                                           \
    static auto* const call = reinterpret_cast<int(*) parameters>(apud::blas_symbol(#name)); \
    return call arguments;                                                                   \
  }
using P = void*;
APUD_BLAS(ssyrk_, (P a, P b, P c, P d, P e, P f, P g, P h, P i, P j),
          (a, b, c, d, e, f, g, h, i, j))
APUD_BLAS(sgeqrf_, (P a, P b, P c, P d, P e, P f, P g, P h), (a, b, c, d, e, f, g, h))
APUD_BLAS(sorgqr_, (P a, P b, P c, P d, P e, P f, P g, P h, P i), (a, b, c, d, e, f, g, h, i))
APUD_BLAS(dsyev_, (P a, P b, P c, P d, P e, P f, P g, P h, P i), (a, b, c, d, e, f, g, h, i))
APUD_BLAS(sgemm_, (P a, P b, P c, P d, P e, P f, P g, P h, P i, P j, P k, P l, P m),
          (a, b, c, d, e, f, g, h, i, j, k, l, m))
APUD_BLAS(dgemm_, (P a, P b, P c, P d, P e, P f, P g, P h, P i, P j, P k, P l, P m),
          (a, b, c, d, e, f, g, h, i, j, k, l, m))
APUD_BLAS(sgesvd_, (P a, P b, P c, P d, P e, P f, P g, P h, P i, P j, P k, P l, P m, P n),
          (a, b, c, d, e, f, g, h, i, j, k, l, m, n))
APUD_BLAS(dgesvd_, (P a, P b, P c, P d, P e, P f, P g, P h, P i, P j, P k, P l, P m, P n),
          (a, b, c, d, e, f, g, h, i, j, k, l, m, n))
