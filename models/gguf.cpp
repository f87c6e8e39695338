// Format: the GGUF specification, version 3 (ggml, docs/gguf.md). Limits: reliability decisions in
// docs/formats.md; largest real values met are a vocabulary of 262,144 and 280,147 merges.
#include "models/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace apud {

static_assert(std::endian::native == std::endian::little, "GGUF values are read in place");

namespace {

constexpr uint64_t kMaxKeys = 65536;
constexpr uint64_t kMaxTensors = 1 << 20;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxStringBytes = 16 << 20;
constexpr uint64_t kMaxArrayCount = 16 << 20;
constexpr uint64_t kMaxNameBytes = 63;
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint64_t kMinAlignment = 8;
// Smallest possible entries: they bound counts by the bytes that are left.
constexpr uint64_t kMinKeyEntry = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorEntry = 8 + 1 + 4 + 8 + 4 + 8;

// Names of ggml's type ids, for messages; those that apud reads have a WeightType.
struct FileType {
  uint32_t id;
  const char* name;
  std::optional<WeightType> type;
};
constexpr std::array kFileTypes = {
    FileType{0, "F32", WeightType::kF32},
    FileType{1, "F16", WeightType::kF16},
    FileType{2, "Q4_0", WeightType::kQ4_0},
    FileType{3, "Q4_1", WeightType::kQ4_1},
    FileType{6, "Q5_0", WeightType::kQ5_0},
    FileType{7, "Q5_1", WeightType::kQ5_1},
    FileType{8, "Q8_0", WeightType::kQ8_0},
    FileType{9, "Q8_1", {}},
    FileType{10, "Q2_K", WeightType::kQ2_K},
    FileType{11, "Q3_K", WeightType::kQ3_K},
    FileType{12, "Q4_K", WeightType::kQ4_K},
    FileType{13, "Q5_K", WeightType::kQ5_K},
    FileType{14, "Q6_K", WeightType::kQ6_K},
    FileType{15, "Q8_K", {}},
    FileType{16, "IQ2_XXS", {}},
    FileType{17, "IQ2_XS", {}},
    FileType{18, "IQ3_XXS", {}},
    FileType{19, "IQ1_S", {}},
    FileType{20, "IQ4_NL", {}},
    FileType{21, "IQ3_S", {}},
    FileType{22, "IQ2_S", {}},
    FileType{23, "IQ4_XS", {}},
    FileType{24, "I8", {}},
    FileType{25, "I16", {}},
    FileType{26, "I32", {}},
    FileType{27, "I64", {}},
    FileType{28, "F64", {}},
    FileType{29, "IQ1_M", {}},
    FileType{30, "BF16", WeightType::kBF16},
    FileType{34, "TQ1_0", {}},
    FileType{35, "TQ2_0", {}},
    FileType{39, "MXFP4", {}},
};

const char* value_type_name(GgufType type) {
  constexpr const char* names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                   "bool", "string", "array", "u64", "i64", "f64"};
  return names[static_cast<size_t>(type)];
}

/// Bytes of a fixed-size value type, 0 for strings and arrays.
uint64_t value_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

/// One pass over the bytes; nothing is allocated before its size is known to fit in what is left.
class GgufParser {
 public:
  GgufParser(GgufFile& file, std::span<const std::byte> bytes) : file_(file), bytes_(bytes) {}

  void run() {
    parse_header();
    for (uint64_t i = 0; i < key_count_; ++i) parse_key(i);
    read_alignment();
    parse_tensors();
    file_.bytes_ = bytes_;
  }

 private:
  [[noreturn]] void fail(const std::string& field, const std::string& what, size_t at) const {
    throw Error(ErrorKind::kBadData,
                fmt::format("{}: {}: {} (byte {})", file_.name_, field, what, at),
                "the file is damaged or not what its name says: fetch it again");
  }
  uint64_t left() const { return bytes_.size() - at_; }

  template <typename T>
  T read(const std::string& field) {
    if (left() < sizeof(T)) {
      fail(field, fmt::format("the file ends after {} of {} bytes", left(), sizeof(T)), at_);
    }
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  std::string_view read_string(const std::string& field, uint64_t limit) {
    size_t start = at_;
    auto size = read<uint64_t>(field);
    if (size > limit) fail(field, fmt::format("length {}, at most {}", size, limit), start);
    if (size > left())
      fail(field, fmt::format("length {} with {} bytes left", size, left()), start);
    std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + at_, size);
    at_ += size;
    return text;
  }

  void parse_header() {
    if (bytes_.size() < 4) fail("magic", "not a GGUF file", 0);
    if (std::memcmp(bytes_.data(), "FUGG", 4) == 0)
      fail("magic", "big-endian file, which is not supported", 0);
    if (std::memcmp(bytes_.data(), "GGUF", 4) != 0) fail("magic", "not a GGUF file", 0);
    at_ = 4;
    auto version = read<uint32_t>("version");
    if (version != 3) {
      bool swapped = (version & 0xFFFF) == 0 && version != 0;
      fail("version",
           swapped ? "big-endian file, which is not supported"
                   : fmt::format("{}, where 3 is supported", version),
           4);
    }
    tensor_count_ = read<uint64_t>("tensor count");
    key_count_ = read<uint64_t>("key count");
    if (tensor_count_ > kMaxTensors || tensor_count_ > left() / kMinTensorEntry) {
      fail("tensor count",
           fmt::format("{}, at most {} fit", tensor_count_,
                       std::min(kMaxTensors, left() / kMinTensorEntry)),
           8);
    }
    if (key_count_ > kMaxKeys || key_count_ > left() / kMinKeyEntry) {
      fail("key count",
           fmt::format("{}, at most {} fit", key_count_, std::min(kMaxKeys, left() / kMinKeyEntry)),
           16);
    }
  }

  GgufType read_type(const std::string& field) {
    size_t start = at_;
    auto type = read<uint32_t>(field + ": type");
    if (type > static_cast<uint32_t>(GgufType::kF64))
      fail(field, fmt::format("unknown value type {}", type), start);
    return static_cast<GgufType>(type);
  }

  void parse_key(uint64_t index) {
    size_t start = at_;
    std::string_view key = read_string(fmt::format("key {}", index), kMaxKeyBytes);
    if (key.empty()) fail(fmt::format("key {}", index), "empty name", start);
    std::string field(key);
    GgufValue value;
    value.type = read_type(field);
    if (value.type == GgufType::kArray) {
      parse_array(field, value);
    } else if (value.type == GgufType::kString) {
      value.scalar = read_string(field, kMaxStringBytes);
    } else {
      value.scalar = read_scalar(field, value.type);
    }
    if (!file_.values_.emplace(key, std::move(value)).second) fail(field, "duplicate key", start);
  }

  std::variant<uint64_t, int64_t, double, bool, std::string_view> read_scalar(
      const std::string& field, GgufType type) {
    size_t start = at_;
    switch (type) {
      case GgufType::kU8:
        return uint64_t{read<uint8_t>(field)};
      case GgufType::kI8:
        return int64_t{read<int8_t>(field)};
      case GgufType::kU16:
        return uint64_t{read<uint16_t>(field)};
      case GgufType::kI16:
        return int64_t{read<int16_t>(field)};
      case GgufType::kU32:
        return uint64_t{read<uint32_t>(field)};
      case GgufType::kI32:
        return int64_t{read<int32_t>(field)};
      case GgufType::kU64:
        return read<uint64_t>(field);
      case GgufType::kI64:
        return read<int64_t>(field);
      case GgufType::kF32:
        return double{read<float>(field)};
      case GgufType::kF64:
        return read<double>(field);
      case GgufType::kBool: {
        auto bits = read<uint8_t>(field);
        if (bits > 1) fail(field, fmt::format("bool of value {}", bits), start);
        return bits == 1;
      }
      case GgufType::kString:
      case GgufType::kArray:
        break;
    }
    fail(field, "not a scalar", start);
  }

  void parse_array(const std::string& field, GgufValue& value) {
    size_t start = at_;
    value.element = read_type(field);
    if (value.element == GgufType::kArray)
      fail(field, "array of arrays, which is not supported", start);
    size_t count_at = at_;
    value.count = read<uint64_t>(field + ": count");
    if (value.count > kMaxArrayCount) {
      fail(field, fmt::format("{} elements, at most {}", value.count, kMaxArrayCount), count_at);
    }
    uint64_t smallest = value.element == GgufType::kString ? 8 : value_bytes(value.element);
    if (value.count > left() / smallest) {
      fail(field, fmt::format("{} elements with {} bytes left", value.count, left()), count_at);
    }
    if (value.element == GgufType::kString) {
      value.array_strings.reserve(value.count);
      for (uint64_t i = 0; i < value.count; ++i) {
        value.array_strings.push_back(read_string(field, kMaxStringBytes));
      }
      return;
    }
    value.array_bytes = bytes_.subspan(at_, value.count * smallest);
    at_ += value.array_bytes.size();
  }

  void read_alignment() {
    const GgufValue* value = file_.find("general.alignment");
    if (!value) return;
    size_t at = at_;
    if (value->type != GgufType::kU32) {
      fail("general.alignment",
           fmt::format("of type {}, must be u32", value_type_name(value->type)), at);
    }
    alignment_ = std::get<uint64_t>(value->scalar);
    if (!std::has_single_bit(alignment_) || alignment_ < kMinAlignment ||
        alignment_ > kMaxAlignment) {
      fail("general.alignment",
           fmt::format("{}, must be a power of two from {} to {}", alignment_, kMinAlignment,
                       kMaxAlignment),
           at);
    }
  }

  WeightType weight_type(const std::string& field, uint32_t id, size_t at) const {
    for (const FileType& known : kFileTypes) {
      if (known.id != id) continue;
      if (known.type) return *known.type;
      fail(field, fmt::format("type {} ({}) is not supported", known.name, id), at);
    }
    fail(field, fmt::format("unknown type {}", id), at);
  }

  void parse_tensors() {
    file_.tensors_.reserve(tensor_count_);
    file_.tensor_index_.reserve(tensor_count_);
    std::vector<uint64_t> offsets;
    std::vector<size_t> places;  // of the offsets, for messages
    for (uint64_t i = 0; i < tensor_count_; ++i) {
      parse_tensor(i);
      places.push_back(at_);
      offsets.push_back(read<uint64_t>(std::string(file_.tensors_.back().name) + ": offset"));
    }
    file_.data_begin_ = at_;
    if (tensor_count_ == 0) return;
    uint64_t begin = align_up(at_, alignment_);
    if (begin > bytes_.size()) fail("tensor data", "the file ends before it", at_);
    file_.data_begin_ = begin;
    place_data(offsets, places);
  }

  void parse_tensor(uint64_t index) {
    size_t start = at_;
    std::string_view name = read_string(fmt::format("name of tensor {}", index), kMaxNameBytes);
    if (name.empty()) fail(fmt::format("tensor {}", index), "empty name", start);
    std::string field = fmt::format("tensor {}", name);
    if (!file_.tensor_index_.emplace(name, index).second) fail(field, "duplicate name", start);
    size_t dims_at = at_;
    auto count = read<uint32_t>(field + ": dimensions");
    if (count < 1 || count > kMaxDims)
      fail(field, fmt::format("{} dimensions, 1 to {}", count, kMaxDims), dims_at);
    GgufTensor tensor;
    tensor.name = name;
    // 2^60 values of at most 4 bytes stay below 2^62: no later product wraps.
    uint64_t total = 1;
    for (uint32_t i = 0; i < count; ++i) {
      auto dim = read<uint64_t>(field + ": dimension");
      if (dim == 0 || dim > (uint64_t{1} << 60) / total) {
        fail(field, fmt::format("dimension {} is {}", i, dim), at_ - 8);
      }
      total *= dim;
      tensor.dims.push_back(dim);
    }
    size_t type_at = at_;
    auto id = read<uint32_t>(field + ": type");
    tensor.view.type = weight_type(field, id, type_at);
    tensor.view.cols = static_cast<int64_t>(tensor.dims[0]);
    tensor.view.rows = static_cast<int64_t>(total / tensor.dims[0]);
    if (tensor.view.cols % block_values(tensor.view.type) != 0) {
      fail(field,
           fmt::format("rows of {} values are no multiple of a {} block of {}", tensor.view.cols,
                       weight_type_name(tensor.view.type), block_values(tensor.view.type)),
           dims_at);
    }
    file_.tensors_.push_back(std::move(tensor));
  }

  /// Tensors lie in the order of their table, each aligned, without holes, to the end of the file.
  void place_data(const std::vector<uint64_t>& offsets, const std::vector<size_t>& places) {
    uint64_t available = bytes_.size() - file_.data_begin_, next = 0;
    for (size_t i = 0; i < offsets.size(); ++i) {
      GgufTensor& tensor = file_.tensors_[i];
      std::string field = fmt::format("tensor {}", tensor.name);
      uint64_t offset = offsets[i], size = tensor.view.bytes();
      if (offset % alignment_ != 0)
        fail(field, fmt::format("offset {} is not aligned to {}", offset, alignment_), places[i]);
      if (offset != next) {
        fail(field,
             fmt::format("offset {} leaves a {} where {} is expected", offset,
                         offset < next ? "overlap" : "hole", next),
             places[i]);
      }
      if (offset > available || size > available - offset) {
        fail(field,
             fmt::format("needs {} bytes at offset {}, the data has {}", size, offset, available),
             places[i]);
      }
      tensor.view.data = bytes_.data() + file_.data_begin_ + offset;
      next = align_up(offset + size, alignment_);
    }
    if (available > next) {
      fail("tensor data", fmt::format("{} bytes follow the last tensor", available - next),
           static_cast<size_t>(file_.data_begin_ + next));
    }
  }

  GgufFile& file_;
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  uint64_t tensor_count_ = 0;
  uint64_t key_count_ = 0;
  uint64_t alignment_ = 32;
};

GgufFile GgufFile::open(const Path& path) {
  MappedFile map(path);
  GgufFile file = parse(map.bytes(), path.string());
  file.map_ = std::move(map);
  return file;
}

GgufFile GgufFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  GgufFile file;
  file.name_ = name;
  GgufParser(file, bytes).run();
  return file;
}

const GgufValue* GgufFile::find(std::string_view key) const {
  auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

const GgufTensor* GgufFile::tensor(std::string_view name) const {
  auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

namespace {
[[noreturn]] void bad_key(const std::string& file, std::string_view key, const std::string& what) {
  throw Error(ErrorKind::kBadData, fmt::format("{}: {}: {}", file, key, what),
              "the file is damaged or made for a newer program");
}
[[noreturn]] void wrong_type(const std::string& file, std::string_view key, const GgufValue& value,
                             const char* wanted) {
  bad_key(file, key, fmt::format("of type {}, must be {}", value_type_name(value.type), wanted));
}
}  // namespace

std::optional<std::string_view> GgufFile::get_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->type != GgufType::kString) wrong_type(name_, key, *value, "a string");
  return std::get<std::string_view>(value->scalar);
}

std::optional<uint64_t> GgufFile::get_unsigned(std::string_view key, uint64_t low,
                                               uint64_t high) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  uint64_t number = 0;
  if (auto* u = std::get_if<uint64_t>(&value->scalar); u && value->type != GgufType::kArray) {
    number = *u;
  } else if (auto* i = std::get_if<int64_t>(&value->scalar)) {
    if (*i < 0) bad_key(name_, key, fmt::format("{}, must be {} to {}", *i, low, high));
    number = static_cast<uint64_t>(*i);
  } else {
    wrong_type(name_, key, *value, "an integer");
  }
  if (number < low || number > high)
    bad_key(name_, key, fmt::format("{}, must be {} to {}", number, low, high));
  return number;
}

std::optional<double> GgufFile::get_float(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  auto* number = std::get_if<double>(&value->scalar);
  if (!number) wrong_type(name_, key, *value, "a float");
  if (!std::isfinite(*number)) bad_key(name_, key, fmt::format("{} is not finite", *number));
  return *number;
}

std::optional<bool> GgufFile::get_bool(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  auto* truth = std::get_if<bool>(&value->scalar);
  if (!truth) wrong_type(name_, key, *value, "a bool");
  return *truth;
}

std::string_view GgufFile::require_string(std::string_view key) const {
  auto value = get_string(key);
  if (!value) bad_key(name_, key, "is missing");
  return *value;
}

uint64_t GgufFile::require_unsigned(std::string_view key, uint64_t low, uint64_t high) const {
  auto value = get_unsigned(key, low, high);
  if (!value) bad_key(name_, key, "is missing");
  return *value;
}

double GgufFile::require_float(std::string_view key) const {
  auto value = get_float(key);
  if (!value) bad_key(name_, key, "is missing");
  return *value;
}

}  // namespace apud
