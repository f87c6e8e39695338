// libFuzzer target: any bytes as a document, through loader, chunker and anchors. The first byte
// chooses the format; of a zipped one the bytes become a part's XML more often than the archive,
// since byte flips in an archive die at its checksums. Loaders never throw for what is in a file;
// what they return is valid UTF-8 and its chunks lie inside it.
#include <array>
#include <cstdlib>

#include "base/utf8.h"
#include "rag/chunker.h"
#include "rag/loader.h"
#include "tests/support/zip.h"

namespace {

std::string zipped(int format, std::string_view part) {
  const std::string xml(part);
  using apud::test::make_zip;
  switch (format) {
    case 0:
      return make_zip({{"word/document.xml", xml}, {"word/styles.xml", xml}}, false);
    case 1:
      return make_zip(
          {{"xl/workbook.xml", "<workbook><sheets><sheet name='s' id='r'/></sheets></workbook>"},
           {"xl/_rels/workbook.xml.rels",
            "<Relationships><Relationship Id='r' Target='worksheets/sheet1.xml'/></Relationships>"},
           {"xl/sharedStrings.xml", xml},
           {"xl/worksheets/sheet1.xml", xml}},
          false);
    case 2:
      return make_zip(
          {{"ppt/presentation.xml",
            "<presentation><sldIdLst><sldId id='r'/></sldIdLst></presentation>"},
           {"ppt/_rels/presentation.xml.rels",
            "<Relationships><Relationship Id='r' Target='slides/slide1.xml'/></Relationships>"},
           {"ppt/slides/slide1.xml", xml}},
          false);
    case 3:
      return make_zip(
          {{"mimetype", "application/vnd.oasis.opendocument.text"}, {"content.xml", xml}}, false);
    default:
      return make_zip(
          {{"mimetype", "application/epub+zip"},
           {"META-INF/container.xml",
            "<container><rootfiles><rootfile full-path='p.opf'/></rootfiles></container>"},
           {"p.opf",
            "<package><manifest><item id='a' href='a.xhtml'/></manifest>"
            "<spine><itemref idref='a'/></spine></package>"},
           {"a.xhtml", xml}},
          false);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::array kNames = {"a.docx", "a.xlsx", "a.pptx",  "a.odt", "a.epub",
                                 "a.html", "a.pdf",  "a.md",    "a.eml", "a.mbox",
                                 "a.csv",  "a.json", "a.ipynb", "a.txt", "a.cpp"};
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t format = data[0] % kNames.size();
  constexpr size_t kZipFormats = 5;
  if (format < kZipFormats && data[0] < 192) bytes = zipped(static_cast<int>(format), bytes);
  apud::Document document = apud::load_bytes(kNames[format], bytes);
  if (!apud::utf8_valid(document.text)) std::abort();
  apud::Chunks chunks = apud::chunk_document(
      document, {}, [](std::string_view text) { return static_cast<int>(text.size() / 4) + 1; });
  for (const apud::Chunk& chunk : chunks.chunks) {
    if (chunk.begin > chunk.end || chunk.end > document.text.size()) std::abort();
    apud::embedded_text(document, chunks, chunk);
    apud::anchor_at(document, chunk.begin);
  }
  return 0;
}
