// GGUF: what is read, and the hostile corpus G1-G17 of the reliability decisions: every file is
// refused as bad data, within 100 ms, with a message that names the field and the byte.
#include "models/gguf.h"

#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <limits>

#include "base/error.h"
#include "models/arch/arch.h"
#include "tests/support/corpus.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::as_bytes;
using test::Bytes;
using test::GgufWriter;
using test::tiny_llama;

void load(const std::string& bytes) {
  // Exactly as long as the file, on the heap: reading past its end is seen by ASan.
  std::vector<char> exact(bytes.begin(), bytes.end());
  GgufFile file = GgufFile::parse(std::as_bytes(std::span(exact)), "test.gguf");
  auto source = make_gguf_source(file);
  build_program(config_from_gguf(file, 0), *source);
}

/// The message with which the file is refused; empty when it loads.
std::string refusal(const std::string& bytes) {
  return test::refusal_of([&] { load(bytes); });
}

/// The parser refuses it, naming `field` and a byte.
void expect_refused(const std::string& bytes, const std::string& field) {
  std::string message = refusal(bytes);
  EXPECT_NE(message.find(field), std::string::npos) << field << " not in: " << message;
  EXPECT_NE(message.find("(byte "), std::string::npos) << message;
  EXPECT_EQ(message.find("test.gguf: "), 0u) << message;
}
void expect_refused(const GgufWriter& writer, const std::string& field) {
  expect_refused(writer.build(), field);
}
/// The configuration or a tensor is refused by its name.
void expect_config_refused(const GgufWriter& writer, const std::string& name) {
  std::string message = refusal(writer.build());
  EXPECT_NE(message.find(name), std::string::npos) << name << " not in: " << message;
}

std::string scalar(uint32_t type, const std::string& value) {
  return Bytes().number(type).raw(value).str();
}
std::string array(uint32_t element, uint64_t count, const std::string& values = "") {
  return Bytes().number<uint32_t>(test::kArray).number(element).number(count).raw(values).str();
}

TEST(Gguf, ReadsEveryValueType) {
  GgufWriter w;
  w.key("u8", scalar(test::kU8, "\x07")).key("i8", scalar(test::kI8, "\xFE"));
  w.key("u16", Bytes().number<uint32_t>(test::kU16).number<uint16_t>(60000).str());
  w.key("i16", Bytes().number<uint32_t>(test::kI16).number<int16_t>(-300).str());
  w.u32("u32", 4000000000u);
  w.key("i32", Bytes().number<uint32_t>(test::kI32).number<int32_t>(-7).str());
  w.key("u64", Bytes().number<uint32_t>(test::kU64).number<uint64_t>(UINT64_MAX).str());
  w.key("i64", Bytes().number<uint32_t>(test::kI64).number<int64_t>(5).str());
  w.f32("f32", 1.5f);
  w.key("f64", Bytes().number<uint32_t>(test::kF64).number(2.25).str());
  w.key("bool", scalar(test::kBool, std::string(1, '\1')));
  w.text("string", "grüße\x1b\n");
  w.key("numbers", array(test::kI32, 2, Bytes().number<int32_t>(3).number<int32_t>(-4).str()));
  w.key("strings", array(test::kString, 2, Bytes().string("a").string("").str()));
  w.f32_tensor("t", {4, 3, 2});
  std::string bytes = w.build();
  GgufFile file = GgufFile::parse(as_bytes(bytes), "x");
  EXPECT_EQ(file.get_unsigned("u8", 0, 255), 7u);
  EXPECT_EQ(file.get_unsigned("u16", 0, 1 << 20), 60000u);
  EXPECT_EQ(file.get_unsigned("u32", 0, UINT32_MAX), 4000000000u);
  EXPECT_EQ(file.get_unsigned("i64", 0, 10), 5u);
  EXPECT_EQ(std::get<int64_t>(file.find("i8")->scalar), -2);
  EXPECT_EQ(std::get<int64_t>(file.find("i16")->scalar), -300);
  EXPECT_EQ(std::get<uint64_t>(file.find("u64")->scalar), UINT64_MAX);
  EXPECT_EQ(file.get_float("f32"), 1.5);
  EXPECT_EQ(file.get_float("f64"), 2.25);
  EXPECT_EQ(file.get_bool("bool"), true);
  EXPECT_EQ(file.get_string("string"), "grüße\x1b\n");  // G6: legal text is kept as it is
  EXPECT_EQ(file.find("numbers")->count, 2u);
  EXPECT_EQ(file.find("numbers")->array_bytes.size(), 8u);
  EXPECT_EQ(file.find("strings")->array_strings, (std::vector<std::string_view>{"a", ""}));
  EXPECT_EQ(file.find("absent"), nullptr);
  const GgufTensor* tensor = file.tensor("t");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->view.cols, 4);
  EXPECT_EQ(tensor->view.rows, 6);
  EXPECT_EQ(tensor->view.data, as_bytes(bytes).data() + file.data_begin());
  EXPECT_EQ(file.data_begin() % 32, 0u);
  // Typed look-ups refuse by name.
  EXPECT_THROW(file.get_unsigned("i32", 0, 100), Error);
  EXPECT_THROW(file.get_unsigned("u8", 0, 6), Error);
  EXPECT_THROW(file.get_unsigned("string", 0, 6), Error);
  EXPECT_THROW(file.get_unsigned("numbers", 0, 6), Error);
  EXPECT_THROW(file.get_float("u8"), Error);
  EXPECT_THROW(file.get_string("f32"), Error);
  EXPECT_THROW(file.require_string("absent"), Error);
}

TEST(Gguf, TheTinyModelLoads) { EXPECT_EQ(refusal(tiny_llama().build()), ""); }

TEST(GgufCorpus, G1Magic) {
  std::string whole = tiny_llama().build();
  for (size_t size : {0, 1, 3, 4, 8, 23})
    expect_refused(whole.substr(0, size), size < 4 ? "magic" : size < 8 ? "version" : "count");
  GgufWriter w = tiny_llama();
  w.magic = "GGML";
  expect_refused(w, "magic");
  w.magic = "FUGG";
  expect_refused(w, "big-endian");
}

TEST(GgufCorpus, G2Version) {
  for (uint32_t version : {0u, 1u, 2u, 4u}) {
    GgufWriter w = tiny_llama();
    w.version = version;
    expect_refused(w, "version: " + std::to_string(version));
  }
  GgufWriter w = tiny_llama();
  w.version = 0x03000000;
  expect_refused(w, "big-endian");
}

TEST(GgufCorpus, G3Counts) {
  for (int64_t count :
       {int64_t{1} << 32, int64_t{1} << 60, std::numeric_limits<int64_t>::min(), int64_t{1000}}) {
    GgufWriter w;
    w.tensor_count = count == std::numeric_limits<int64_t>::min() ? 0 : count;
    w.key_count = count == std::numeric_limits<int64_t>::min() ? 0 : -1;
    std::string bytes = w.build();
    if (count < 0) {
      uint64_t most = UINT64_MAX;
      std::memcpy(bytes.data() + 8, &most, 8);
    }
    expect_refused(bytes, "tensor count");
    std::memcpy(bytes.data() + 16, bytes.data() + 8, 8);
    std::memset(bytes.data() + 8, 0, 8);
    expect_refused(bytes, "key count");
  }
}

TEST(GgufCorpus, G4StringLengths) {
  auto with_key_length = [](uint64_t length) {
    return Bytes()
        .raw("GGUF")
        .number<uint32_t>(3)
        .number<uint64_t>(0)
        .number<uint64_t>(1)
        .number(length)
        .raw(std::string(120, 'k'))
        .str();
  };
  for (uint64_t length : {UINT64_MAX, uint64_t{121}, uint64_t{1} << 30})
    expect_refused(with_key_length(length), "key 0");
  auto with_value_length = [](uint64_t length) {
    return Bytes()
        .raw("GGUF")
        .number<uint32_t>(3)
        .number<uint64_t>(0)
        .number<uint64_t>(1)
        .string("name")
        .number<uint32_t>(test::kString)
        .number(length)
        .raw("0123456789")
        .str();
  };
  for (uint64_t length : {UINT64_MAX, uint64_t{11}, uint64_t{1} << 30, uint64_t{1} << 63}) {
    expect_refused(with_value_length(length), "name");
  }
  GgufFile::parse(as_bytes(with_value_length(10)), "x");
}

TEST(GgufCorpus, G5Keys) {
  GgufWriter w = tiny_llama();
  w.keys.emplace_back("", scalar(test::kU8, "x"));
  expect_refused(w, "empty name");
  w = tiny_llama();
  w.keys.emplace_back("llama.block_count", scalar(test::kU8, "x"));
  expect_refused(w, "duplicate key");
  w = tiny_llama();
  w.keys.emplace_back(std::string(65536, 'k'), scalar(test::kU8, "x"));
  expect_refused(w, "65536");
  w.keys.back().first.pop_back();
  EXPECT_EQ(refusal(w.build()), "");
}

TEST(GgufCorpus, G7ValueTypes) {
  for (uint32_t type : {13u, 255u, UINT32_MAX}) {
    expect_refused(tiny_llama().key("bad", Bytes().number(type).raw(std::string(64, '\0')).str()),
                   "bad");
    for (uint64_t count : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 60})
      expect_refused(tiny_llama().key("bad", array(type, count)), "bad");
  }
  expect_refused(tiny_llama().key("bad", array(test::kArray, 1, array(test::kU8, 1, "x"))),
                 "array of arrays");
  expect_refused(tiny_llama().key("bad", scalar(test::kBool, "\x02")), "bool of value 2");
}

TEST(GgufCorpus, G8ArrayCounts) {
  for (uint32_t type : {0u, 5u, 8u, 10u, 12u}) {
    for (uint64_t count : {uint64_t{1} << 63, (uint64_t{1} << 61) + 1, UINT64_MAX,
                           uint64_t{1} << 25, uint64_t{1} << 24}) {
      expect_refused(tiny_llama().key("bad", array(type, count)), "bad");
    }
  }
}

TEST(GgufCorpus, G9ManyEntriesAreLinear) {
  GgufWriter w;
  for (int i = 0; i < 65536; ++i) w.keys.emplace_back(std::to_string(i), scalar(test::kU8, "x"));
  EXPECT_EQ(refusal(w.build()).find("general.architecture") != std::string::npos, true);
  w.keys.emplace_back("one more", scalar(test::kU8, "x"));
  expect_refused(w, "key count");
  // 200,000 tensors without data: refused at the first hole, after a linear look at the table.
  Bytes table;
  table.raw("GGUF").number<uint32_t>(3).number<uint64_t>(200000).number<uint64_t>(0);
  for (int i = 0; i < 200000; ++i) {
    table.string(std::to_string(i))
        .number<uint32_t>(1)
        .number<uint64_t>(1)
        .number<uint32_t>(0)
        .number<uint64_t>(32);
  }
  std::clock_t start = std::clock();
  EXPECT_THROW(GgufFile::parse(as_bytes(table.str()), "x"), Error);
  EXPECT_LT(test::cpu_seconds(start), 20 * test::kCorpusSeconds);
}

TEST(GgufCorpus, G10Alignment) {
  for (uint32_t alignment : {0u, 1u, 4u, 13u, 1u << 21, 1u << 30, 1u << 31}) {
    expect_refused(tiny_llama().u32("general.alignment", alignment), "general.alignment");
  }
  expect_refused(tiny_llama().key("general.alignment",
                                  Bytes().number<uint32_t>(test::kI32).number<int32_t>(32).str()),
                 "must be u32");
  expect_refused(tiny_llama().text("general.alignment", "32"), "must be u32");
  GgufWriter w = tiny_llama();
  w.alignment = 64;
  EXPECT_EQ(refusal(w.u32("general.alignment", 64).build()), "");
}

TEST(GgufCorpus, G11Dimensions) {
  for (size_t count : {0, 5, 300}) {
    GgufWriter w = tiny_llama();
    w.tensor("output_norm.weight").dims.assign(count, 1);
    expect_refused(w, "output_norm.weight");
  }
  std::string bytes = tiny_llama().build();
  size_t at = bytes.find("output_norm.weight") + 18;
  std::memset(bytes.data() + at, 0xFF, 4);
  expect_refused(bytes, "4294967295 dimensions");
}

TEST(GgufCorpus, G12DimensionValues) {
  using Dims = std::vector<uint64_t>;
  for (const Dims& dims :
       {Dims{0}, Dims{UINT64_MAX}, Dims{uint64_t{1} << 63}, Dims{8, 0},
        Dims{uint64_t{1} << 42, uint64_t{1} << 42}, Dims{uint64_t{1} << 32, uint64_t{1} << 32},
        Dims{(uint64_t{1} << 61) + 1, 8}, Dims{uint64_t{1} << 31, uint64_t{1} << 31, 2, 2},
        Dims{(uint64_t{1} << 42) + 1}}) {
    GgufWriter w = tiny_llama();
    w.tensor("output_norm.weight").dims = dims;
    expect_refused(w, "output_norm.weight");
  }
  // Two tensors whose sizes wrap to a small sum.
  GgufWriter w = tiny_llama();
  w.tensors.push_back({"a", {(uint64_t{1} << 60) - 16}, 0, 0, -1});
  w.tensors.push_back({"b", {(uint64_t{1} << 60) - 16}, 0, 0, -1});
  expect_refused(w, "tensor a");
}

TEST(GgufCorpus, G13Types) {
  for (uint32_t type : {4u, 5u, 9u, 15u, 16u, 29u, 31u, 40u, 1000u, UINT32_MAX}) {
    GgufWriter w = tiny_llama();
    w.tensor("output_norm.weight").type = type;
    expect_refused(w, "output_norm.weight");
  }
  GgufWriter w = tiny_llama();
  w.tensor("output_norm.weight").type = 8;  // q8_0: rows of 8 are no whole block
  expect_refused(w, "no multiple of a q8_0 block");
}

TEST(GgufCorpus, G14Offsets) {
  auto with = [](const char* name, int64_t offset, const char* word) {
    GgufWriter w = tiny_llama();
    w.tensor(name).offset = offset;
    expect_refused(w, word);
  };
  with("output_norm.weight", 385, "not aligned");
  with("output_norm.weight", 352, "overlap");
  with("output_norm.weight", 416, "hole");
  with("output_norm.weight", 0, "overlap");
  with("output_norm.weight", int64_t{1} << 40, "hole");
  with("output_norm.weight", std::numeric_limits<int64_t>::max() - 31, "hole");
  GgufWriter w = tiny_llama();
  w.tail = "x";
  expect_refused(w, "follow the last tensor");
  w = tiny_llama();
  std::swap(w.tensors[0].offset, w.tensors[1].offset);
  w.tensors[0].offset = 384;
  w.tensors[1].offset = 0;
  expect_refused(w, "token_embd.weight");
  std::string bytes = tiny_llama().build();
  bytes.pop_back();
  expect_refused(bytes, "blk.0.ffn_down.weight");
}

TEST(GgufCorpus, G15EveryTruncation) {
  GgufWriter w = tiny_llama();
  w.key("tokenizer.ggml.tokens", array(test::kString, 12, [] {
          Bytes b;
          for (int i = 0; i < 12; ++i) b.string("t" + std::to_string(i));
          return b.str();
        }()));
  std::string whole = w.build();
  ASSERT_EQ(refusal(whole), "");
  for (size_t size = 0; size < whole.size(); ++size) {
    ASSERT_NE(refusal(whole.substr(0, size)), "") << "cut at " << size;
  }
}

TEST(GgufCorpus, G15EveryByteChangedNeverCrashes) {
  std::string whole = tiny_llama().build();
  GgufFile file = GgufFile::parse(as_bytes(whole), "x");
  int refused = 0;
  for (size_t at = 0; at < file.data_begin(); ++at) {
    for (uint8_t value : {0x00, 0x01, 0x7F, 0x80, 0xFF}) {
      std::string changed = whole;
      changed[at] = static_cast<char>(value);
      refused += refusal(changed).empty() ? 0 : 1;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(GgufCorpus, G16Tensors) {
  GgufWriter w = tiny_llama();
  w.f32_tensor("output_norm.weight", {8});
  expect_refused(w, "duplicate name");
  w = tiny_llama();
  w.f32_tensor("", {8});
  expect_refused(w, "empty name");
  w = tiny_llama();
  w.f32_tensor(std::string(64, 'n'), {8});
  expect_refused(w, "64, at most 63");
  w = tiny_llama();
  w.f32_tensor("an.extra.one", {8});
  EXPECT_EQ(refusal(w.build()), "") << "extra tensors are nobody's fault";
  std::vector<std::string> names;
  for (const auto& tensor : tiny_llama().tensors) names.push_back(tensor.name);
  for (const std::string& name : names) {
    w = tiny_llama();
    std::erase_if(w.tensors, [&](const auto& tensor) { return tensor.name == name; });
    expect_config_refused(w, name);
    w = tiny_llama();
    w.tensor(name).dims[0] += 8;
    w.tensor(name).bytes =
        w.tensor(name).bytes / (w.tensor(name).dims[0] - 8) * w.tensor(name).dims[0];
    expect_config_refused(w, name);
  }
}

TEST(GgufCorpus, G17Hyperparameters) {
  auto number = [](const char* name, std::vector<uint32_t> values) {
    for (uint32_t value : values) expect_config_refused(tiny_llama().u32(name, value), name);
    expect_config_refused(tiny_llama().text(name, "8"), name);
  };
  number("llama.block_count", {0, 513, 1u << 31});
  number("llama.context_length", {0, UINT32_MAX});
  number("llama.embedding_length", {0, UINT32_MAX, 1u << 31});
  number("llama.feed_forward_length", {0, UINT32_MAX});
  number("llama.attention.head_count", {0, 3, UINT32_MAX});
  number("llama.attention.head_count_kv", {0, 3, 1u << 31});
  number("llama.attention.key_length", {0, 5, 2048});
  number("llama.attention.value_length", {0, 2});
  number("llama.rope.dimension_count", {0, 1, 2, 3, 6, UINT32_MAX});
  number("llama.expert_count", {8});
  for (const char* name : {"llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"}) {
    for (float value : {0.0f, -1.0f, std::numeric_limits<float>::quiet_NaN(),
                        std::numeric_limits<float>::infinity()}) {
      expect_config_refused(tiny_llama().f32(name, value), name);
    }
    expect_config_refused(tiny_llama().u32(name, 1), name);
  }
  for (const char* name : {"llama.block_count", "llama.context_length", "llama.embedding_length",
                           "llama.feed_forward_length", "llama.attention.head_count",
                           "llama.attention.layer_norm_rms_epsilon", "general.architecture"}) {
    expect_config_refused(tiny_llama().without(name), name);
  }
  expect_config_refused(tiny_llama().text("general.architecture", "mamba"), "mamba");
  expect_config_refused(tiny_llama().text("llama.rope.scaling.type", "yarn"), "yarn");
  expect_config_refused(tiny_llama().text("llama.rope.scaling.type", "linear"),
                        "llama.rope.scaling.factor");
  GgufWriter w = tiny_llama();
  w.f32_tensor("rope_freqs.weight", {3});
  expect_config_refused(w, "rope_freqs.weight");
  // The vocabulary and the embedding table must agree.
  w = tiny_llama();
  w.key("tokenizer.ggml.tokens", array(test::kString, 1, Bytes().string("t").str()));
  expect_config_refused(w, "tokenizer.ggml.tokens");
}

TEST(GgufCorpus, G25NotARegularFile) {
  test::TempDir dir;
  EXPECT_THROW(GgufFile::open(dir.path()), Error);
  EXPECT_THROW(GgufFile::open("/dev/zero"), Error);
  EXPECT_THROW(GgufFile::open(dir.path() / "absent"), Error);
  Path fifo = dir.path() / "fifo";
  ASSERT_EQ(std::system(("mkfifo " + fifo.string()).c_str()), 0);
  EXPECT_THROW(GgufFile::open(fifo), Error);
  { std::ofstream empty(dir.path() / "empty"); }
  EXPECT_THROW(GgufFile::open(dir.path() / "empty"), Error);
}

}  // namespace
}  // namespace apud
