// Writes the first inputs of the fuzz targets: fuzz_seeds FOLDER makes one folder in it for each,
// FOLDER/gguf for gguf_fuzz and so on.
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

  // The first byte is the format of document_fuzz's list; from 192 on the bytes are the archive.
  auto document = [&](const std::string& name, char format, const std::string& bytes) {
    write(folder / "document" / name, format + bytes);
  };
  const std::string run = "<w:r><w:t>text one. Text two.</w:t></w:r>";
  document("docx", 0,
           "<w:document xmlns:w='w'><w:body><w:p><w:pPr><w:pStyle w:val='Heading1'/></w:pPr>" +
               run + "</w:p><w:tbl><w:tr><w:tc><w:p>" + run +
               "</w:p></w:tc></w:tr></w:tbl></w:body></w:document>");
  document("xlsx", 1,
           "<worksheet><sheetData><row r='1'><c r='A1' t='s'><v>0</v></c><c r='B1' t='inlineStr'>"
           "<is><t>x</t></is></c></row></sheetData></worksheet>");
  document("pptx", 2,
           "<p:sld xmlns:p='p' xmlns:a='a'><p:cSld><p:spTree><p:sp><p:txBody><a:p><a:r><a:t>t"
           "</a:t></a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>");
  document("odt", 3,
           "<office:document-content xmlns:office='o' xmlns:text='t'><office:body><office:text>"
           "<text:h text:outline-level='1'>H</text:h><text:p>p<text:s text:c='3'/>q</text:p>"
           "</office:text></office:body></office:document-content>");
  document("xhtml", 4, "<html><body><h1>H</h1><p>p</p><pre>c</pre></body></html>");
  document("html", 5,
           "<!doctype html><title>t</title><meta charset=gbk><main><h2>H</h2><ul><li>a<table><tr>"
           "<th>x<td>y</table></ul><p hidden>z<p>\xC4\xE3</main>");
  document("pdf", 6,
           "%PDF-1.4\nHead\n\nFirst line of a para-\ngraph.\n\f2\n\nHead\n\na   b   c\n\f");
  document("md", 7,
           "---\ntitle: t\n---\n# H\n\n- a\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```c\nx\n```\n");
  document("eml", 8,
           "Subject: =?utf-8?B?5L2g?=\nContent-Type: multipart/mixed; boundary=b\n\n--b\n"
           "Content-Transfer-Encoding: quoted-printable\n\na=3Db\n--b--\n");
  document("mbox", 9, "From a\nSubject: s\n\nbody\n\nFrom b\nSubject: t\n\nbody\n");
  document("csv", 10, "a,b\n\"x\"\"y\",2\n");
  document("json", 11, R"([{"a":1,"b":["x",null]},{"a":2}])");
  document("ipynb", 12,
           R"({"nbformat":4,"cells":[{"cell_type":"markdown","source":["# H"]},)"
           R"({"cell_type":"code","source":"x=1","outputs":[]}]})");
  document("txt", 13, "\xFF\xFE" + std::string("a\0b\0", 4));
  document("code", 14, "// c\nint f() {\n  return 1;\n}\n");

  // Checksums of the heads are put right by the target.
  const std::string zeros(32, '0');
  write(folder / "cache_file" / "kv", Bytes()
                                          .raw(std::string(1, '\0') + "APUDKV1\n")
                                          .number<uint32_t>(1)
                                          .number<uint32_t>(0)
                                          .number<uint32_t>(2)
                                          .number<uint32_t>(0)
                                          .number<uint64_t>(0)
                                          .raw(zeros + zeros)
                                          .number<uint32_t>(5)
                                          .raw("t\n")
                                          .number<uint64_t>(0)
                                          .number<uint64_t>(0)
                                          .str());
  write(folder / "cache_file" / "index", Bytes()
                                             .raw("\1APUDVEC2")
                                             .number<uint32_t>(0x01020304)
                                             .number<uint32_t>(8)
                                             .number<int64_t>(1)
                                             .number<int64_t>(7)
                                             .raw(zeros + zeros)
                                             .number<uint64_t>(0)
                                             .number<uint64_t>(0)
                                             .number<uint64_t>(0)
                                             .number<uint32_t>(1)
                                             .number<uint32_t>(0)
                                             .number<int64_t>(0)
                                             .number<uint64_t>(0)
                                             .raw(std::string(8 + 8 + 16, '\1'))
                                             .str());
}
