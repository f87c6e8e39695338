// Source code: the text itself, cut where an empty line is followed by a line without indentation
// (functions and classes in nearly all languages). The chunker joins small neighbours.
#include <algorithm>

#include "rag/loaders/builder.h"
#include "rag/loaders/encoding.h"
#include "rag/loaders/formats.h"

namespace apud {

namespace {
constexpr const char* kCodeLoader = loader_version("code");
}  // namespace

Document load_code(std::string_view bytes) {
  DecodedText decoded = decode_text(bytes);
  if (decoded.binary) return skipped_document(kCodeLoader, LoadStatus::kBinary, "binary content");
  Document document;
  document.loader = kCodeLoader;
  document.text = std::move(decoded.clean.text);
  document.replaced = decoded.clean.replaced;
  document.hidden_removed = decoded.clean.hidden;
  document.data_runs = shorten_data(document.text);
  const std::string& text = document.text;
  document.anchors.push_back({0, 1, 0, {}});
  size_t open = std::string::npos, last_end = 0;
  bool blank = true;
  int line = 1;
  auto close = [&] {
    if (open != std::string::npos) document.blocks.push_back({open, last_end, BlockKind::kCode, 0});
    open = std::string::npos;
  };
  for (size_t begin = 0; begin < text.size(); ++line) {
    size_t end = std::min(text.find('\n', begin), text.size());
    if (begin - document.anchors.back().offset > 65536)
      document.anchors.push_back({begin, line, 0, {}});
    size_t visible = text.find_first_not_of(" \t", begin);
    if (visible >= end) {
      blank = true;
    } else {
      char first = text[begin];
      // A closing bracket at the margin ends what is open.
      bool starts = first != ' ' && first != '\t' && first != '}' && first != ')' && first != ']' &&
                    first != '#';
      if (blank && (starts || first == '#')) close();
      if (open == std::string::npos) open = begin;
      last_end = end;
      blank = false;
    }
    begin = end + 1;
  }
  close();
  finish_document(document);
  return document;
}

}  // namespace apud
