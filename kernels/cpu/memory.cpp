#include "kernels/cpu/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

#include "base/error.h"

namespace apud::cpu {

namespace {
constexpr size_t kHuge = 2 << 20;
constexpr size_t kPage = 4096;
}  // namespace

Arena::Arena(size_t bytes, const char* what) {
  size_ = (bytes + kPage - 1) / kPage * kPage;
  if (size_ == 0) return;
  // Huge pages need an aligned start: map more and cut.
  size_t mapped = size_ >= kHuge ? size_ + kHuge : size_;
  void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    throw Error(ErrorKind::kBusy, fmt::format("out of memory: {} MiB for {}", bytes >> 20, what),
                "use a smaller model or a shorter context");
  }
  auto start = reinterpret_cast<uintptr_t>(p);
  if (mapped != size_) {
    uintptr_t aligned = (start + kHuge - 1) / kHuge * kHuge;
    if (aligned > start) munmap(p, aligned - start);
    uintptr_t end = start + mapped, keep = aligned + size_;
    if (end > keep) munmap(reinterpret_cast<void*>(keep), end - keep);
    start = aligned;
    madvise(reinterpret_cast<void*>(start), size_, MADV_HUGEPAGE);  // a wish: refusal is fine
  }
  data_ = reinterpret_cast<std::byte*>(start);
}

Arena::~Arena() {
  if (data_ != nullptr) munmap(data_, size_);
}

FileViews::FileViews() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uint64_t begin = 0, end = 0, inode = 0;
    char mode[5] = {};
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s %*x %*x:%*x %" SCNu64, &begin, &end,
                    mode, &inode) != 4) {
      continue;
    }
    if (inode != 0 && mode[0] == 'r' && mode[1] == '-' && mode[2] == '-')
      ranges_.emplace_back(begin, end);
  }
}

void FileViews::drop(const std::byte* data, size_t size) const {
  auto begin = (reinterpret_cast<size_t>(data) + kPage - 1) / kPage * kPage;
  auto end = (reinterpret_cast<size_t>(data) + size) / kPage * kPage;
  if (begin >= end) return;
  for (auto [from, to] : ranges_) {
    if (begin >= from && end <= to)
      madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
}

}  // namespace apud::cpu
