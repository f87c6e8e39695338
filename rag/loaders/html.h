// HTML to blocks: gumbo in a sealed child process, after a linear pre-scan. Private to rag.
//
// Threads: re-entrant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "rag/loader.h"
#include "rag/loaders/builder.h"

namespace apud {

struct HtmlBlock {
  BlockKind kind = BlockKind::kParagraph;
  int level = 0;
  int line = 0;
  std::string text;
};

struct HtmlPage {
  std::string title;
  std::vector<HtmlBlock> blocks;
  int hidden = 0;               // hidden elements dropped
  bool structure_lost = false;  // beyond the limits: tags were stripped
  std::string failure;          // why, one line
};

/// Bytes of an HTML file as UTF-8: byte order mark, then strict UTF-8, then the declared charset,
/// then detection. `binary` when it is no text.
std::string decode_html(std::string_view bytes, bool* binary);

/// True when gumbo's time stays near linear: at most 512 open elements, 256 attributes in a tag.
bool html_within_limits(std::string_view html);

/// Parses the pages of a document, in turn in one child process (ChildReuse). A page beyond the
/// limits is stripped of tags instead (structure_lost), and so is one at which the child fails or
/// for which the document's time is over.
std::vector<HtmlPage> parse_html(const std::vector<std::string>& pages, const LoadOptions& options);

/// Appends a page's blocks.
void append_page(const HtmlPage& page, std::string_view member, int page_number,
                 DocumentBuilder& builder);

}  // namespace apud
