// A small step's products, run once while the weights arrive.
//
// Threads: the constructor starts one, the destructor waits for it.
#pragma once

#include <set>
#include <thread>

#include "kernels/cuda/plan.h"

namespace apud::cuda {

/// cuBLASLt loads a kernel when it is first used, all in all a tenth of a second before the first
/// token. Runs a small step's products, on what lies in memory, while the weights arrive.
class ProductsAhead {
 public:
  ProductsAhead(const Program& program, const Weights& weights,
                const std::vector<LinearGroup>& groups, int device);
  ~ProductsAhead() { thread_.join(); }

 private:
  struct Product {
    int n, k;
    bool accumulate;
    auto operator<=>(const Product&) const = default;
  };
  void run(Half16 half16, int device);
  std::set<Product> products_;
  std::thread thread_;
};

}  // namespace apud::cuda
