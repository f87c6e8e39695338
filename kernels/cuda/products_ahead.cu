#include "kernels/cuda/products_ahead.h"

#include <algorithm>

namespace apud::cuda {

ProductsAhead::ProductsAhead(const Program& program, const Weights& weights,
                             const std::vector<LinearGroup>& groups, int device) {
  constexpr int64_t kMost = int64_t{128} << 20;  // values of a matrix
  Half16 half16 = Half16::kFp16;
  for (const LinearGroup& g : groups) {
    const auto& first = std::get<LinearOp>(program.ops[g.ops[0]]);
    Product p{0, program.values[first.x].cols, first.accumulate};
    for (int i : g.ops) {
      const auto& op = std::get<LinearOp>(program.ops[i]);
      p.n += program.values[op.out].cols;
      if (weights[op.weight].type == WeightType::kBF16) half16 = Half16::kBf16;
    }
    if (program.values[first.out].rows == Rows::kTokens && int64_t{p.n} * p.k <= kMost)
      products_.insert(p);
  }
  thread_ = std::thread([this, half16, device] {
    try {
      run(half16, device);
    } catch (const Error&) {  // the first step will meet it again and say so
    }
  });
}

void ProductsAhead::run(Half16 half16, int device) {
  constexpr int kRows = 128;
  APUD_CUDA(cudaSetDevice(device));
  int64_t x = 0, w = 0, out = 0;
  for (const Product& p : products_) {
    const int64_t k = round_up(p.k, 8), n = round_up(p.n, 8);
    x = std::max(x, kRows * k * 2);
    w = std::max(w, n * k * 2);
    out = std::max(out, kRows * n * 4);
  }
  DeviceBuffer memory(static_cast<size_t>(x + w + out), "products run ahead");
  // Anything would do: see Gemm::Gemm.
  APUD_CUDA(cudaMemsetAsync(memory.as(), 0, memory.bytes(), cudaStreamPerThread));
  Gemm gemm;
  for (const Product& p : products_) {
    GemmArgs g;
    g.x = memory.as();
    g.w = memory.as() + x;
    g.x_ld = g.w_ld = round_up(p.k, 8);
    g.out = {memory.as() + x + w, round_up(p.n, 8), !p.accumulate};
    g.rows = kRows;
    g.n = p.n;
    g.k = p.k;
    g.accumulate = p.accumulate;
    g.half16 = half16;
    gemm.run(g, cudaStreamPerThread);
  }
  APUD_CUDA(cudaStreamSynchronize(cudaStreamPerThread));
}

}  // namespace apud::cuda
