// Plain text, reStructuredText and AsciiDoc: the text itself, with headings where a line is
// underlined or marked.
#include <algorithm>
#include <array>

#include "rag/loaders/builder.h"
#include "rag/loaders/encoding.h"
#include "rag/loaders/formats.h"

namespace apud {

namespace {

constexpr const char* kTextLoader = loader_version("text");
// Length of a line that is one punctuation character repeated (an underline), else 0.
size_t underline_length(std::string_view line) {
  if (line.size() < 3 || std::string_view("=-~^#*+\"'`:.").find(line[0]) == std::string_view::npos)
    return 0;
  return line.find_first_not_of(line[0]) == std::string_view::npos ? line.size() : 0;
}

size_t letters(std::string_view line) {
  size_t count = 0;
  for (char c : line) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

}  // namespace

// Walks the lines once. A heading is a short line with an underline below it of about its length
// (at least 3/4 of its characters and 3) and an empty line, a line of the same kind or nothing
// before it.
Document load_text(std::string_view bytes, std::string_view extension) {
  DecodedText decoded = decode_text(bytes);
  if (decoded.binary) return skipped_document(kTextLoader, LoadStatus::kBinary, "binary content");
  Document document;
  document.loader = kTextLoader;
  document.text = std::move(decoded.clean.text);
  document.replaced = decoded.clean.replaced;
  document.hidden_removed = decoded.clean.hidden;
  document.data_runs = shorten_data(document.text);
  const std::string& text = document.text;
  const bool asciidoc = extension == "adoc" || extension == "asciidoc" || extension == "asc";

  std::string styles;               // underline characters in order of appearance: their levels
  size_t open = std::string::npos;  // start of the running paragraph
  size_t last_end = 0;
  int line = 1;
  auto close = [&] {
    if (open != std::string::npos)
      document.blocks.push_back({open, last_end, BlockKind::kParagraph, 0});
    open = std::string::npos;
  };
  document.anchors.push_back({0, 1, 0, {}});
  for (size_t begin = 0; begin < text.size(); ++line) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    if (begin - document.anchors.back().offset > 65536)
      document.anchors.push_back({begin, line, 0, {}});
    std::string_view here(text.data() + begin, end - begin);
    size_t visible = here.find_first_not_of(" \t");
    if (visible == std::string_view::npos) {
      close();
    } else {
      bool heading = false;
      int level = 0;
      size_t next_begin = end + 1;
      if (open == std::string::npos && here.size() <= 160 && next_begin < text.size()) {
        size_t next_end = std::min(text.find('\n', next_begin), text.size());
        std::string_view next(text.data() + next_begin, next_end - next_begin);
        size_t under = underline_length(next);
        if (under >= 3 && under * 4 >= letters(here) * 3 && underline_length(here) == 0) {
          heading = true;
          size_t style = styles.find(next[0]);
          if (style == std::string::npos) {
            style = styles.size();
            styles += next[0];
          }
          level = static_cast<int>(style) + 1;
        }
      }
      if (!heading && asciidoc && here[0] == '=') {
        size_t depth = here.find_first_not_of('=');
        heading = depth != std::string_view::npos && depth <= 6 && here[depth] == ' ';
        level = static_cast<int>(depth);
      }
      if (heading) {
        close();
        document.blocks.push_back({begin + visible, end, BlockKind::kHeading, level});
      } else if (underline_length(here) == 0 || open != std::string::npos) {
        if (open == std::string::npos) open = begin;
        last_end = end;
      }
    }
    begin = end + 1;
  }
  close();
  if (extension == "log" || document.blocks.empty()) document.title.clear();
  finish_document(document);
  return document;
}

}  // namespace apud
