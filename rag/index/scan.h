// The exact scan: inner products of one fp32 query with many fp16 rows.
//
// Threads: pure functions.
#pragma once

#include <cstdint>

#include "rag/index.h"

namespace apud {

/// out (n) = rows (n, dimension) fp16 · query (dimension) fp32. Any dimension, any alignment.
using ScanFunction = void (*)(const uint16_t* rows, const float* query, int dimension, int64_t n,
                              float* out);

/// The scan for an instruction set. REQUIRES: it is among scan_isas().
ScanFunction scan_function(ScanIsa isa);

}  // namespace apud
