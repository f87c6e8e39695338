// Puts a Document together block by block: separators, anchors, title. Private to rag.
//
// Threads: one at a time.
#pragma once

#include <string>
#include <string_view>

#include "rag/document.h"

namespace apud {

class DocumentBuilder {
 public:
  explicit DocumentBuilder(std::string loader) { document_.loader = std::move(loader); }

  /// Source place of the next block. Lines of its text are taken to be lines of the source.
  void place(int line, int page, std::string_view member = {});
  /// Appends a block: `utf8` is cleaned, trailing space cut; an empty one adds nothing. Table rows
  /// and list items follow each other on the next line, other blocks after an empty line.
  void block(BlockKind kind, std::string_view utf8, int level = 0);
  void heading(int level, std::string_view utf8) { block(BlockKind::kHeading, utf8, level); }
  void hidden(int count) { document_.hidden_removed += count; }
  size_t size() const { return document_.text.size(); }
  Document& document() { return document_; }
  /// The document, with status kEmpty or kBadEncoding where that is so.
  Document finish();

 private:
  Document document_;
  Anchor next_;
  bool placed_ = false;
};

/// Text with every run of white space made one space and the ends cut: headings, cells.
std::string one_line(std::string_view text);

/// Sets status kEmpty, kBadEncoding and the title (from the first heading) where they are due.
void finish_document(Document& document);

}  // namespace apud
