// PPTX: slides in the order of the presentation; a slide is a page. Source: ECMA-376 part 1,
// PresentationML and DrawingML.
#include "rag/loaders/archive.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/formats.h"
#include "rag/loaders/rows.h"

namespace apud {

namespace {

constexpr const char* kPptxLoader = loader_version("pptx");
constexpr std::string_view kNotes = "ppt/notesSlides/";

void paragraph_text(const pugi::xml_node& node, std::string& out) {
  for (const pugi::xml_node& child : node.children()) {
    std::string_view name = local_name(child.name());
    if (name == "t") {
      out += child.text().get();
    } else if (name == "br") {
      out += '\n';
    } else {
      paragraph_text(child, out);
    }
  }
}

std::string_view placeholder(const pugi::xml_node& shape) {
  return local_attribute(local_child(local_child(local_child(shape, "nvSpPr"), "nvPr"), "ph"),
                         "type");
}
bool is_title(const pugi::xml_node& shape) {
  std::string_view type = placeholder(shape);
  return type == "title" || type == "ctrTitle";
}

void table(const pugi::xml_node& node, int slide, DocumentBuilder& builder) {
  RowWriter rows(builder, kLeastNames);
  for (const pugi::xml_node& row : node.children()) {
    if (local_name(row.name()) != "tr") continue;
    std::vector<std::string> cells;
    for (const pugi::xml_node& cell : row.children()) {
      if (local_name(cell.name()) == "tc") paragraph_text(cell, cells.emplace_back());
    }
    rows.row(cells, {0, 0, slide, {}});
  }
}

void shapes(const pugi::xml_node& node, int slide, bool title, DocumentBuilder& builder) {
  for (const pugi::xml_node& child : node.children()) {
    std::string_view name = local_name(child.name());
    if (name == "sp") {
      shapes(child, slide, is_title(child), builder);
    } else if (name == "tbl") {
      table(child, slide, builder);
    } else if (name == "p") {
      std::string text;
      paragraph_text(child, text);
      builder.place(0, slide);
      if (title) {
        builder.heading(1, text);
      } else {
        builder.block(BlockKind::kParagraph, text);
      }
    } else if (name != "Fallback") {
      shapes(child, slide, title, builder);
    }
  }
}

// What the speaker says: the body of the slide's notes page, whose other shapes repeat the slide.
void notes(const Parts& parts, const std::string& slide_part, int slide, DocumentBuilder& builder) {
  constexpr std::string_view kFolder = "ppt/slides/";
  std::string rels = std::string(kFolder) + "_rels/" +
                     slide_part.substr(std::min(kFolder.size(), slide_part.size())) + ".rels";
  for (const auto& [id, target] : relationships(parts.find(rels), kFolder)) {
    pugi::xml_document page;
    std::string ignored;
    if (target.rfind(kNotes, 0) != 0 || !parse_xml(parts.find(target), page, ignored)) continue;
    pugi::xml_node tree = local_child(local_child(page.document_element(), "cSld"), "spTree");
    for (const pugi::xml_node& shape : tree.children()) {
      if (placeholder(shape) == "body") shapes(shape, slide, false, builder);
    }
  }
}

}  // namespace

Document load_pptx(std::string_view bytes, const LoadOptions& options) {
  Parts parts = read_parts(
      bytes,
      [](std::string_view name) {
        bool slide = name.rfind("ppt/slides/", 0) == 0 || name.rfind(kNotes, 0) == 0;
        return slide || name == "ppt/presentation.xml" || name == "ppt/_rels/presentation.xml.rels";
      },
      options);
  if (parts.status != LoadStatus::kOk)
    return skipped_document(kPptxLoader, parts.status, parts.reason);
  pugi::xml_document presentation;
  std::string reason;
  if (!parse_xml(parts.find("ppt/presentation.xml"), presentation, reason)) {
    return skipped_document(kPptxLoader, LoadStatus::kMalformed, "ppt/presentation.xml: " + reason);
  }
  auto targets = relationships(parts.find("ppt/_rels/presentation.xml.rels"), "ppt/");
  DocumentBuilder builder(kPptxLoader);
  int number = 0, broken = 0;
  for (const pugi::xml_node& id :
       local_child(presentation.document_element(), "sldIdLst").children()) {
    ++number;
    // r:id beside id: the one with a prefix names the relationship.
    auto target = targets.find(std::string_view(id.attribute("r:id").value()));
    pugi::xml_document slide;
    if (target == targets.end() || !parse_xml(parts.find(target->second), slide, reason)) {
      ++broken;
      continue;
    }
    // Title first: the order of shapes on a slide is the order of drawing.
    pugi::xml_node tree = local_child(local_child(slide.document_element(), "cSld"), "spTree");
    for (const pugi::xml_node& shape : tree.children()) {
      if (is_title(shape)) shapes(shape, number, true, builder);
    }
    for (pugi::xml_node shape = tree.first_child(); shape;) {
      pugi::xml_node next = shape.next_sibling();
      if (is_title(shape)) tree.remove_child(shape);
      shape = next;
    }
    shapes(tree, number, false, builder);
    notes(parts, target->second, number, builder);
  }
  Document document = builder.finish();
  if (broken > 0) {
    document.reason += (document.reason.empty() ? "" : "; ") + std::to_string(broken) + " of " +
                       std::to_string(number) + " slides not readable";
  }
  return document;
}

}  // namespace apud
