// Ways for pages from their readers to the device: pinned pieces that are filled, on the link and
// free again in turns. Readers leave full pieces in a queue and one thread, the one that called,
// tells the driver to copy them: readers that tell it themselves wait for its lock.
#pragma once

#include <atomic>
#include <deque>
#include <exception>
#include <future>
#include <vector>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/pinned.h"

namespace apud::cuda {

struct PageLane {
  static constexpr int kPieces = 3;
  static constexpr size_t kPieceBytes = size_t{1} << 20;
  uint8_t* memory = nullptr;       // kPieces of kPieceBytes
  cudaEvent_t left[kPieces] = {};  // when a piece has left
  uint8_t* piece(int slot) const { return memory + slot * kPieceBytes; }
};

/// The lanes of an executor. Made by a thread of their own, since pinning takes milliseconds; a
/// lane belongs to one reader at a time.
class PageLanes {
 public:
  /// Begins to make them; several can be had while the weights arrive.
  explicit PageLanes(int device);
  ~PageLanes();
  PageLanes(const PageLanes&) = delete;
  PageLanes& operator=(const PageLanes&) = delete;
  /// Waits until they are made. Empty where memory cannot be pinned.
  std::vector<PageLane>& get();

 private:
  void make(int device);
  std::future<void> coming_;
  PinnedBuffer memory_;
  std::vector<PageLane> lanes_;
};

/// What moves in one call of read_pages: readers' full pieces on their way to the device. All of it
/// takes milliseconds and a piece a fiftieth of one, less than it takes to wake a thread: who waits
/// here yields, but does not sleep.
class PageCopies {
 public:
  PageCopies(std::vector<PageLane>& lanes, int readers, cudaStream_t stream);

  // --- Readers
  /// Waits until a lane's next piece may be filled, and gives it. Throws where copying has failed.
  uint8_t* next_piece(int lane);
  /// `bytes` of the piece that next_piece() gave go to `to` on the device.
  void send(int lane, uint8_t* to, size_t bytes);
  /// Zeros there, behind what the lane sent before.
  void clear(int lane, uint8_t* to, size_t bytes);
  void reader_done();

  // --- The caller
  /// Copies until every reader is done and the last piece has left. Throws what the driver says.
  void run();

 private:
  enum State { kFree, kFull, kZeros, kLeaving };
  struct Piece {
    std::atomic<int> state{kFree};  // publishes what follows
    uint8_t* to = nullptr;
    size_t bytes = 0;
  };
  struct Way {
    Piece pieces[PageLane::kPieces];
    int filling = 0, leaving = 0;  // the reader's next piece, the caller's
  };
  void put(int lane, uint8_t* to, size_t bytes, State state);
  bool start(int lane);
  bool finish();
  std::vector<PageLane>& lanes_;
  std::vector<Way> ways_;  // by lane
  std::atomic<int> readers_;
  std::atomic<bool> failed_{false};
  cudaStream_t stream_;
  std::deque<std::pair<int, int>> flying_;  // lane and piece; the caller's
};

}  // namespace apud::cuda
