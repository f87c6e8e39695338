// Matrix products of many rows, by cuBLASLt.
//
// Threads: one Gemm belongs to one thread and stream.
#pragma once

#include <memory>

#include "kernels/cuda/batch.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/repack.h"

namespace apud::cuda {

struct GemmArgs {
  const void* x = nullptr;  // (rows, k) 16-bit, leading dimension x_ld
  int64_t x_ld = 0;
  const void* w = nullptr;  // (n, k) 16-bit, leading dimension w_ld
  int64_t w_ld = 0;
  Matrix out;  // (rows, n): float or 16-bit
  int rows = 0, n = 0, k = 0;
  bool accumulate = false;     // out +=
  const void* bias = nullptr;  // (n) of out's type; null: none
  Half16 half16 = Half16::kFp16;
};

class Gemm {
 public:
  Gemm();
  ~Gemm();
  void run(const GemmArgs& a, cudaStream_t stream);
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// GELU (by erf) of x wᵀ + bias, of at least 2,048 rows with k = 384 on Hopper: 16 bits in and out.
/// False, and nothing done, where the card, the sizes or the places are not for it.
bool product_gelu(const GemmArgs& a, int multiprocessors, cudaStream_t stream);
/// x wᵀ + bias, with GELU where wanted, of at most kShortText rows: a short text's. Likewise;
/// `where` may be programmatic.
inline constexpr int kShortText = 64;
bool product_few(const GemmArgs& g, bool gelu, const Launch& where);
/// SiLU(gate) * up of x wᵀ's two parts, g.n outputs each, whose rows of w begin at gate_row and
/// up_row: of at least kGatedRows rows on Hopper, likewise.
inline constexpr int kGatedRows = 1024;
bool product_gated(const GemmArgs& g, int gate_row, int up_row, int multiprocessors,
                   const Launch& where);
/// norm(n.x + x wᵀ + bias) likewise, of 384 outputs and any k, to n.half_out; a.out is not written.
bool product_norm(const GemmArgs& a, const NormArgs& n, int multiprocessors, const Launch& where);

}  // namespace apud::cuda
