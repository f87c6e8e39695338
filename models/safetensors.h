// safetensors files: header parsed strictly (SAX: duplicate keys refused, depth limited), data
// fully covered without holes or overlaps.
//
// Threads: immutable after construction.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "kernels/tensor.h"

namespace apud {

struct SafeTensor {
  std::string name;
  std::string dtype;  // as in the file: "F32", "BF16", "I64", …
  /// rows = product of the outer dims, cols = the last. data = nullptr where the dtype is none that
  /// weights have (index buffers, for example): such tensors are checked and otherwise left alone.
  WeightView view;
  std::vector<uint64_t> shape;
};

class SafeTensorsFile {
 public:
  static SafeTensorsFile open(const Path& path);
  static SafeTensorsFile parse(std::span<const std::byte> bytes, const std::string& name);
  const std::string& name() const { return name_; }
  const SafeTensor* tensor(const std::string& name) const;
  const std::map<std::string, SafeTensor>& tensors() const { return tensors_; }
  /// The whole file, and where its tensor data begins.
  std::span<const std::byte> bytes() const { return bytes_; }
  size_t data_begin() const { return data_begin_; }

 private:
  std::string name_;
  MappedFile map_;
  std::map<std::string, SafeTensor> tensors_;
  std::span<const std::byte> bytes_;
  size_t data_begin_ = 0;
};

}  // namespace apud
