#include "kernels/cuda/page_lanes.h"

#include <algorithm>
#include <thread>

#include "base/thread_pool.h"

namespace apud::cuda {

// More move no faster, and the thread that talks to the driver wants a processor, too.
constexpr int kMostLanes = 12;

PageLanes::PageLanes(int device)
    : coming_(std::async(std::launch::async, [this, device] { make(device); })) {}

void PageLanes::make(int device) {
  try {
    APUD_CUDA(cudaSetDevice(device));
    const int count = std::clamp(usable_cpus() - 1, 1, kMostLanes);
    constexpr size_t kLane = PageLane::kPieces * PageLane::kPieceBytes;
    memory_ = PinnedBuffer(count * kLane);
    for (int i = 0; i < count; ++i) {
      PageLane& lane = lanes_.emplace_back();
      lane.memory = memory_.data() + i * kLane;
      for (cudaEvent_t& e : lane.left)
        APUD_CUDA(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    }
  } catch (const Error&) {  // pages then come through memory that is not pinned
    for (PageLane& lane : lanes_)
      for (cudaEvent_t e : lane.left)
        if (e) cudaEventDestroy(e);
    lanes_.clear();
  }
}

PageLanes::~PageLanes() {
  for (PageLane& lane : get())
    for (cudaEvent_t e : lane.left) cudaEventDestroy(e);
}

std::vector<PageLane>& PageLanes::get() {
  if (coming_.valid()) coming_.get();
  return lanes_;
}

PageCopies::PageCopies(std::vector<PageLane>& lanes, int readers, cudaStream_t stream)
    : lanes_(lanes), ways_(lanes.size()), readers_(readers), stream_(stream) {}

uint8_t* PageCopies::next_piece(int lane) {
  Way& way = ways_[lane];
  while (way.pieces[way.filling].state.load(std::memory_order_acquire) != kFree) {
    if (failed_)
      throw Error(ErrorKind::kUnavailable, "GPU: KV pages could not be copied to the device",
                  "try again, or use --device cpu");
    std::this_thread::yield();
  }
  return lanes_[lane].piece(way.filling);
}

void PageCopies::put(int lane, uint8_t* to, size_t bytes, State state) {
  Way& way = ways_[lane];
  Piece& piece = way.pieces[way.filling];
  piece.to = to;
  piece.bytes = bytes;
  piece.state.store(state, std::memory_order_release);
  way.filling = (way.filling + 1) % PageLane::kPieces;
}

void PageCopies::send(int lane, uint8_t* to, size_t bytes) { put(lane, to, bytes, kFull); }

void PageCopies::clear(int lane, uint8_t* to, size_t bytes) {
  next_piece(lane);
  put(lane, to, bytes, kZeros);
}

void PageCopies::reader_done() { readers_.fetch_sub(1, std::memory_order_release); }

/// A lane's next piece goes to the driver; false where there is none.
bool PageCopies::start(int lane) {
  Way& way = ways_[lane];
  Piece& piece = way.pieces[way.leaving];
  const int state = piece.state.load(std::memory_order_acquire);
  if (state != kFull && state != kZeros) return false;
  if (state == kFull)
    APUD_CUDA(cudaMemcpyAsync(piece.to, lanes_[lane].piece(way.leaving), piece.bytes,
                              cudaMemcpyHostToDevice, stream_));
  else
    APUD_CUDA(cudaMemsetAsync(piece.to, 0, piece.bytes, stream_));
  APUD_CUDA(cudaEventRecord(lanes_[lane].left[way.leaving], stream_));
  piece.state.store(kLeaving, std::memory_order_relaxed);
  flying_.emplace_back(lane, way.leaving);
  way.leaving = (way.leaving + 1) % PageLane::kPieces;
  return true;
}

/// The piece that is first on its way has left; false where it has not, or there is none.
bool PageCopies::finish() {
  if (flying_.empty()) return false;
  auto [lane, slot] = flying_.front();
  const cudaError_t status = cudaEventQuery(lanes_[lane].left[slot]);
  if (status == cudaErrorNotReady) return false;
  APUD_CUDA(status);
  flying_.pop_front();
  ways_[lane].pieces[slot].state.store(kFree, std::memory_order_release);
  return true;
}

void PageCopies::run() {
  try {
    for (bool last = false;; last = readers_.load(std::memory_order_acquire) == 0) {
      bool moved = false;
      for (int lane = 0; lane < static_cast<int>(ways_.size()); ++lane)
        while (start(lane)) moved = true;
      while (finish()) moved = true;
      if (!moved && last && flying_.empty()) break;
      if (!moved) std::this_thread::yield();
    }
    APUD_CUDA(cudaStreamSynchronize(stream_));
  } catch (...) {
    failed_ = true;
    throw;
  }
}

}  // namespace apud::cuda
