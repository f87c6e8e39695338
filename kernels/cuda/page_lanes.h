// Ways for pages from their readers to the device: pinned pieces that are filled, on the link and
// free again in turns.
//
// Threads: made by one of its own, since pinning and streams take milliseconds; a lane belongs to
// one reader at a time.
#pragma once

#include <future>
#include <vector>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/pinned.h"

namespace apud::cuda {

struct PageLane {
  static constexpr int kPieces = 2;
  static constexpr size_t kPieceBytes = size_t{1} << 20;
  uint8_t* memory = nullptr;       // kPieces of kPieceBytes
  cudaStream_t stream = nullptr;   // shared with other lanes
  cudaEvent_t free[kPieces] = {};  // when a piece has left
};

class PageLanes {
 public:
  /// Begins to make them; several can be had while the weights arrive.
  explicit PageLanes(int device);
  ~PageLanes();
  PageLanes(const PageLanes&) = delete;
  PageLanes& operator=(const PageLanes&) = delete;
  /// Waits until they are made. Empty where memory cannot be pinned.
  std::vector<PageLane>& get();
  const std::vector<cudaStream_t>& streams() const { return streams_; }

 private:
  void make(int device);
  std::future<void> coming_;
  PinnedBuffer memory_;
  std::vector<cudaStream_t> streams_;
  std::vector<PageLane> lanes_;
};

}  // namespace apud::cuda
