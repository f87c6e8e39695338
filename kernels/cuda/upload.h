// Weights from a file map to packed rows on the device: several host threads copy into their own
// pinned buffers, each with its own stream, and the device repacks what has arrived.
//
// Threads: upload() starts its own and joins them.
#pragma once

#include <vector>

#include "kernels/cuda/layout.h"
#include "kernels/program.h"

namespace apud::cuda {

struct UploadItem {
  WeightView from;
  uint8_t* to = nullptr;  // from.rows * packed_shape(...).stride bytes on the device
};
/// Returns when all are on the device. Throws kBusy when pinned or device memory runs out.
void upload(const std::vector<UploadItem>& items, int device);

}  // namespace apud::cuda
