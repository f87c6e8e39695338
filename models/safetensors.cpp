// Format: the safetensors README ("Format"): u64 header length, JSON header, data without holes.
#include "models/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/error.h"

namespace apud {

static_assert(std::endian::native == std::endian::little, "values are read in place");

namespace {

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxDims = 8;
constexpr size_t kMaxTensors = 1 << 20;

struct Dtype {
  const char* name;
  uint64_t bytes;
  std::optional<WeightType> type;
};
constexpr std::array kDtypes = {
    Dtype{"F32", 4, WeightType::kF32},
    Dtype{"F16", 2, WeightType::kF16},
    Dtype{"BF16", 2, WeightType::kBF16},
    Dtype{"F64", 8, {}},
    Dtype{"I64", 8, {}},
    Dtype{"U64", 8, {}},
    Dtype{"I32", 4, {}},
    Dtype{"U32", 4, {}},
    Dtype{"I16", 2, {}},
    Dtype{"U16", 2, {}},
    Dtype{"I8", 1, {}},
    Dtype{"U8", 1, {}},
    Dtype{"BOOL", 1, {}},
    Dtype{"F8_E4M3", 1, {}},
    Dtype{"F8_E5M2", 1, {}},
};

struct Entry {
  std::string name;
  std::string dtype;  // empty: not seen yet, as are the next two by their flags
  std::vector<uint64_t> shape, offsets;
  bool has_shape = false, has_offsets = false;
};

/// Accepts exactly the header's shape: an object of tensor objects and one of metadata strings. A
/// depth beyond it is refused by construction, so are duplicate keys (which a DOM would drop).
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry> entries;
  std::string problem;
  size_t position = 0;

  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("a boolean"); }
  bool number_integer(number_integer_t value) override {
    return refuse(fmt::format("the negative number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return refuse("the number " + text.substr(0, 40));
  }
  bool binary(binary_t&) override { return refuse("binary"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::kShape && entries.back().shape.size() < kMaxDims) {
      entries.back().shape.push_back(value);
      return true;
    }
    if (state_ == State::kOffsets && entries.back().offsets.size() < 2) {
      entries.back().offsets.push_back(value);
      return true;
    }
    return refuse(fmt::format("the number {}", value));
  }
  bool string(string_t& value) override {
    if (state_ == State::kMetadata) return true;
    if (state_ == State::kTensor && key_ == "dtype") {
      entries.back().dtype = value;
      return true;
    }
    return refuse("a string");
  }
  bool key(string_t& key) override {
    auto& seen = state_ == State::kTop ? names_ : keys_;
    if (!seen.insert(key).second) return fail(fmt::format("duplicate key {}", key));
    if (state_ == State::kTensor && key != "dtype" && key != "shape" && key != "data_offsets") {
      return fail(fmt::format("{}: unknown key {}", entries.back().name, key));
    }
    if (state_ == State::kTop && names_.size() > kMaxTensors) {
      return fail(fmt::format("more than {} tensors", kMaxTensors));
    }
    key_ = key;
    return true;
  }
  bool start_object(std::size_t) override {
    if (state_ == State::kStart) {
      state_ = State::kTop;
      return true;
    }
    if (state_ != State::kTop) return refuse("an object");
    keys_.clear();
    if (key_ == "__metadata__") {
      state_ = State::kMetadata;
    } else {
      state_ = State::kTensor;
      entries.push_back({.name = key_});
    }
    return true;
  }
  bool end_object() override {
    if (state_ == State::kTop) {
      state_ = State::kEnd;
      return true;
    }
    if (state_ == State::kTensor) {
      const Entry& e = entries.back();
      for (auto [there, name] : {std::pair{!e.dtype.empty(), "dtype"},
                                 {e.has_shape, "shape"},
                                 {e.has_offsets, "data_offsets"}}) {
        if (!there) return fail(fmt::format("{}: {} is missing", e.name, name));
      }
      if (e.offsets.size() != 2)
        return fail(fmt::format("{}: data_offsets needs two numbers", e.name));
    }
    state_ = State::kTop;
    return true;
  }
  bool start_array(std::size_t) override {
    if (state_ == State::kTensor && key_ == "shape") {
      entries.back().has_shape = true;
      state_ = State::kShape;
      return true;
    }
    if (state_ == State::kTensor && key_ == "data_offsets") {
      entries.back().has_offsets = true;
      state_ = State::kOffsets;
      return true;
    }
    return refuse("an array");
  }
  bool end_array() override {
    state_ = State::kTensor;
    return true;
  }
  bool parse_error(std::size_t at, const std::string&,
                   const nlohmann::detail::exception& e) override {
    position = at;
    // The library's text repeats the input around the error; its own part ends there.
    std::string what = e.what();
    return fail("not JSON: " + what.substr(0, std::min<size_t>(what.find("; last read"), 120)));
  }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };
  bool fail(std::string what) {
    if (problem.empty()) problem = std::move(what);
    return false;
  }
  bool refuse(const std::string& what) {
    if (state_ == State::kStart) return fail("is not an object");
    return fail(fmt::format("{} where it does not belong, in {}", what, key_));
  }
  State state_ = State::kStart;
  std::string key_;
  std::set<std::string> names_, keys_;
};

}  // namespace

SafeTensorsFile SafeTensorsFile::open(const Path& path) {
  MappedFile map(path);
  SafeTensorsFile file = parse(map.bytes(), path.string());
  file.map_ = std::move(map);
  return file;
}

SafeTensorsFile SafeTensorsFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  auto fail = [&](const std::string& field, const std::string& what, uint64_t at) {
    throw Error(ErrorKind::kBadData, fmt::format("{}: {}: {} (byte {})", name, field, what, at),
                "the file is damaged or not what its name says: fetch it again");
  };
  if (bytes.size() < 8)
    fail("header length", fmt::format("the file has {} bytes", bytes.size()), 0);
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeader)
    fail("header length", fmt::format("{}, at most {}", length, kMaxHeader), 0);
  if (length > bytes.size() - 8) {
    fail("header length", fmt::format("{} with {} bytes left", length, bytes.size() - 8), 0);
  }
  const char* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  if (length == 0 || text[0] != '{') fail("header", "does not begin with {", 8);

  HeaderHandler handler;
  bool parsed = nlohmann::json::sax_parse(text, text + length, &handler);
  if (!parsed || !handler.problem.empty()) {
    fail("header", handler.problem.empty() ? "not JSON" : handler.problem, 8 + handler.position);
  }

  SafeTensorsFile file;
  file.name_ = name;
  file.bytes_ = bytes;
  file.data_begin_ = 8 + length;
  uint64_t available = bytes.size() - file.data_begin_;
  std::sort(handler.entries.begin(), handler.entries.end(), [](const Entry& a, const Entry& b) {
    return a.offsets < b.offsets || (a.offsets == b.offsets && a.name < b.name);
  });
  uint64_t next = 0;
  for (Entry& entry : handler.entries) {
    std::string field = "tensor " + entry.name;
    if (entry.name.empty()) fail("header", "a tensor without name", 8);
    const Dtype* dtype = nullptr;
    for (const Dtype& known : kDtypes) {
      if (entry.dtype == known.name) dtype = &known;
    }
    if (!dtype) fail(field, fmt::format("unknown dtype {}", entry.dtype.substr(0, 40)), 8);
    uint64_t begin = entry.offsets[0], end = entry.offsets[1];
    // Every product stays below 2^60 values of at most 8 bytes.
    uint64_t count = 1;
    for (uint64_t dim : entry.shape) {
      if (dim == 0 || dim > (uint64_t{1} << 60) / count)
        fail(field, fmt::format("dimension {}", dim), 8);
      count *= dim;
    }
    if (end < begin) fail(field, fmt::format("data_offsets [{}, {}] are reversed", begin, end), 8);
    if (begin != next) {
      fail(field,
           fmt::format("data_offsets [{}, {}] leave {} where {} is expected", begin, end,
                       begin < next ? "an overlap" : "a hole", next),
           8);
    }
    if (end > available) {
      fail(field,
           fmt::format("data_offsets [{}, {}], the data has {} bytes", begin, end, available), 8);
    }
    if (end - begin != count * dtype->bytes) {
      fail(field, fmt::format("{} bytes for {} values of {}", end - begin, count, dtype->name), 8);
    }
    if ((file.data_begin_ + begin) % dtype->bytes != 0) {
      fail(field, fmt::format("its data is not aligned to {} bytes", dtype->bytes),
           file.data_begin_ + begin);
    }
    next = end;
    SafeTensor tensor;
    tensor.name = entry.name;
    tensor.dtype = dtype->name;
    tensor.shape = std::move(entry.shape);
    tensor.view.cols = tensor.shape.empty() ? 1 : static_cast<int64_t>(tensor.shape.back());
    tensor.view.rows = static_cast<int64_t>(count) / tensor.view.cols;
    if (dtype->type) {
      tensor.view.type = *dtype->type;
      tensor.view.data = bytes.data() + file.data_begin_ + begin;
    }
    file.tensors_.emplace(entry.name, std::move(tensor));
  }
  if (next != available) {
    fail("data", fmt::format("{} bytes belong to no tensor", available - next),
         file.data_begin_ + next);
  }
  return file;
}

const SafeTensor* SafeTensorsFile::tensor(const std::string& name) const {
  auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace apud
