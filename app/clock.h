// The wall clock of stored things.
#pragma once

#include <chrono>
#include <cstdint>

namespace apud {

/// Seconds since the epoch.
inline int64_t unix_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace apud
