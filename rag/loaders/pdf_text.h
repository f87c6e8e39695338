// From pdftotext's raw-order output to paragraphs: running headers and footers removed, lines
// joined, hyphenation mended, headings guessed. Private to rag.
//
// Threads: re-entrant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "rag/document.h"

namespace apud {

/// Pages of the output; each page ends with a form feed.
std::vector<std::string_view> split_pages(std::string_view output);

/// Document of the pages, with page anchors, pages_without_text and its status set. `first_page` is
/// the number of pages[0].
Document pdf_document(const std::vector<std::string_view>& pages);

}  // namespace apud
