// safetensors and Hugging Face folders: the hostile corpus S1-S5, and configurations refused by
// name.
#include "models/safetensors.h"

#include <gtest/gtest.h>

#include <ctime>
#include <fstream>

#include "base/error.h"
#include "models/arch/arch.h"
#include "models/arch/json.h"
#include "tests/support/corpus.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::Bytes;

std::string file_of(std::string header, size_t data_bytes, bool pad = true) {
  while (pad && header.size() % 8 != 0) header += ' ';
  return Bytes()
      .number<uint64_t>(header.size())
      .raw(header)
      .raw(std::string(data_bytes, '\0'))
      .str();
}

std::string refusal(const std::string& bytes) {
  // Exactly as long as the file, on the heap: reading past its end is seen by ASan.
  std::vector<char> exact(bytes.begin(), bytes.end());
  std::string message = test::refusal_of(
      [&] { SafeTensorsFile::parse(std::as_bytes(std::span(exact)), "test.safetensors"); });
  if (!message.empty()) {
    EXPECT_NE(message.find("(byte "), std::string::npos) << message;
  }
  return message;
}
void expect_refused(const std::string& bytes, const std::string& word) {
  std::string message = refusal(bytes);
  EXPECT_NE(message.find(word), std::string::npos) << word << " not in: " << message;
}

const char* kGood =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("ids":{"dtype":"I64","shape":[1],"data_offsets":[24,32]},"b":{"dtype":"BF16","shape":[],"data_offsets":[32,34]}})";

TEST(SafeTensors, Reads) {
  std::string bytes = file_of(kGood, 34);
  auto file = SafeTensorsFile::parse(test::as_bytes(bytes), "x");
  ASSERT_EQ(file.tensors().size(), 3u);
  const SafeTensor* a = file.tensor("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->view.rows, 2);
  EXPECT_EQ(a->view.cols, 3);
  EXPECT_EQ(a->view.type, WeightType::kF32);
  EXPECT_EQ(a->view.data, test::as_bytes(bytes).data() + file.data_begin());
  EXPECT_EQ(file.tensor("b")->view.type, WeightType::kBF16);
  EXPECT_EQ(file.tensor("ids")->view.data, nullptr);
  EXPECT_EQ(file.tensor("c"), nullptr);
}

TEST(SafeTensorsCorpus, S1Header) {
  for (size_t size = 0; size < 8; ++size)
    expect_refused(file_of(kGood, 34).substr(0, size), "header length");
  auto with_length = [](uint64_t length) {
    return Bytes().number(length).raw("{} 01234567").str();
  };
  for (uint64_t length : {UINT64_MAX, uint64_t{1} << 63, uint64_t{100'000'001}, uint64_t{12}}) {
    expect_refused(with_length(length), "header length");
  }
  expect_refused(with_length(0), "does not begin with {");
  expect_refused(file_of("[]", 0), "does not begin with {");
  expect_refused(file_of(" {}", 0), "does not begin with {");
  expect_refused(file_of("{\"a\xFF\":1}", 0), "not JSON");
  expect_refused(file_of("{nonsense}", 0), "not JSON");
  expect_refused(file_of("{} {}", 0), "not JSON");
  expect_refused(file_of("{", 0), "not JSON");
  EXPECT_EQ(refusal(file_of("{}", 0)), "");
}

TEST(SafeTensorsCorpus, S1WrongShapesOfHeader) {
  for (const char* header :
       {R"({"a":1})", R"({"a":[]})", R"({"a":null})",
        R"({"a":{"dtype":3,"shape":[],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})",
        R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})",
        R"({"a":{"dtype":"F32","shape":[1]}})", R"({"a":{"dtype":"F32","data_offsets":[0,4]}})",
        R"({"a":{"shape":[1],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})",
        R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})",
        R"({"__metadata__":{"x":1},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}})"}) {
    EXPECT_NE(refusal(file_of(header, 4)), "") << header;
  }
}

TEST(SafeTensorsCorpus, S2Offsets) {
  auto one = [](const std::string& shape, const std::string& offsets, size_t data = 16) {
    return file_of(
        R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}", data);
  };
  EXPECT_EQ(refusal(one("[4]", "[0,16]")), "");
  expect_refused(one("[4]", "[16,0]"), "reversed");
  expect_refused(one("[4]", "[4,20]"), "hole");
  expect_refused(one("[4]", "[0,20]"), "data has 16");
  expect_refused(one("[3]", "[0,16]"), "16 bytes for 3");
  expect_refused(one("[3]", "[0,12]"), "belong to no tensor");
  expect_refused(one("[0]", "[0,0]"), "dimension 0");
  expect_refused(one("[4611686018427387904,4]", "[0,16]"), "dimension");
  expect_refused(one("[18446744073709551615,2]", "[0,16]"), "dimension");
  expect_refused(one("[4294967296,4294967296]", "[0,0]"), "dimension");
  auto two = [](const std::string& first, const std::string& second) {
    return file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)" + first +
                       R"(},"b":{"dtype":"F32","shape":[2],"data_offsets":)" + second + "}}",
                   16);
  };
  EXPECT_EQ(refusal(two("[8,16]", "[0,8]")), "");
  expect_refused(two("[0,8]", "[4,12]"), "overlap");
  expect_refused(two("[0,8]", "[0,8]"), "overlap");
  std::string crooked =
      file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} )", 4, false);
  expect_refused(crooked, "aligned");
}

TEST(SafeTensorsCorpus, S3DuplicateKeys) {
  std::string tensor = R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  expect_refused(file_of(R"({"a":)" + tensor + R"(,"a":)" + tensor + "}", 4), "duplicate key a");
  expect_refused(
      file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4),
      "duplicate key dtype");
}

TEST(SafeTensorsCorpus, S4DeepNesting) {
  std::string deep(1'000'000, '[');
  EXPECT_NE(refusal(file_of(R"({"a":)" + deep + std::string(1'000'000, ']') + "}", 0)), "");
  EXPECT_NE(refusal(file_of(R"({"a":{"dtype":"F32","shape":)" + deep, 0)), "");
  // The same for the configuration files, which are read as a whole.
  EXPECT_THROW(parse_json("{\"a\":" + deep + std::string(1'000'000, ']') + "}", "x"), Error);
  EXPECT_THROW(parse_json(R"({"a":1,"a":2})", "x"), Error);
  EXPECT_THROW(parse_json(R"({"a":{"b":1,"b":2}})", "x"), Error);
  EXPECT_EQ(parse_json(R"({"a":{"b":1},"b":2})", "x")["b"], 2);
}

TEST(SafeTensorsCorpus, EveryTruncationAndChangedByte) {
  std::string whole = file_of(kGood, 34);
  for (size_t size = 0; size < whole.size(); ++size)
    ASSERT_NE(refusal(whole.substr(0, size)), "") << size;
  int refused = 0;
  for (size_t at = 0; at < whole.size() - 34; ++at) {
    for (char value : {'\0', '9', '"', '}', '\xFF'}) {
      std::string changed = whole;
      changed[at] = value;
      refused += refusal(changed).empty() ? 0 : 1;
    }
  }
  EXPECT_GT(refused, 500);
}

class Folder : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((dir_.path() / name).parent_path());
    std::ofstream(dir_.path() / name, std::ios::binary) << text;
  }
  std::string refused(const std::function<void()>& body) {
    try {
      body();
    } catch (const Error& e) {
      EXPECT_TRUE(e.kind() == ErrorKind::kBadData || e.kind() == ErrorKind::kNoInput) << e.what();
      return e.what();
    }
    return "";
  }
  test::TempDir dir_;
};

TEST_F(Folder, S5ShardsStayInTheFolder) {
  std::string shard = file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4);
  write("s-1.safetensors", shard);
  auto index = [&](const std::string& name) {
    write("model.safetensors.index.json", R"({"weight_map":{"a":")" + name + "\"}}");
    return refused([&] { FolderTensors(dir_.path(), {}); });
  };
  EXPECT_EQ(index("s-1.safetensors"), "");
  EXPECT_NE(index("../s-1.safetensors").find("plain shard name"), std::string::npos);
  EXPECT_NE(index("/etc/s.safetensors").find("plain shard name"), std::string::npos);
  EXPECT_NE(index("x/s-1.safetensors").find("plain shard name"), std::string::npos);
  EXPECT_NE(index("").find("plain shard name"), std::string::npos);
  EXPECT_NE(index("s-2.safetensors"), "");
  write("model.safetensors.index.json", R"({"weight_map":{"b":"s-1.safetensors"}})");
  EXPECT_NE(refused([&] { FolderTensors(dir_.path(), {}); }).find("is in no shard"),
            std::string::npos);
}

TEST_F(Folder, QuantisedWeightsLieInAGgufWithTheFoldersNames) {
  test::GgufWriter gguf;
  gguf.text("general.architecture", "bert");
  gguf.tensors.push_back({"a.weight", {64, 3}, 2, 3 * 36, -1});  // Q4_0
  gguf.f32_tensor("a.bias", {3});
  write("model.gguf", gguf.build());
  // What an earlier conversion left beside it is not read.
  write("model.safetensors",
        file_of(R"({"a.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4));
  FolderTensors tensors(dir_.path(), {});
  auto weight = tensors.find("a.weight"), bias = tensors.find("a.bias");
  ASSERT_TRUE(weight && bias);
  EXPECT_EQ(weight->type, WeightType::kQ4_0);
  EXPECT_EQ(weight->rows, 3);
  EXPECT_EQ(weight->cols, 64);
  EXPECT_EQ(bias->rows, 1);
  EXPECT_EQ(bias->cols, 3);
  ASSERT_EQ(tensors.files().size(), 1u);
  EXPECT_EQ(tensors.files()[0].bytes.size(),
            std::filesystem::file_size(dir_.path() / "model.gguf"));
  EXPECT_LT(tensors.files()[0].data_begin, tensors.files()[0].bytes.size());
  write("model.gguf", gguf.build().substr(0, 200));
  EXPECT_NE(refused([&] { FolderTensors(dir_.path(), {}); }).find("model.gguf: "),
            std::string::npos);
}

TEST_F(Folder, ConfigurationsAreRefusedByName) {
  const std::string bert =
      R"({"model_type":"bert","num_hidden_layers":1,"hidden_size":8,"intermediate_size":16,)"
      R"("num_attention_heads":2,"vocab_size":12,"max_position_embeddings":64,)"
      R"("layer_norm_eps":1e-12,"hidden_act":"gelu"})";
  write(
      "modules.json",
      R"([{"type":"x.Transformer","path":""},{"type":"x.Pooling","path":"1_Pooling"},{"type":"x.Normalize","path":"n"}])");
  write("1_Pooling/config.json", R"({"pooling_mode_mean_tokens":true})");
  auto with = [&](const std::string& from, const std::string& to) {
    std::string text = bert;
    size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    write("config.json", text);
    return refused([&] { config_from_folder(dir_.path(), 0); });
  };
  EXPECT_EQ(with("gelu", "gelu"), "");
  for (auto [from, to, name] : std::vector<std::array<const char*, 3>>{
           {"\"bert\"", "\"mamba\"", "model_type"},
           {"\"num_hidden_layers\":1", "\"num_hidden_layers\":0", "num_hidden_layers"},
           {"\"num_hidden_layers\":1", "\"num_hidden_layers\":513", "num_hidden_layers"},
           {"\"num_hidden_layers\":1", "\"num_hidden_layers\":1.5", "num_hidden_layers"},
           {"\"hidden_size\":8", "\"hidden_size\":-8", "hidden_size"},
           {"\"hidden_size\":8", "\"hidden_size\":9", "num_attention_heads"},
           {"\"hidden_size\":8", "\"hidden_size\":18446744073709551615", "hidden_size"},
           {"\"vocab_size\":12", "\"vocab_size\":\"12\"", "vocab_size"},
           {"\"vocab_size\":12", "\"vocab_size\":null", "vocab_size"},
           {"1e-12", "0", "layer_norm_eps"},
           {"1e-12", "-1", "layer_norm_eps"},
           {"\"gelu\"", "\"relu\"", "hidden_act"}}) {
    EXPECT_NE(with(from, to).find(name), std::string::npos) << to;
  }
  with("gelu", "gelu");
  write("1_Pooling/config.json", R"({"pooling_mode_max_tokens":true})");
  EXPECT_NE(refused([&] { config_from_folder(dir_.path(), 0); }).find("pooling_mode_max_tokens"),
            std::string::npos);
  write("1_Pooling/config.json", R"({"pooling_mode_mean_tokens":true})");
  write("modules.json", R"([{"type":"x.Pooling","path":"../other"}])");
  EXPECT_NE(refused([&] { config_from_folder(dir_.path(), 0); }).find("plain folder name"),
            std::string::npos);
  write("modules.json", R"([{"type":"x.Magic","path":"m"}])");
  EXPECT_NE(refused([&] { config_from_folder(dir_.path(), 0); }).find("Magic"), std::string::npos);
}

}  // namespace
}  // namespace apud
