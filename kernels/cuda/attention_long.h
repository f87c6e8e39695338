// Split-KV decode attention over long rows on Hopper.
//
// Threads: launchers only enqueue.
#pragma once

#include "kernels/cuda/attention.h"

namespace apud::cuda {
namespace decode {
struct DecodeParams;
}

/// Head widths that the kernel is for.
inline bool long_width(int dim) { return dim == 64 || dim == 128; }
/// Runs of a row's tokens that put one block on (nearly) every multiprocessor; 0 where the card or
/// the shape is not for this kernel. Depends on the model and the card alone.
int long_runs(const HeadShape& shape, int multiprocessors);
/// Leaves each run's result in p.scratch, cut as p.runs says, for merge_kernel (a row of one run is
/// finished). PRECOND: long_runs > 0, long_width, pages of 16 bits; grid (runs, kv_heads * query
/// tiles, rows).
void attention_long(const decode::DecodeParams& p, dim3 grid, const Launch& where);

}  // namespace apud::cuda
