// Writes GGUF bytes, well-formed or with any field wrong: tests and fuzz seeds.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace apud::test {

class Bytes {
 public:
  template <typename T>
  Bytes& number(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    data_.append(raw, sizeof(T));
    return *this;
  }
  Bytes& string(const std::string& text) { return number<uint64_t>(text.size()).raw(text); }
  Bytes& raw(const std::string& text) {
    data_ += text;
    return *this;
  }
  const std::string& str() const { return data_; }

 private:
  std::string data_;
};

/// Value types by their number in the format.
enum : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

/// A GGUF file in pieces; build() joins them. Every piece may be replaced by a wrong one.
struct GgufWriter {
  struct Tensor {
    std::string name;
    std::vector<uint64_t> dims;  // innermost first
    uint32_t type = 0;           // F32
    uint64_t bytes = 0;          // of its data
    int64_t offset = -1;         // -1: where it belongs
  };
  std::string magic = "GGUF";
  uint32_t version = 3;
  int64_t tensor_count = -1;  // -1: as many as there are
  int64_t key_count = -1;
  uint64_t alignment = 32;                                // of the layout; write the key yourself
  std::vector<std::pair<std::string, std::string>> keys;  // name, type and value as bytes
  std::vector<Tensor> tensors;
  std::string tail;

  GgufWriter& key(const std::string& name, const std::string& bytes) {
    for (auto& [known, value] : keys) {
      if (known == name) {
        value = bytes;
        return *this;
      }
    }
    keys.emplace_back(name, bytes);
    return *this;
  }
  GgufWriter& u32(const std::string& name, uint32_t value) {
    return key(name, Bytes().number<uint32_t>(kU32).number(value).str());
  }
  GgufWriter& f32(const std::string& name, float value) {
    return key(name, Bytes().number<uint32_t>(kF32).number(value).str());
  }
  GgufWriter& text(const std::string& name, const std::string& value) {
    return key(name, Bytes().number<uint32_t>(kString).string(value).str());
  }
  GgufWriter& without(const std::string& name) {
    std::erase_if(keys, [&](const auto& each) { return each.first == name; });
    return *this;
  }
  GgufWriter& f32_tensor(const std::string& name, std::vector<uint64_t> dims) {
    uint64_t bytes = 4;
    for (uint64_t dim : dims) bytes *= dim;
    tensors.push_back({name, std::move(dims), 0, bytes, -1});
    return *this;
  }
  Tensor& tensor(const std::string& name) {
    for (Tensor& each : tensors) {
      if (each.name == name) return each;
    }
    tensors.push_back({name, {1}, 0, 4, -1});
    return tensors.back();
  }

  std::string build() const {
    Bytes out;
    out.raw(magic).number(version);
    out.number<int64_t>(tensor_count < 0 ? static_cast<int64_t>(tensors.size()) : tensor_count);
    out.number<int64_t>(key_count < 0 ? static_cast<int64_t>(keys.size()) : key_count);
    for (const auto& [name, value] : keys) out.string(name).raw(value);
    uint64_t offset = 0;
    for (const Tensor& each : tensors) {
      out.string(each.name).number<uint32_t>(static_cast<uint32_t>(each.dims.size()));
      for (uint64_t dim : each.dims) out.number(dim);
      out.number(each.type);
      out.number<uint64_t>(each.offset < 0 ? offset : static_cast<uint64_t>(each.offset));
      offset += (each.bytes + alignment - 1) / alignment * alignment;
    }
    if (tensors.empty()) return out.str() + tail;
    std::string file = out.str();
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    size_t data = file.size();
    file.resize(data + offset);
    // Not zeros: a norm of zeros would hide what a test looks for.
    for (size_t i = data; i + 4 <= file.size(); i += 4) {
      float value = 0.01f * static_cast<float>(static_cast<int>(i * 7 % 41) - 20);
      std::memcpy(file.data() + i, &value, 4);
    }
    return file + tail;
  }
};

/// A whole llama model of one layer, width 8.
inline GgufWriter tiny_llama() {
  GgufWriter w;
  w.text("general.architecture", "llama");
  w.u32("llama.block_count", 1).u32("llama.context_length", 64).u32("llama.embedding_length", 8);
  w.u32("llama.feed_forward_length", 16).u32("llama.attention.head_count", 2);
  w.u32("llama.attention.head_count_kv", 1).u32("llama.rope.dimension_count", 4);
  w.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f).f32("llama.rope.freq_base", 10000);
  w.f32_tensor("token_embd.weight", {8, 12}).f32_tensor("output_norm.weight", {8});
  w.f32_tensor("blk.0.attn_norm.weight", {8}).f32_tensor("blk.0.ffn_norm.weight", {8});
  w.f32_tensor("blk.0.attn_q.weight", {8, 8}).f32_tensor("blk.0.attn_k.weight", {8, 4});
  w.f32_tensor("blk.0.attn_v.weight", {8, 4}).f32_tensor("blk.0.attn_output.weight", {8, 8});
  w.f32_tensor("blk.0.ffn_gate.weight", {8, 16}).f32_tensor("blk.0.ffn_up.weight", {8, 16});
  w.f32_tensor("blk.0.ffn_down.weight", {16, 8});
  return w;
}

inline std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace apud::test
