#include "rag/loaders/builder.h"

#include <algorithm>

#include "rag/loaders/encoding.h"

namespace apud {

void DocumentBuilder::place(int line, int page, std::string_view member) {
  next_.line = line;
  next_.page = page;
  next_.member = member;
  placed_ = true;
}

void DocumentBuilder::block(BlockKind kind, std::string_view utf8, int level) {
  CleanText clean;
  if (kind == BlockKind::kHeading || kind == BlockKind::kTableRow) {
    clean = clean_utf8(one_line(utf8));
  } else {
    clean = clean_utf8(utf8);
  }
  document_.hidden_removed += clean.hidden;
  document_.replaced += clean.replaced;
  document_.data_runs += shorten_data(clean.text);
  std::string& piece = clean.text;
  size_t end = piece.find_last_not_of(" \t\n");
  if (end == std::string::npos) return;
  piece.resize(end + 1);
  // Leading empty lines go; indentation of the first line stays (code).
  size_t first = piece.find_first_not_of(" \t\n");
  size_t begin = piece.rfind('\n', first) == std::string::npos ? 0 : piece.rfind('\n', first) + 1;
  if (kind != BlockKind::kCode) begin = first;
  std::string& text = document_.text;
  if (!text.empty()) {
    BlockKind before = document_.blocks.back().kind;
    bool close = (kind == BlockKind::kTableRow || kind == BlockKind::kListItem) && before == kind;
    text += close ? "\n" : "\n\n";
  }
  if (placed_) {
    next_.offset = text.size();
    if (next_.line > 0)
      next_.line += static_cast<int>(
          std::count(piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(begin), '\n'));
    auto& anchors = document_.anchors;
    // An anchor that says what the one before already implies is not kept.
    bool same = !anchors.empty() && anchors.back().page == next_.page &&
                anchors.back().member == next_.member &&
                (next_.line == 0 ? anchors.back().line == 0 : false);
    if (!same) anchors.push_back(next_);
    placed_ = false;
  }
  size_t at = text.size();
  text.append(piece, begin);
  document_.blocks.push_back({at, text.size(), kind, level});
}

Document DocumentBuilder::finish() {
  finish_document(document_);
  return std::move(document_);
}

std::string one_line(std::string_view text) {
  std::string out;
  bool gap = false;
  for (char c : text) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v') {
      gap = !out.empty();
    } else {
      if (gap) out += ' ';
      gap = false;
      out += c;
    }
  }
  return out;
}

void finish_document(Document& document) {
  if (document.skipped()) return;
  if (document.title.empty()) {
    for (const Block& block : document.blocks) {
      if (block.kind == BlockKind::kHeading) {
        document.title =
            one_line(std::string_view(document.text).substr(block.begin, block.end - block.begin));
        break;
      }
    }
  }
  if (document.status != LoadStatus::kOk) return;
  if (document.text.find_first_not_of(" \t\n") == std::string::npos) {
    document.status = LoadStatus::kEmpty;
    if (document.reason.empty()) document.reason = "no text";
  } else if (document.replaced > 0) {
    document.status = LoadStatus::kBadEncoding;
    document.reason =
        std::to_string(document.replaced) + " ill-formed byte sequences became U+FFFD";
  } else if (document.data_runs > 0 && document.reason.empty()) {
    document.reason = std::to_string(document.data_runs) +
                      (document.data_runs == 1 ? " run" : " runs") +
                      " of data without spaces (base64) shortened";
  }
}

}  // namespace apud
