// The part of the HTML loader that runs in a child process: gumbo's tree to blocks.
#include <gumbo.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "base/ascii.h"
#include "base/child.h"
#include "rag/document.h"
#include "rag/loaders/html_wire.h"

namespace apud {

namespace {

constexpr int kMaxDepth = 2048;

class Extractor {
 public:
  Extractor(WireWriter& out) : out_(out) {}

  void page(const GumboOutput* tree) {
    find_title(tree->root, 0);
    const GumboNode* root = find_main(tree->root, 0);
    walk(root ? root : tree->root, 0);
    flush();
    out_.end_page(title_, hidden_);
  }

 private:
  static std::string_view attribute(const GumboElement& element, const char* name) {
    GumboAttribute* a = gumbo_get_attribute(&element.attributes, name);
    return a ? std::string_view(a->value) : std::string_view{};
  }

  // Whether a name among the element's classes passes `test`.
  template <class Test>
  static bool any_class(const GumboElement& element, Test test) {
    std::string_view all = attribute(element, "class");
    while (!all.empty()) {
      std::string_view name = all.substr(0, all.find_first_of(" \t\n"));
      if (test(name)) return true;
      all.remove_prefix(std::min(all.size(), name.size() + 1));
    }
    return false;
  }

  static bool has_class(const GumboElement& element,
                        std::initializer_list<std::string_view> names) {
    return any_class(element, [&](std::string_view name) {
      return std::find(names.begin(), names.end(), name) != names.end();
    });
  }

  // navbar, nav-links, docnav, … of a part of the page; a whole one says that it has some.
  static bool is_named_nav(const GumboElement& element) {
    if (element.tag == GUMBO_TAG_HTML || element.tag == GUMBO_TAG_BODY ||
        element.tag == GUMBO_TAG_MAIN || element.tag == GUMBO_TAG_ARTICLE)
      return false;
    return any_class(element, [](std::string_view name) {
      return name.starts_with("nav") || name.ends_with("nav");
    });
  }

  // Elements a reader of the page cannot see.
  static bool is_hidden(const GumboElement& element) {
    if (gumbo_get_attribute(&element.attributes, "hidden")) return true;
    std::string_view raw = attribute(element, "style");
    if (raw.empty()) return false;
    std::string style = ascii_lower(raw);
    style.erase(std::remove(style.begin(), style.end(), ' '), style.end());
    for (const char* mark : {"display:none", "visibility:hidden", "font-size:0", "opacity:0"}) {
      size_t at = style.find(mark);
      if (at == std::string::npos) continue;
      char next = at + std::strlen(mark) < style.size() ? style[at + std::strlen(mark)] : ';';
      if (next != '.' || mark[0] == 'd' || mark[0] == 'v') return true;  // not opacity:0.9
    }
    return false;
  }

  // Bytes of text below a node, and of those within links; stops at what is enough to judge.
  struct Weight {
    size_t text = 0;
    size_t links = 0;
    int nodes = 0;
  };
  static void weigh(const GumboNode* node, bool link, int depth, Weight& weight) {
    constexpr int kMostNodes = 2000;
    if (++weight.nodes > kMostNodes || depth > 64) return;
    if (node->type == GUMBO_NODE_TEXT) {
      size_t bytes = std::strlen(node->v.text.text);
      weight.text += bytes;
      if (link) weight.links += bytes;
    }
    if (node->type != GUMBO_NODE_ELEMENT) return;
    link = link || node->v.element.tag == GUMBO_TAG_A;
    const GumboVector& children = node->v.element.children;
    for (unsigned i = 0; i < children.length; ++i)
      weigh(static_cast<const GumboNode*>(children.data[i]), link, depth + 1, weight);
  }

  // What stands beside the text may be the page's menu or a box (books set notes and tips so), what
  // is called navigation may be around the text, too: menus are mostly links, or short.
  static bool is_menu(const GumboNode* node) {
    constexpr size_t kBoxBytes = 120;
    const GumboElement& element = node->v.element;
    const bool beside =
        element.tag == GUMBO_TAG_ASIDE || has_class(element, {"sidebar", "related"});
    if (!beside && !is_named_nav(element)) return false;
    Weight weight;
    weigh(node, false, 0, weight);
    return weight.links * 2 > weight.text || (beside && weight.text < kBoxBytes);
  }

  // Parts of a page that are not its content.
  static bool is_furniture(const GumboNode* node) {
    const GumboElement& element = node->v.element;
    switch (element.tag) {
      case GUMBO_TAG_SCRIPT:
      case GUMBO_TAG_STYLE:
      case GUMBO_TAG_TEMPLATE:
      case GUMBO_TAG_NAV:
      case GUMBO_TAG_HEAD:
      case GUMBO_TAG_IFRAME:
      case GUMBO_TAG_OBJECT:
      case GUMBO_TAG_SVG:
      case GUMBO_TAG_BUTTON:
      case GUMBO_TAG_SELECT:
      case GUMBO_TAG_NOSCRIPT:
        return true;
      default:
        break;
    }
    std::string_view role = attribute(element, "role");
    if (role == "navigation" || role == "search" || role == "banner" || role == "contentinfo")
      return true;
    if (has_class(element, {"headerlink", "anchorjs-link", "sphinxsidebar", "navheader",
                            "navfooter", "breadcrumb", "breadcrumbs", "wy-nav-side", "toc"}))
      return true;
    return is_menu(node);
  }

  void find_title(const GumboNode* node, int depth) {
    if (node->type != GUMBO_NODE_ELEMENT || depth > 8 || !title_.empty()) return;
    const GumboVector& children = node->v.element.children;
    for (unsigned i = 0; i < children.length; ++i) {
      const auto* child = static_cast<const GumboNode*>(children.data[i]);
      if (child->type != GUMBO_NODE_ELEMENT) continue;
      if (child->v.element.tag == GUMBO_TAG_TITLE && child->v.element.children.length > 0) {
        const auto* text = static_cast<const GumboNode*>(child->v.element.children.data[0]);
        if (text->type == GUMBO_NODE_TEXT) title_ = text->v.text.text;
        return;
      }
      if (child->v.element.tag == GUMBO_TAG_HEAD) find_title(child, depth + 1);
    }
  }

  const GumboNode* find_main(const GumboNode* node, int depth) {
    if (node->type != GUMBO_NODE_ELEMENT || depth > 64) return nullptr;
    if (node->v.element.tag == GUMBO_TAG_MAIN || attribute(node->v.element, "role") == "main")
      return node;
    const GumboVector& children = node->v.element.children;
    for (unsigned i = 0; i < children.length; ++i) {
      if (const GumboNode* found =
              find_main(static_cast<const GumboNode*>(children.data[i]), depth + 1))
        return found;
    }
    return nullptr;
  }

  void flush() {
    if (buffer_.find_first_not_of(" \n") != std::string::npos)
      out_.block(kind_, level_, line_, buffer_);
    buffer_.clear();
    line_ = 0;
    kind_ = items_ > 0 ? BlockKind::kListItem : BlockKind::kParagraph;
    level_ = 0;
  }

  void text(const char* chars, unsigned line) {
    if (line_ == 0 && std::strspn(chars, " \t\n") != std::strlen(chars))
      line_ = static_cast<int>(line);
    if (pre_ > 0) {
      buffer_ += chars;
      return;
    }
    for (; *chars; ++chars) {
      char c = *chars;
      bool gap = c == ' ' || c == '\t' || c == '\n' || c == '\f';
      if (!gap) {
        buffer_ += c;
      } else if (!buffer_.empty() && buffer_.back() != ' ' && buffer_.back() != '\n') {
        buffer_ += ' ';
      }
    }
  }

  // A table of data: no table or heading inside its cells.
  static bool is_data_table(const GumboNode* node, int depth, int budget) {
    if (node->type != GUMBO_NODE_ELEMENT || depth > 64) return true;
    const GumboVector& children = node->v.element.children;
    for (unsigned i = 0; i < children.length && budget > 0; ++i) {
      const auto* child = static_cast<const GumboNode*>(children.data[i]);
      if (child->type != GUMBO_NODE_ELEMENT) continue;
      GumboTag tag = child->v.element.tag;
      if (tag == GUMBO_TAG_TABLE || (tag >= GUMBO_TAG_H1 && tag <= GUMBO_TAG_H6)) return false;
      if (!is_data_table(child, depth + 1, budget)) return false;
    }
    return true;
  }

  void children(const GumboElement& element, int depth) {
    for (unsigned i = 0; i < element.children.length; ++i) {
      walk(static_cast<const GumboNode*>(element.children.data[i]), depth + 1);
    }
  }

  void block(const GumboElement& element, int depth, BlockKind kind, int level) {
    flush();
    kind_ = kind;
    level_ = level;
    children(element, depth);
    flush();
  }

  void walk(const GumboNode* node, int depth) {
    if (depth > kMaxDepth) return;
    if (node->type == GUMBO_NODE_TEXT || node->type == GUMBO_NODE_WHITESPACE ||
        node->type == GUMBO_NODE_CDATA) {
      text(node->v.text.text, node->v.text.start_pos.line);
      return;
    }
    if (node->type != GUMBO_NODE_ELEMENT && node->type != GUMBO_NODE_DOCUMENT) return;
    if (node->type == GUMBO_NODE_DOCUMENT) return;
    const GumboElement& element = node->v.element;
    if (is_furniture(node)) return;
    if (is_hidden(element)) {
      ++hidden_;
      return;
    }
    const GumboTag tag = element.tag;
    switch (tag) {
      case GUMBO_TAG_H1:
      case GUMBO_TAG_H2:
      case GUMBO_TAG_H3:
      case GUMBO_TAG_H4:
      case GUMBO_TAG_H5:
      case GUMBO_TAG_H6:
        block(element, depth, BlockKind::kHeading,
              static_cast<int>(tag) - static_cast<int>(GUMBO_TAG_H1) + 1);
        return;
      case GUMBO_TAG_PRE:
        flush();
        ++pre_;
        kind_ = BlockKind::kCode;
        children(element, depth);
        flush();
        --pre_;
        return;
      case GUMBO_TAG_UL:
      case GUMBO_TAG_OL:
        if (row_ > 0) break;
        flush();
        ++items_;
        children(element, depth);
        flush();
        --items_;
        kind_ = items_ > 0 ? BlockKind::kListItem : BlockKind::kParagraph;
        return;
      case GUMBO_TAG_LI:
        if (row_ > 0) break;
        flush();
        kind_ = BlockKind::kListItem;
        buffer_ = "- ";
        children(element, depth);
        if (buffer_ == "- ") buffer_.clear();
        flush();
        return;
      case GUMBO_TAG_TABLE:
        flush();
        tables_.push_back(row_ == 0 && is_data_table(node, 0, 1));
        children(element, depth);
        tables_.pop_back();
        flush();
        return;
      case GUMBO_TAG_TR:
        if (tables_.empty() || !tables_.back()) {
          block(element, depth, BlockKind::kParagraph, 0);
          return;
        }
        flush();
        kind_ = BlockKind::kTableRow;
        ++row_;
        cell_ = 0;
        children(element, depth);
        --row_;
        flush();
        return;
      case GUMBO_TAG_TD:
      case GUMBO_TAG_TH:
        if (row_ > 0) {
          if (cell_++ > 0) buffer_ += " | ";
        } else {
          flush();
        }
        children(element, depth);
        return;
      case GUMBO_TAG_BR:
        buffer_ += row_ > 0 ? ' ' : '\n';
        return;
      case GUMBO_TAG_IMG: {
        std::string_view alt = attribute(element, "alt");
        if (alt.size() > 3) text(std::string(alt).c_str(), element.start_pos.line);
        return;
      }
      case GUMBO_TAG_P:
      case GUMBO_TAG_DIV:
      case GUMBO_TAG_SECTION:
      case GUMBO_TAG_ARTICLE:
      case GUMBO_TAG_MAIN:
      case GUMBO_TAG_HEADER:
      case GUMBO_TAG_FOOTER:
      case GUMBO_TAG_BLOCKQUOTE:
      case GUMBO_TAG_DL:
      case GUMBO_TAG_DT:
      case GUMBO_TAG_DD:
      case GUMBO_TAG_FIGURE:
      case GUMBO_TAG_FIGCAPTION:
      case GUMBO_TAG_CAPTION:
      case GUMBO_TAG_HR:
      case GUMBO_TAG_ADDRESS:
      case GUMBO_TAG_DETAILS:
      case GUMBO_TAG_SUMMARY:
      case GUMBO_TAG_FORM:
        if (row_ > 0 || pre_ > 0) {
          text(" ", element.start_pos.line);
          children(element, depth);
          text(" ", element.start_pos.line);
        } else if (buffer_ == "- ") {
          children(element, depth);  // the first paragraph of an item follows its marker
        } else {
          block(element, depth, items_ > 0 ? BlockKind::kListItem : BlockKind::kParagraph, 0);
        }
        return;
      default:
        break;
    }
    children(element, depth);
  }

  WireWriter& out_;
  std::string title_, buffer_;
  BlockKind kind_ = BlockKind::kParagraph;
  int level_ = 0, line_ = 0, hidden_ = 0;
  int pre_ = 0, items_ = 0, row_ = 0, cell_ = 0;
  std::vector<bool> tables_;
};

std::string parse_pages(std::string_view input) {
  WireWriter out;
  WireReader pages(input);
  std::string_view html;
  while (pages.bytes(html)) {
    GumboOptions options = kGumboDefaultOptions;
    options.max_errors = 0;
    GumboOutput* tree = gumbo_parse_with_options(&options, html.data(), html.size());
    Extractor(out).page(tree);
    gumbo_destroy_output(&options, tree);
  }
  return std::move(out.buffer);
}

const ChildEntry kEntry("html", &parse_pages);

}  // namespace

// Referenced by html.cpp, so that a static library keeps this file and with it the entry.
const char* html_child_name() { return "html"; }

}  // namespace apud
