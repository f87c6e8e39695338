// Writes the first inputs of the fuzz targets: fuzz_seeds FOLDER makes FOLDER/gguf,
// FOLDER/safetensors, FOLDER/template and FOLDER/tokenizer.
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
  write(folder / "template" / "chatml",
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ bos_token }}{% "
        "endif %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m['content'] | trim }}{% endfor %}"
        "{% if add_generation_prompt and not false %}{{- '<|im_start|>assistant' -}}{% endif %}");
  write(folder / "template" / "macro",
        "{% macro f(x, y=1) %}{{ x ~ y }}{% endmacro %}{% set ns = namespace(n=0) %}"
        "{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ f(ns.n) }}"
        "{{ messages[1:] | map(attribute='role') | join(', ') }}{{ tools | tojson(indent=2) }}"
        "{{ [1, 2.5, none, {'a': true}] | length }}{{ raise_exception('x') }}");
  write(
      folder / "tokenizer" / "json",
      std::string("\0\0\4", 3) +
          R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},"pre_tokenizer":)"
          R"({"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"},)"
          R"("added_tokens":[{"id":3,"content":"<s>","special":true}]})" +
          "abab");
  auto piece = [](const std::string& text, char kind) {
    std::string inner = std::string("\n") + static_cast<char>(text.size()) + text;
    inner += std::string("\x15\0\0\x80\xBF\x18", 6) + kind;
    return std::string("\n") + static_cast<char>(inner.size()) + inner;
  };
  std::string pieces = piece("<unk>", 2) + piece("a", 1) + piece("ab", 1) + piece("b", 4);
  write(folder / "tokenizer" / "bpe",
        std::string("\1\0\3", 3) + pieces + "\x12\x02\x18\x02" + "aab");
  write(folder / "tokenizer" / "unigram",
        std::string("\3\0\3", 3) + pieces + "\x12\x02\x18\x01" + "aab");
}
