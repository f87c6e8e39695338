// Numbers as people read them.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string>

namespace apud {

/// "1,234,567"
std::string with_commas(int64_t number);

}  // namespace apud
