// All weights of a program on the device: packed matrices, float vectors, and the 16-bit matrices
// that prefill multiplies with.
//
// Ownership: owns the device memory. Threads: immutable after construction but for panel scratch,
// which belongs to the executor's thread.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/repack.h"
#include "kernels/program.h"

namespace apud::cuda {

/// A device allocation; null when size 0. Throws kBusy naming `what` when there is no room.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(size_t bytes, const char* what);
  DeviceBuffer(DeviceBuffer&& o) noexcept : data_(o.data_), bytes_(o.bytes_) {
    o.data_ = nullptr;
    o.bytes_ = 0;
  }
  DeviceBuffer& operator=(DeviceBuffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~DeviceBuffer() { cudaFree(data_); }
  template <typename T = uint8_t>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Linear ops that read the same x one after another and may run as one product.
struct LinearGroup {
  std::vector<int> ops;  // indices into Program::ops, neighbours
};
/// Groups of all linear ops (most of one op), in order.
std::vector<LinearGroup> linear_groups(const Program& program);

/// A 16-bit matrix of a group's rows, one below another; data null: to be unpacked in panels.
struct HalfMatrix {
  const void* data = nullptr;
  int64_t ld = 0;
};

class DeviceWeights {
 public:
  /// Uploads, then calls `uploaded`. `spare_bytes` stay free: where 16-bit copies would not leave
  /// them, prefill unpacks panels.
  DeviceWeights(const Program& program, const Weights& weights,
                const std::vector<LinearGroup>& groups, int device, size_t spare_bytes,
                const std::function<void()>& uploaded);
  const PackedMatrix& matrix(WeightId id) const { return matrices_[id]; }
  const float* vector(WeightId id) const { return id == kNone ? nullptr : vectors_[id]; }
  const HalfMatrix& half(int group) const { return halves_[group]; }
  Half16 half16() const { return half16_; }
  /// Biases of a group's ops one after another, zeros where an op has none; null where none has
  /// any.
  const float* group_bias(int group) const { return group_bias_[group]; }
  const void* group_bias_half(int group) const { return group_bias_half_[group]; }
  bool resident_halves() const { return resident_halves_; }
  size_t bytes() const;

 private:
  Half16 half16_ = Half16::kFp16;
  bool resident_halves_ = true;
  std::vector<PackedMatrix> matrices_;
  std::vector<const float*> vectors_;
  std::vector<HalfMatrix> halves_;
  std::vector<const float*> group_bias_;
  std::vector<const void*> group_bias_half_;
  DeviceBuffer packed_, vectors_memory_, half_memory_;
};

}  // namespace apud::cuda
