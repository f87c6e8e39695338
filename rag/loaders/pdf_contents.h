// Finds the table of contents in a paged text. Private to rag.
//
// Threads: re-entrant.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace apud {

/// Which of a document's lines (leaders shrunk to " … ") are its table of contents, lists of
/// figures and the like: they hold the words of every heading and answer nothing. Five entries and
/// more in a row whose page numbers do not fall; a price list's do. None where they are most of the
/// text.
std::vector<bool> contents_lines(std::span<const std::string> lines);

}  // namespace apud
