// What a loader makes of a file: one normalised UTF-8 text with structure and places to cite.
//
// Threads: values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace apud {

/// A place of the normalised text that maps to a place of the source. Anchors are sorted by offset;
/// an anchor holds until the next one, and its line, when there is one, counts on by one at every
/// newline of the text behind it (so plain text needs few anchors).
struct Anchor {
  size_t offset = 0;   // in Document::text
  int line = 0;        // 1-based line of the source file; 0: the format has no lines
  int page = 0;        // 1-based; 0: no pages
  std::string member;  // archive member (EPUB chapter, sheet name), else empty
};

enum class BlockKind : uint8_t { kParagraph, kHeading, kCode, kTableRow, kListItem };

/// A range of the text that chunks do not cut without need. Blocks are in order, do not overlap.
struct Block {
  size_t begin = 0;
  size_t end = 0;
  BlockKind kind = BlockKind::kParagraph;
  int level = 0;  // of a heading: 1 = top
};

/// What became of a file. Names are stable (ingest --jsonl, --fail-on).
enum class LoadStatus : uint8_t {
  kOk,
  kEmpty,        // no text at all
  kNoText,       // pages without a text layer (some or all)
  kBadEncoding,  // decoded with replacements
  kBinary,       // skipped
  kTooLarge,     // skipped
  kUnreadable,   // skipped: permission, I/O
  kMalformed,    // skipped: parser refused
  kEncrypted,    // skipped
  kLimit,        // skipped: time, memory or output limit of the parser
  kChanging,     // skipped: changed while being read
  kUnsupported,  // skipped: format not known
  kSecret,       // skipped: key or credential file
};
const char* load_status_name(LoadStatus status);

struct Document {
  std::string title;  // from metadata or first heading; may be empty
  std::string text;   // valid UTF-8, newline = \n, bidi controls and tags removed
  std::vector<Block> blocks;
  std::vector<Anchor> anchors;
  std::string loader;  // "text", "markdown", "html", "pdf", …; with version: "pdf/1"
  LoadStatus status = LoadStatus::kOk;
  std::string reason;  // for skips and partial yields: one line, names numbers
  std::vector<int> pages_without_text;
  int hidden_removed = 0;       // hidden elements, bidi controls, tag characters dropped
  int replaced = 0;             // ill-formed bytes that became U+FFFD
  int data_runs = 0;            // base64 and the like, shortened
  bool structure_lost = false;  // HTML beyond the nesting limit: tags stripped
  bool skipped() const { return status >= LoadStatus::kBinary; }
};

/// Line, page and member of an offset; its `offset` is the one asked for.
Anchor anchor_at(std::string_view text, const std::vector<Anchor>& anchors, size_t offset);
inline Anchor anchor_at(const Document& document, size_t offset) {
  return anchor_at(document.text, document.anchors, offset);
}

}  // namespace apud
