#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace apud {

void check_failed(const char* file, int line, const char* expression, const char* note) {
  std::fprintf(stderr, "apud: bug: %s:%d: check failed: %s (%s)\n", file, line, expression, note);
  std::abort();
}

}  // namespace apud
