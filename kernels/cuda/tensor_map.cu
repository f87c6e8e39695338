#include "kernels/cuda/tensor_map.h"

#include "kernels/cuda/common.cuh"

namespace apud::cuda {
namespace {

using EncodeFn = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                              const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                              const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
/// Of the driver, which is not linked; null where it has none.
EncodeFn encoder() {
  static const EncodeFn found = [] {
    void* fn = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000,
                                                          cudaEnableDefault, &result);
    if (status != cudaSuccess || result != cudaDriverEntryPointSuccess) fn = nullptr;
    return reinterpret_cast<EncodeFn>(fn);
  }();
  return found;
}

}  // namespace

bool tensor_copies() {
  static const bool hopper = [] {
    int device = 0, major = 0, minor = 0;
    APUD_CUDA(cudaGetDevice(&device));
    APUD_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    APUD_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return major == 9 && minor == 0 && encoder() != nullptr;
  }();
  return hopper;
}

bool make_map(CUtensorMap* map, bool bf16, int rank, const void* base, const cuuint64_t* sizes,
              const cuuint64_t* strides, const cuuint32_t* box, int row_bytes, bool promote) {
  const cuuint32_t ones[5] = {1, 1, 1, 1, 1};
  return encoder()(map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                   static_cast<cuuint32_t>(rank), const_cast<void*>(base), sizes, strides, box,
                   ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
                   row_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                   promote ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_NONE,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

bool make_matrix_map(CUtensorMap* map, bool bf16, const Matrix& m, int cols, int rows, int box_cols,
                     int box_rows) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(m.ld) * 2};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)};
  return make_map(map, bf16, 2, m.data, sizes, strides, box, box_cols * 2);
}

}  // namespace apud::cuda
