#include "kernels/cuda/upload.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "base/thread_pool.h"
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/pinned.h"
#include "kernels/cuda/repack.h"

namespace apud::cuda {
namespace {

constexpr size_t kBufferBytes = size_t{4} << 20;
constexpr int kBuffers = 3;  // per thread: one filled, one on the link, one repacked

struct Piece {
  int item;
  int64_t first, rows;
};

/// One thread's pinned and device buffers.
struct Lane {
  cudaStream_t stream = nullptr;
  PinnedBuffer host;
  uint8_t* device = nullptr;
  cudaEvent_t free[kBuffers] = {};
  size_t buffer = 0;

  void make(size_t bytes) {
    buffer = bytes;
    APUD_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    host = PinnedBuffer(bytes * kBuffers);
    APUD_CUDA(cudaMalloc(&device, bytes * kBuffers));
    for (cudaEvent_t& e : free) APUD_CUDA(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
  }
  ~Lane() {
    if (stream) cudaStreamSynchronize(stream);
    for (cudaEvent_t e : free)
      if (e) cudaEventDestroy(e);
    cudaFree(device);
    if (stream) cudaStreamDestroy(stream);
  }
};

}  // namespace

void upload(const std::vector<UploadItem>& items, int device) {
  std::vector<Piece> pieces;
  size_t buffer = 0;
  for (int i = 0; i < static_cast<int>(items.size()); ++i) {
    const WeightView& w = items[i].from;
    size_t row = row_bytes(w.type, w.cols);
    int64_t per =
        std::max<int64_t>(1, static_cast<int64_t>(kBufferBytes / std::max<size_t>(row, 1)));
    buffer = std::max(buffer, static_cast<size_t>(std::min(per, w.rows)) * row);
    for (int64_t r = 0; r < w.rows; r += per) pieces.push_back({i, r, std::min(per, w.rows - r)});
  }
  if (pieces.empty()) return;
  int threads = std::clamp(std::min<int>(usable_cpus(), static_cast<int>(pieces.size())), 1, 12);
  std::atomic<size_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;
  auto work = [&] {
    try {
      APUD_CUDA(cudaSetDevice(device));
      Lane lane;
      lane.make((buffer + 255) / 256 * 256);
      for (int slot = 0;; slot = (slot + 1) % kBuffers) {
        size_t n = next.fetch_add(1);
        if (n >= pieces.size()) break;
        const Piece& piece = pieces[n];
        const UploadItem& item = items[piece.item];
        size_t row = row_bytes(item.from.type, item.from.cols), bytes = row * piece.rows;
        uint8_t* host = lane.host.data() + slot * lane.buffer;
        uint8_t* staged = lane.device + slot * lane.buffer;
        APUD_CUDA(cudaEventSynchronize(lane.free[slot]));
        std::memcpy(host, item.from.data + piece.first * row, bytes);
        APUD_CUDA(cudaMemcpyAsync(staged, host, bytes, cudaMemcpyHostToDevice, lane.stream));
        RepackJob job;
        job.raw = staged;
        job.first_row = static_cast<int>(piece.first);
        job.rows = static_cast<int>(piece.rows);
        job.order = item.from.order;
        job.head_dim = item.from.head_dim;
        job.to = item.to;
        job.type = item.from.type;
        job.cols = static_cast<int>(item.from.cols);
        job.shape = packed_shape(item.from.type, item.from.cols);
        repack(job, lane.stream);
        APUD_CUDA(cudaEventRecord(lane.free[slot], lane.stream));
      }
      APUD_CUDA(cudaStreamSynchronize(lane.stream));
    } catch (...) {
      std::lock_guard<std::mutex> hold(failure_lock);
      if (!failure) failure = std::current_exception();
      next = pieces.size();
    }
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (std::thread& t : pool) t.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace apud::cuda
