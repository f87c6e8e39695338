#include "kernels/cuda/page_lanes.h"

#include <algorithm>

#include "base/thread_pool.h"

namespace apud::cuda {

constexpr int kMostLanes = 16, kStreams = 4;  // more move no faster than the link

PageLanes::PageLanes(int device)
    : coming_(std::async(std::launch::async, [this, device] { make(device); })) {}

void PageLanes::make(int device) {
  try {
    APUD_CUDA(cudaSetDevice(device));
    const int count = std::clamp(usable_cpus(), 1, kMostLanes);
    constexpr size_t kLane = PageLane::kPieces * PageLane::kPieceBytes;
    memory_ = PinnedBuffer(count * kLane);
    streams_.resize(std::min(count, kStreams));
    for (cudaStream_t& s : streams_)
      APUD_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    for (int i = 0; i < count; ++i) {
      PageLane& lane = lanes_.emplace_back();
      lane.memory = memory_.data() + i * kLane;
      lane.stream = streams_[i % streams_.size()];
      for (cudaEvent_t& e : lane.free)
        APUD_CUDA(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    }
  } catch (const Error&) {  // pages then come through memory that is not pinned
    for (PageLane& lane : lanes_)
      for (cudaEvent_t e : lane.free)
        if (e) cudaEventDestroy(e);
    lanes_.clear();
  }
}

PageLanes::~PageLanes() {
  for (PageLane& lane : get())
    for (cudaEvent_t e : lane.free) cudaEventDestroy(e);
  for (cudaStream_t s : streams_)
    if (s) cudaStreamDestroy(s);
}

std::vector<PageLane>& PageLanes::get() {
  if (coming_.valid()) coming_.get();
  return lanes_;
}

}  // namespace apud::cuda
