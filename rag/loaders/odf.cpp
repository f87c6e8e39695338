// OpenDocument text, spreadsheets and presentations: content.xml. Source: OASIS ODF 1.3 part 3.
#include <charconv>

#include "rag/loaders/archive.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/formats.h"
#include "rag/loaders/rows.h"

namespace apud {

namespace {

constexpr const char* kOdfLoader = loader_version("odf");
constexpr int kMaxRepeat = 64;  // repeated cells and spaces that are written out

int repeat_of(std::string_view text) {
  int value = 1;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value < 1 ? 1 : value > kMaxRepeat ? kMaxRepeat : value;
}

class OpenDocument {
 public:
  explicit OpenDocument(DocumentBuilder& builder) : builder_(builder) {}

  void body(const pugi::xml_node& node, bool list) {
    for (const pugi::xml_node& child : node.children()) {
      std::string_view name = local_name(child.name());
      if (name == "h") {
        std::string content;
        text(child, content);
        place();
        builder_.heading(std::min(9, repeat_of(local_attribute(child, "outline-level"))), content);
      } else if (name == "p") {
        std::string content;
        text(child, content);
        place();
        bool item = list && content.find_first_not_of(" \t\n") != std::string::npos;
        builder_.block(item ? BlockKind::kListItem : BlockKind::kParagraph,
                       item ? "- " + content : content);
      } else if (name == "list") {
        body(child, true);
      } else if (name == "table") {
        table(child);
      } else if (name == "page") {  // a slide
        ++page_;
        body(child, false);
      } else if (name != "tracked-changes" && name != "notes" && name != "forms") {
        body(child, list);
      }
    }
  }

 private:
  void place() { builder_.place(0, page_, member_); }

  void text(const pugi::xml_node& node, std::string& out) {
    for (const pugi::xml_node& child : node.children()) {
      if (child.type() == pugi::node_pcdata || child.type() == pugi::node_cdata) {
        out += child.value();
        continue;
      }
      std::string_view name = local_name(child.name());
      if (name == "s") {
        out.append(static_cast<size_t>(repeat_of(local_attribute(child, "c"))), ' ');
      } else if (name == "tab") {
        out += '\t';
      } else if (name == "line-break") {
        out += '\n';
      } else if (name != "note" && name != "annotation" && name != "tracked-changes") {
        text(child, out);
      }
    }
  }

  void cell_text(const pugi::xml_node& node, std::string& out) {
    for (const pugi::xml_node& child : node.children()) {
      if (local_name(child.name()) == "p" || local_name(child.name()) == "h") {
        if (!out.empty()) out += ' ';
        text(child, out);
      } else if (local_name(child.name()) != "annotation") {
        cell_text(child, out);
      }
    }
  }

  void rows(const pugi::xml_node& node, RowWriter& writer, int& line) {
    for (const pugi::xml_node& row : node.children()) {
      std::string_view name = local_name(row.name());
      if (name != "table-row") {
        if (name == "table-header-rows" || name == "table-rows" || name == "table-row-group")
          rows(row, writer, line);
        continue;
      }
      ++line;
      std::vector<std::string> cells;
      for (const pugi::xml_node& cell : row.children()) {
        std::string content;
        cell_text(cell, content);
        int repeat = content.empty() && !cell.next_sibling()
                         ? 1
                         : repeat_of(local_attribute(cell, "number-columns-repeated"));
        for (int i = 0; i < repeat && cells.size() < 4096; ++i) cells.push_back(content);
      }
      while (!cells.empty() && cells.back().empty()) cells.pop_back();
      writer.row(cells, {0, member_.empty() ? 0 : line, page_, member_});
      int skipped = 0;
      std::string_view repeated = local_attribute(row, "number-rows-repeated");
      std::from_chars(repeated.data(), repeated.data() + repeated.size(), skipped);
      if (skipped > 1 && skipped < (1 << 24)) line += skipped - 1;
    }
  }

  void table(const pugi::xml_node& node) {
    // Sheets are tables of the spreadsheet itself; their names are their headings.
    bool sheet = local_name(node.parent().name()) == "spreadsheet";
    if (sheet) {
      member_ = local_attribute(node, "name");
      place();
      builder_.heading(1, member_);
    }
    RowWriter writer(builder_, sheet ? 2 : kLeastNames);
    int line = 0;
    rows(node, writer, line);
    member_.clear();
  }

  DocumentBuilder& builder_;
  int page_ = 0;
  std::string member_;
};

}  // namespace

Document load_odf(std::string_view bytes, const LoadOptions& options) {
  Parts parts = read_parts(
      bytes,
      [](std::string_view name) {
        return name == "content.xml" || name == "meta.xml" || name == "META-INF/manifest.xml";
      },
      options);
  if (parts.status != LoadStatus::kOk)
    return skipped_document(kOdfLoader, parts.status, parts.reason);
  const std::string* manifest = parts.find("META-INF/manifest.xml");
  if (manifest && manifest->find("encryption-data") != std::string::npos) {
    return skipped_document(kOdfLoader, LoadStatus::kEncrypted, "encrypted: needs a password");
  }
  pugi::xml_document content, meta;
  std::string reason;
  if (!parse_xml(parts.find("content.xml"), content, reason)) {
    return skipped_document(kOdfLoader, LoadStatus::kMalformed, "content.xml: " + reason);
  }
  DocumentBuilder builder(kOdfLoader);
  OpenDocument reader(builder);
  reader.body(local_child(content.document_element(), "body"), false);
  if (parse_xml(parts.find("meta.xml"), meta, reason)) {
    builder.document().title =
        one_line(local_child(local_child(meta.document_element(), "meta"), "title").text().get());
  }
  return builder.finish();
}

}  // namespace apud
