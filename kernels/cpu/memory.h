// Large buffers of the CPU executor, and giving back pages of mapped model files.
//
// Threads: objects belong to one thread at a time.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace apud::cpu {

/// Zeroed anonymous memory, 64-byte aligned, in huge pages where the system offers them; pages that
/// are never touched cost nothing. Throws apud::Error (kBusy) when it cannot be had.
class Arena {
 public:
  Arena() = default;
  Arena(size_t bytes, const char* what);
  ~Arena();
  Arena(Arena&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Arena& operator=(Arena&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Address ranges of this process that are read-only views of files: their pages can be dropped,
/// the kernel reads them again when they are touched.
class FileViews {
 public:
  FileViews();
  /// Drops the whole pages inside the range where it lies in such a view; otherwise does nothing
  /// (weights in ordinary memory must not be touched).
  void drop(const std::byte* data, size_t size) const;

 private:
  std::vector<std::pair<size_t, size_t>> ranges_;
};

}  // namespace apud::cpu
