// DOCX: word/document.xml with its styles and footnotes. Source: ECMA-376 part 1, WordprocessingML.
#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "base/ascii.h"
#include "rag/loaders/archive.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/formats.h"
#include "rag/loaders/rows.h"

namespace apud {

namespace {

constexpr const char* kDocxLoader = loader_version("docx");
constexpr size_t kMaxCells = 1024;  // of a row

class Word {
 public:
  Word(DocumentBuilder& builder) : builder_(builder) {}

  // Heading levels of the styles: by outline level or by the built-in names, which are the same in
  // every language.
  void styles(const std::string* xml) {
    pugi::xml_document document;
    std::string ignored;
    if (!parse_xml(xml, document, ignored)) return;
    for (const pugi::xml_node& style : document.document_element().children()) {
      if (local_name(style.name()) != "style") continue;
      const std::string name = ascii_lower(local_attribute(local_child(style, "name"), "val"));
      int level = 0;
      if (name.rfind("heading ", 0) == 0 && name.size() == 9) level = name[8] - '0';
      if (name == "title") level = 1;
      std::string id(local_attribute(style, "styleId"));
      if (name.rfind("toc ", 0) == 0) contents_.insert(id);
      std::string_view outline =
          local_attribute(local_child(local_child(style, "pPr"), "outlineLvl"), "val");
      if (level == 0 && outline.size() == 1 && outline[0] >= '0' && outline[0] <= '8')
        level = outline[0] - '0' + 1;
      if (level >= 1 && level <= 9) levels_[id] = level;
      bool numbered = local_child(local_child(style, "pPr"), "numPr");
      if (numbered || name.rfind("list bullet", 0) == 0 || name.rfind("list number", 0) == 0)
        lists_.insert(id);
    }
  }

  void body(const pugi::xml_node& node) {
    for (const pugi::xml_node& child : node.children()) {
      std::string_view name = local_name(child.name());
      if (name == "p") {
        paragraph(child);
      } else if (name == "tbl") {
        table(child);
      } else if (name != "sectPr" && name != "Fallback") {
        body(child);  // content controls, insertions, alternate content
      }
    }
  }

 private:
  // Text of a run's or paragraph's children; page breaks are counted on the way.
  void text(const pugi::xml_node& node, std::string& out) {
    for (const pugi::xml_node& child : node.children()) {
      std::string_view name = local_name(child.name());
      if (name == "t") {
        out += child.text().get();
      } else if (name == "tab") {
        out += '\t';
      } else if (name == "br" || name == "cr") {
        if (local_attribute(child, "type") == "page") {
          ++page_;
        } else {
          out += '\n';
        }
      } else if (name == "lastRenderedPageBreak") {
        ++page_;
        breaks_ = true;
      } else if (name == "noBreakHyphen") {
        out += '-';
      } else if (name == "r") {
        pugi::xml_node properties = local_child(child, "rPr");
        pugi::xml_node vanish = local_child(properties, "vanish");
        std::string_view value = local_attribute(vanish, "val");
        if (vanish && value != "0" && value != "false") {
          builder_.hidden(1);
        } else {
          text(child, out);
        }
      } else if (name != "pPr" && name != "rPr" && name != "del" && name != "moveFrom" &&
                 name != "Fallback" && name != "instrText" && name != "txbxContent") {
        text(child, out);
      } else if (name == "txbxContent") {
        for (const pugi::xml_node& p : child.children()) {
          out += '\n';
          text(p, out);
        }
      }
    }
  }

  void paragraph(const pugi::xml_node& node) {
    int page = page_;
    std::string content;
    text(node, content);
    pugi::xml_node properties = local_child(node, "pPr");
    std::string_view style_id = local_attribute(local_child(properties, "pStyle"), "val");
    auto style = levels_.find(style_id);
    // A break before the first text starts the page of this paragraph.
    if (page_ > page && local_child(node, "r")) page = page_;
    builder_.place(0, breaks_ ? page : 0);
    if (style != levels_.end()) {
      builder_.heading(style->second, content);
    } else if (contents_.contains(style_id)) {
      // repeats the headings
    } else if (local_child(properties, "numPr") || lists_.contains(style_id)) {
      builder_.block(BlockKind::kListItem, content.empty() ? content : "- " + content);
    } else {
      builder_.block(BlockKind::kParagraph, content);
    }
  }

  void table(const pugi::xml_node& node) {
    RowWriter rows(builder_, kLeastNames);
    std::vector<std::string> above;
    for (const pugi::xml_node& row : node.children()) {
      if (local_name(row.name()) != "tr") continue;
      std::vector<std::string> cells;
      for (const pugi::xml_node& cell : row.children()) {
        if (local_name(cell.name()) != "tc" || cells.size() >= kMaxCells) continue;
        pugi::xml_node properties = local_child(cell, "tcPr");
        std::string content;
        cell_text(cell, content);
        // One that goes on from the row above says the same.
        pugi::xml_node merged = local_child(properties, "vMerge");
        if (merged && local_attribute(merged, "val") != "restart" && cells.size() < above.size())
          content = above[cells.size()];
        cells.push_back(std::move(content));
        std::string_view span = local_attribute(local_child(properties, "gridSpan"), "val");
        size_t columns = 1;
        std::from_chars(span.data(), span.data() + span.size(), columns);
        cells.resize(std::max(cells.size(), std::min(cells.size() + columns - 1, kMaxCells)));
      }
      rows.row(cells, {0, 0, breaks_ ? page_ : 0, {}});
      above = std::move(cells);
    }
  }

  void cell_text(const pugi::xml_node& cell, std::string& out) {
    for (const pugi::xml_node& child : cell.children()) {
      std::string_view name = local_name(child.name());
      if (name == "p") {
        text(child, out);
        out += ' ';
      } else if (name != "tcPr") {
        cell_text(child, out);  // nested tables, content controls
      }
    }
  }

  DocumentBuilder& builder_;
  std::map<std::string, int, std::less<>> levels_;
  std::set<std::string, std::less<>> lists_;     // styles of list items
  std::set<std::string, std::less<>> contents_;  // styles of tables of contents
  int page_ = 1;
  bool breaks_ = false;  // the file says where its pages begin
};

}  // namespace

Document load_docx(std::string_view bytes, const LoadOptions& options) {
  Parts parts = read_parts(
      bytes,
      [](std::string_view name) {
        return name == "word/document.xml" || name == "word/styles.xml" ||
               name == "word/footnotes.xml" || name == "word/endnotes.xml" ||
               name == "docProps/core.xml";
      },
      options);
  if (parts.status != LoadStatus::kOk)
    return skipped_document(kDocxLoader, parts.status, parts.reason);
  pugi::xml_document document, notes, core;
  std::string reason;
  if (!parse_xml(parts.find("word/document.xml"), document, reason)) {
    return skipped_document(kDocxLoader, LoadStatus::kMalformed, "word/document.xml: " + reason);
  }
  DocumentBuilder builder(kDocxLoader);
  Word word(builder);
  word.styles(parts.find("word/styles.xml"));
  word.body(local_child(document.document_element(), "body"));
  for (const char* part : {"word/footnotes.xml", "word/endnotes.xml"}) {
    if (parse_xml(parts.find(part), notes, reason)) word.body(notes.document_element());
  }
  if (parse_xml(parts.find("docProps/core.xml"), core, reason)) {
    builder.document().title = one_line(local_child(core.document_element(), "title").text().get());
  }
  return builder.finish();
}

}  // namespace apud
