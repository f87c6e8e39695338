// The loaders, one per family of formats. Each takes all bytes of a file and never throws for what
// is in them: faults become the document's status. Private to rag.
//
// Threads: re-entrant.
#pragma once

#include <array>
#include <string_view>

#include "rag/loader.h"

namespace apud {

/// Every loader by name and version. A version rises when the text or the structure taken from a
/// file changes: ingest reads its documents again then.
inline constexpr std::array<const char*, 16> kLoaders = {
    "code/1", "csv/2",      "docx/2", "email/1", "epub/1",    "html/3", "json/2", "markdown/1",
    "odf/2",  "notebook/2", "pdf/2",  "pptx/2",  "session/1", "svg/1",  "text/1", "xlsx/2"};

/// Its entry of that table.
consteval const char* loader_version(std::string_view name) {
  for (const char* loader : kLoaders) {
    std::string_view entry = loader;
    if (entry.substr(0, entry.find('/')) == name) return loader;
  }
  throw "no loader of this name";
}

Document load_text(std::string_view bytes, std::string_view extension);
Document load_markdown(std::string_view bytes);
Document load_html(std::string_view bytes, const LoadOptions& options);
Document load_svg(std::string_view bytes);
Document load_csv(std::string_view bytes, std::string_view extension);
Document load_json(std::string_view bytes, std::string_view extension);
Document load_session(std::string_view bytes);
Document load_code(std::string_view bytes);
Document load_email(std::string_view bytes, bool mailbox, const LoadOptions& options);
Document load_notebook(std::string_view bytes);
Document load_docx(std::string_view bytes, const LoadOptions& options);
Document load_pptx(std::string_view bytes, const LoadOptions& options);
Document load_xlsx(std::string_view bytes, const LoadOptions& options);
/// OpenDocument text, sheets and slides.
Document load_odf(std::string_view bytes, const LoadOptions& options);
Document load_epub(std::string_view bytes, const LoadOptions& options);
Document load_pdf(std::string_view bytes, const LoadOptions& options);

/// A document that is skipped.
Document skipped_document(std::string loader, LoadStatus status, std::string reason);

}  // namespace apud
