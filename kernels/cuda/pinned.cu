#include "kernels/cuda/pinned.h"

#include <sys/mman.h>

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cuda/common.cuh"

namespace apud::cuda {
namespace {

constexpr size_t kHuge = size_t{2} << 20;
constexpr size_t kBytesAThread = size_t{8} << 20;  // a thread clears these in a millisecond

/// Brings the pages in, several threads at once.
void touch(uint8_t* data, size_t bytes) {
  const size_t threads =
      std::clamp<size_t>(bytes / kBytesAThread, 1, static_cast<size_t>(std::max(1, usable_cpus())));
  auto part = [=](size_t t) {
    for (size_t at = bytes * t / threads / 4096 * 4096; at < bytes * (t + 1) / threads; at += 4096)
      static_cast<volatile uint8_t*>(data)[at] = 0;
  };
  std::vector<std::thread> pool;
  for (size_t t = 1; t < threads; ++t) pool.emplace_back(part, t);
  part(0);
  for (std::thread& t : pool) t.join();
}

}  // namespace

PinnedBuffer::PinnedBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  mapped_bytes_ = (bytes + kHuge - 1) / kHuge * kHuge + kHuge;
  mapped_ =
      mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped_ != MAP_FAILED) {
    const auto begin = (reinterpret_cast<uintptr_t>(mapped_) + kHuge - 1) / kHuge * kHuge;
    data_ = reinterpret_cast<uint8_t*>(begin);
    const size_t whole = mapped_bytes_ - kHuge;
    madvise(data_, whole, MADV_HUGEPAGE);  // a wish: small pages work too
    touch(data_, whole);
    if (cudaHostRegister(data_, whole, cudaHostRegisterDefault) == cudaSuccess) return;
    cudaGetLastError();
    munmap(mapped_, mapped_bytes_);
  }
  throw Error(ErrorKind::kBusy,
              "GPU: no " + std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB of pinned memory",
              "free host memory, or raise the limit on locked memory");
}

PinnedBuffer::~PinnedBuffer() {
  if (!data_) return;
  cudaHostUnregister(data_);
  munmap(mapped_, mapped_bytes_);
}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(mapped_, other.mapped_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace apud::cuda
