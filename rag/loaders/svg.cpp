// SVG drawings: titles, descriptions and lettering; shapes are no text. Source: SVG 2, chapters 5
// (title, desc) and 11 (text).
#include <algorithm>

#include "rag/loaders/archive.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/formats.h"

namespace apud {

namespace {

constexpr const char* kSvgLoader = loader_version("svg");

class Drawing {
 public:
  Drawing(std::string_view bytes, DocumentBuilder& builder) : bytes_(bytes), builder_(builder) {}

  void body(const pugi::xml_node& node) {
    for (const pugi::xml_node& child : node.children()) {
      std::string_view name = local_name(child.name());
      if (name == "title" || name == "desc" || name == "text") {
        std::string content;
        text(child, content);
        place(child);
        builder_.block(BlockKind::kParagraph, one_line(content));
      } else if (name != "style" && name != "script" && name != "metadata") {
        body(child);
      }
    }
  }

 private:
  // Pieces of lettering are placed by coordinates, so no white space need part them.
  static void text(const pugi::xml_node& node, std::string& out) {
    for (const pugi::xml_node& child : node.children()) {
      if (child.type() == pugi::node_pcdata || child.type() == pugi::node_cdata) {
        out += child.value();
      } else {
        out += ' ';
        text(child, out);
      }
    }
  }
  void place(const pugi::xml_node& node) {
    auto to = static_cast<size_t>(std::max<ptrdiff_t>(node.offset_debug(), 0));
    to = std::min(to, bytes_.size());
    if (to > counted_) {
      line_ += static_cast<int>(std::count(bytes_.begin() + static_cast<ptrdiff_t>(counted_),
                                           bytes_.begin() + static_cast<ptrdiff_t>(to), '\n'));
      counted_ = to;
    }
    builder_.place(line_, 0);
  }

  std::string_view bytes_;
  DocumentBuilder& builder_;
  size_t counted_ = 0;  // bytes whose lines are counted
  int line_ = 1;
};

}  // namespace

Document load_svg(std::string_view bytes) {
  std::string xml(bytes), reason;
  pugi::xml_document document;
  if (!parse_xml(&xml, document, reason))
    return skipped_document(kSvgLoader, LoadStatus::kMalformed, reason);
  DocumentBuilder builder(kSvgLoader);
  Drawing(bytes, builder).body(document);
  return builder.finish();
}

}  // namespace apud
