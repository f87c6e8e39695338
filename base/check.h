// CHECK: conditions that only a bug of ours can break. Aborts with place and expression, in every
// build. Never for anything that a file, a user or the machine can cause: throw apud::Error there.
#pragma once

namespace apud {
[[noreturn]] void check_failed(const char* file, int line, const char* expression,
                               const char* note);
}

#define APUD_CHECK(condition, note) \
  ((condition) ? (void)0 : ::apud::check_failed(__FILE__, __LINE__, #condition, note))
