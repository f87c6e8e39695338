#include "kernels/cuda/gemm.h"

#include <cublasLt.h>

#include <map>
#include <tuple>

namespace apud::cuda {
namespace {

void check_blas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(ErrorKind::kUnavailable,
                std::string("cuBLASLt: ") + what + " failed with status " + std::to_string(status),
                "check that the cuBLAS library fits the driver");
}

/// An encoder's products of many rows run 4 to 18 % faster on tiles of 128 x 128 than on cuBLASLt's
/// first choice (docs/performance.md). Never chosen by the clock: the same bits in every run.
bool wants_square_tiles(const GemmArgs& g) { return g.rows >= 2048 && g.out.half16 && g.n <= 1152; }

}  // namespace

struct Gemm::Impl {
  using Key = std::tuple<int, int, int, int64_t, int64_t, int64_t, bool, bool, bool, int>;
  struct Plan {
    cublasLtMatmulDesc_t op = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algo = {};
  };
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;

  Plan make(const GemmArgs& g) {
    Plan p;
    cudaDataType half = g.half16 == Half16::kFp16 ? CUDA_R_16F : CUDA_R_16BF;
    cudaDataType out = g.out.half16 ? half : CUDA_R_32F;
    check_blas(cublasLtMatmulDescCreate(&p.op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "descriptor");
    // Column-major view: outᵀ (n, rows) = w (k, n)ᵀ · xᵀ (k, rows).
    cublasOperation_t transposed = CUBLAS_OP_T;
    check_blas(cublasLtMatmulDescSetAttribute(p.op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof(transposed)),
               "transpose");
    if (g.bias) {
      cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      check_blas(cublasLtMatmulDescSetAttribute(p.op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                                sizeof(epilogue)),
                 "epilogue");
      check_blas(cublasLtMatmulDescSetAttribute(p.op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g.bias,
                                                sizeof(g.bias)),
                 "bias");
      check_blas(cublasLtMatmulDescSetAttribute(p.op, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out,
                                                sizeof(out)),
                 "bias type");
    }
    check_blas(cublasLtMatrixLayoutCreate(&p.a, half, g.k, g.n, g.w_ld), "layout of w");
    check_blas(cublasLtMatrixLayoutCreate(&p.b, half, g.k, g.rows, g.x_ld), "layout of x");
    check_blas(cublasLtMatrixLayoutCreate(&p.c, out, g.n, g.rows, g.out.ld), "layout of out");
    cublasLtMatmulPreference_t preference = nullptr;
    check_blas(cublasLtMatmulPreferenceCreate(&preference), "preference");
    size_t bytes = kWorkspaceBytes;
    check_blas(cublasLtMatmulPreferenceSetAttribute(
                   preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes)),
               "workspace");
    constexpr int kMost = 8;
    const bool square = wants_square_tiles(g);
    cublasLtMatmulHeuristicResult_t results[kMost] = {};
    int found = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, p.op, p.a, p.b, p.c, p.c, preference, square ? kMost : 1, results, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    check_blas(status, "heuristic");
    APUD_CHECK(found > 0, "cuBLASLt has an algorithm for every 16-bit product");
    p.algo = results[0].algo;
    for (int i = 0; i < found && square; ++i) {
      int tile = -1;
      size_t written = 0;
      const cublasStatus_t read = cublasLtMatmulAlgoConfigGetAttribute(
          &results[i].algo, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, sizeof(tile), &written);
      if (read != CUBLAS_STATUS_SUCCESS || tile != CUBLASLT_MATMUL_TILE_128x128) continue;
      p.algo = results[i].algo;
      break;
    }
    return p;
  }
};

Gemm::Gemm() : impl_(std::make_unique<Impl>()) {
  check_blas(cublasLtCreate(&impl_->handle), "create");
  APUD_CUDA(cudaMalloc(&impl_->workspace, kWorkspaceBytes));
  // cuBLASLt's kernels read there, and in rows of products, what nothing has written: without these
  // zeros initcheck drowns in their reports.
  APUD_CUDA(cudaMemset(impl_->workspace, 0, kWorkspaceBytes));
}

Gemm::~Gemm() {
  for (auto& [key, p] : impl_->plans) {
    cublasLtMatrixLayoutDestroy(p.a);
    cublasLtMatrixLayoutDestroy(p.b);
    cublasLtMatrixLayoutDestroy(p.c);
    cublasLtMatmulDescDestroy(p.op);
  }
  if (impl_->handle) cublasLtDestroy(impl_->handle);
  cudaFree(impl_->workspace);
}

void Gemm::run(const GemmArgs& g, cudaStream_t stream) {
  Impl::Key key{g.rows,
                g.n,
                g.k,
                g.x_ld,
                g.w_ld,
                g.out.ld,
                g.out.half16,
                g.accumulate,
                g.bias != nullptr,
                static_cast<int>(g.half16)};
  auto it = impl_->plans.find(key);
  if (it == impl_->plans.end()) it = impl_->plans.emplace(key, impl_->make(g)).first;
  Impl::Plan& p = it->second;
  if (g.bias)
    check_blas(cublasLtMatmulDescSetAttribute(p.op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g.bias,
                                              sizeof(g.bias)),
               "bias");
  float alpha = 1, beta = g.accumulate ? 1 : 0;
  check_blas(cublasLtMatmul(impl_->handle, p.op, &alpha, g.w, p.a, g.x, p.b, &beta, g.out.data, p.c,
                            g.out.data, p.c, &p.algo, impl_->workspace, kWorkspaceBytes, stream),
             "product");
}

}  // namespace apud::cuda
