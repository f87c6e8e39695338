// Jupyter notebooks (nbformat 4): Markdown cells as Markdown, code cells as code with their plain
// text output. A cell is a page.
#include <nlohmann/json.hpp>

#include "rag/loaders/builder.h"
#include "rag/loaders/encoding.h"
#include "rag/loaders/formats.h"

namespace apud {

namespace {

constexpr const char* kNotebookLoader = loader_version("notebook");
constexpr size_t kMaxBytes = 128u << 20;  // the parsed form takes several times that
constexpr size_t kMaxOutput = 2000;       // of one cell, characters kept
constexpr int kMaxCellNesting = 128;

using nlohmann::json;

bool shallow(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxCellNesting) return false;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return true;
}

// nbformat: a string, or an array of lines.
std::string joined(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string out;
  if (value.is_array()) {
    for (const json& line : value) {
      if (line.is_string()) out += line.get_ref<const std::string&>();
    }
  }
  return out;
}

const json& member(const json& object, const char* name) {
  static const json kNone;
  if (!object.is_object()) return kNone;
  auto found = object.find(name);
  return found == object.end() ? kNone : *found;
}

}  // namespace

Document load_notebook(std::string_view bytes) {
  DecodedText decoded = decode_text(bytes);
  if (decoded.binary)
    return skipped_document(kNotebookLoader, LoadStatus::kBinary, "binary content");
  if (bytes.size() > kMaxBytes)
    return skipped_document(kNotebookLoader, LoadStatus::kLimit, "notebook larger than 128 MiB");
  if (!shallow(decoded.clean.text))
    return skipped_document(kNotebookLoader, LoadStatus::kMalformed, "JSON nested deeper than 128");
  json notebook = json::parse(decoded.clean.text, nullptr, false);
  const json& cells = member(notebook, "cells");
  if (!cells.is_array())
    return skipped_document(kNotebookLoader, LoadStatus::kMalformed,
                            "no notebook: \"cells\" is missing");
  DocumentBuilder builder(kNotebookLoader);
  builder.hidden(decoded.clean.hidden);
  int number = 0;
  for (const json& cell : cells) {
    ++number;
    std::string name = "cell " + std::to_string(number);
    const json& type = member(cell, "cell_type");
    std::string source = joined(member(cell, "source"));
    if (type == "markdown") {
      Document part = load_markdown(source);
      for (const Block& block : part.blocks) {
        builder.place(0, 0, name);
        builder.block(block.kind,
                      std::string_view(part.text).substr(block.begin, block.end - block.begin),
                      block.level);
      }
      continue;
    }
    builder.place(0, 0, name);
    builder.block(BlockKind::kCode, source);
    const json& outputs = member(cell, "outputs");
    if (type != "code" || !outputs.is_array()) continue;
    for (const json& output : outputs) {
      std::string text = joined(member(output, "text"));
      if (text.empty()) text = joined(member(member(output, "data"), "text/plain"));
      size_t cut = std::min(text.size(), kMaxOutput);
      while (cut < text.size() && cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80)
        --cut;
      builder.place(0, 0, name);
      builder.block(BlockKind::kCode, std::string_view(text).substr(0, cut));
    }
  }
  return builder.finish();
}

}  // namespace apud
