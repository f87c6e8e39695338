// PDF through pdftotext (poppler is GPL and meets bombs: it is only ever a limited child process).
#include <unistd.h>

#include <algorithm>

#include "base/child.h"
#include "base/error.h"
#include "base/utf8.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/formats.h"
#include "rag/loaders/pdf_text.h"

namespace apud {

namespace {

// A run of pdftotext covers this many pages, so that a long document meets its time limit per part.
constexpr int kSlicePages = 500;
constexpr int kMaxPages = 20000;
// A crop area beyond any page (the format ends at 14,400 points): without one pdftotext drops what
// runs over the edge of the page, as long paths in typeset manuals do.
constexpr const char* kExtent = "16000";
constexpr size_t kMaxSliceText = 64u << 20;  // of one slice
constexpr size_t kMaxText = 256u << 20;      // of one document

bool holds(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

std::string first_line(std::string_view text) {
  return printable(utf8_repair(text.substr(0, std::min<size_t>(text.find('\n'), 160))), true);
}

}  // namespace

Document load_pdf(std::string_view bytes, const LoadOptions& options) {
  constexpr const char* kPdfLoader = loader_version("pdf");
  std::optional<Path> program = find_program("pdftotext");
  if (!program) {
    return skipped_document(kPdfLoader, LoadStatus::kUnsupported,
                            "pdftotext not found: install poppler-utils");
  }
  ChildLimits limits;
  limits.memory_bytes = options.parser_memory;
  limits.cpu_seconds = std::max(1, static_cast<int>(options.parser_seconds));
  limits.wall_seconds = options.parser_seconds * 1.5;
  limits.output_bytes = kMaxSliceText;

  std::string output;
  std::string cut;  // why later pages are missing
  FileDescriptor input = memory_file(bytes);
  int pages = 0;
  for (;;) {
    ::lseek(input.get(), 0, SEEK_SET);
    ChildResult result =
        run_program(*program,
                    {"-raw", "-enc", "UTF-8", "-eol", "unix", "-f", std::to_string(pages + 1), "-l",
                     std::to_string(pages + kSlicePages), "-x", "-72", "-y", "-72", "-W", kExtent,
                     "-H", kExtent, "-", "-"},
                    input.get(), limits, options.cancel);
    const std::string& said = result.diagnostics;
    if (result.end == ChildEnd::kCancelled)
      return skipped_document(kPdfLoader, LoadStatus::kLimit, "cancelled");
    bool past_the_end = result.end == ChildEnd::kExit && holds(said, "Wrong page range");
    if (past_the_end && pages > 0) break;
    if (result.end == ChildEnd::kOk) {
      int count = static_cast<int>(std::count(result.output.begin(), result.output.end(), '\f'));
      output += result.output;
      pages += count;
      if (count < kSlicePages) break;
      if (pages >= kMaxPages || output.size() > kMaxText) {
        cut = "read up to page " + std::to_string(pages) + ", the limit";
        break;
      }
      continue;
    }
    bool limit = result.end == ChildEnd::kTime || result.end == ChildEnd::kMemory ||
                 result.end == ChildEnd::kOutput || holds(said, "Out of memory") ||
                 holds(said, "bad_alloc");
    std::string why = "pdftotext " + describe(result, limits);
    if (pages > 0) {
      cut = "pages from " + std::to_string(pages + 1) + " on not read: " + why;
      break;
    }
    if (limit) return skipped_document(kPdfLoader, LoadStatus::kLimit, why);
    if (holds(said, "Incorrect password") || (holds(said, "ncrypt") && holds(said, "password"))) {
      return skipped_document(kPdfLoader, LoadStatus::kEncrypted, "encrypted: needs a password");
    }
    if (past_the_end) return skipped_document(kPdfLoader, LoadStatus::kMalformed, "no pages");
    return skipped_document(kPdfLoader, LoadStatus::kMalformed,
                            why + (said.empty() ? "" : ": " + first_line(said)));
  }
  Document document = pdf_document(split_pages(output));
  document.loader = kPdfLoader;
  if (!cut.empty()) document.reason += (document.reason.empty() ? "" : "; ") + cut;
  return document;
}

}  // namespace apud
