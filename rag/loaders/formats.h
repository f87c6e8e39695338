// The loaders, one per family of formats. Each takes all bytes of a file and never throws for what
// is in them: faults become the document's status. Private to rag.
//
// Threads: re-entrant.
#pragma once

#include <string_view>

#include "rag/loader.h"

namespace apud {

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
