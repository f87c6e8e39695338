// Writes the first inputs of the fuzz targets: fuzz_seeds FOLDER makes FOLDER/gguf and
// FOLDER/safetensors.
#include <filesystem>
#include <fstream>

#include "tests/support/gguf_writer.h"

namespace {
void write(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}
}  // namespace

int main(int argc, char** argv) {
  using apud::test::Bytes;
  if (argc != 2) return 2;
  std::filesystem::path folder = argv[1];
  write(folder / "gguf" / "llama", apud::test::tiny_llama().build());
  apud::test::GgufWriter keys;
  keys.text("general.architecture", "gemma3").u32("general.alignment", 64);
  keys.key("numbers", Bytes()
                          .number<uint32_t>(apud::test::kArray)
                          .number<uint32_t>(apud::test::kI32)
                          .number<uint64_t>(2)
                          .number<uint64_t>(7)
                          .str());
  write(folder / "gguf" / "keys", keys.build());
  std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  while (header.size() % 8 != 0) header += ' ';
  write(folder / "safetensors" / "one",
        Bytes().number<uint64_t>(header.size()).raw(header).raw("12345678").str());
  write(folder / "safetensors" / "config",
        R"({"model_type":"bert","hidden_size":8,"x":[1,{"y":null}]})");
}
