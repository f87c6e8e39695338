// GGUF v3 files: a strict parser over mapped bytes. Every count is checked against the bytes left
// before anything is allocated; limits are those of docs/formats.md.
//
// Threads: immutable after construction.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/file.h"
#include "kernels/tensor.h"

namespace apud {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// A value of the key table. Arrays stay in the file: numbers as bytes, strings as views.
struct GgufValue {
  GgufType type = GgufType::kU32;
  std::variant<uint64_t, int64_t, double, bool, std::string_view> scalar;
  GgufType element = GgufType::kU32;            // of an array
  uint64_t count = 0;                           // of an array
  std::span<const std::byte> array_bytes;       // numeric arrays, little endian
  std::vector<std::string_view> array_strings;  // string arrays
};

struct GgufTensor {
  std::string_view name;
  WeightView view;             // rows = product of the outer dims, cols = the innermost one
  std::vector<uint64_t> dims;  // as in the file, innermost first
};

class GgufFile {
 public:
  /// Maps and parses; throws apud::Error (kBadData) naming file, field and byte offset.
  static GgufFile open(const Path& path);
  /// Parses bytes that the caller keeps alive (tests, fuzzing). `name` is used in messages.
  static GgufFile parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& name() const { return name_; }
  const GgufValue* find(std::string_view key) const;
  const GgufTensor* tensor(std::string_view name) const;
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const std::map<std::string_view, GgufValue>& values() const { return values_; }

  /// The whole file, and where its tensor data begins (the end of the header when there is none).
  std::span<const std::byte> bytes() const { return bytes_; }
  size_t data_begin() const { return data_begin_; }

  /// Typed look-ups. require_*: absent or of another type is kBadData naming the key.
  std::string_view require_string(std::string_view key) const;
  uint64_t require_unsigned(std::string_view key, uint64_t low, uint64_t high) const;
  double require_float(std::string_view key) const;
  std::optional<std::string_view> get_string(std::string_view key) const;
  std::optional<uint64_t> get_unsigned(std::string_view key, uint64_t low, uint64_t high) const;
  std::optional<double> get_float(std::string_view key) const;
  std::optional<bool> get_bool(std::string_view key) const;

 private:
  friend class GgufParser;
  std::string name_;
  MappedFile map_;
  std::map<std::string_view, GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> tensor_index_;
  std::span<const std::byte> bytes_;
  size_t data_begin_ = 0;
};

}  // namespace apud
