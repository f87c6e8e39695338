// safetensors files: header parsed strictly (SAX: duplicate keys refused, depth limited), data fully
// covered without holes or overlaps.
//
// Threads: immutable after construction.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "kernels/tensor.h"

namespace apud {

struct SafeTensor {
  std::string name;
  WeightView view;                // rows = product of the outer dims, cols = the last
  std::vector<uint64_t> shape;
};

class SafeTensorsFile {
 public:
  static SafeTensorsFile open(const Path& path);
  static SafeTensorsFile parse(std::span<const std::byte> bytes, const std::string& name);
  const SafeTensor* tensor(const std::string& name) const;
  const std::map<std::string, SafeTensor>& tensors() const { return tensors_; }

 private:
  std::string name_;
  MappedFile map_;
  std::map<std::string, SafeTensor> tensors_;
};

}  // namespace apud
