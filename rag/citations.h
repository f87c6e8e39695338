// Citations: what the model wrote as [id] and "quotes", checked against the passages it was given.
//
// The model sees passage ids; the reader sees [1], [2] in order of first use with a legend. Ids
// that name no passage are removed from the text, never shown. Threads: values and free functions;
// a CitationStream belongs to one thread.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rag/packer.h"

namespace apud {

struct Citation {
  int number = 0;   // as shown, 1-based by first use
  int passage = 0;  // Passage::id
  int64_t document = 0;
  std::string path;
  int page = 0;  // 0: no pages
  int line = 0;  // 0: no lines
  int line_end = 0;
  int page_end = 0;
  std::string member;
  size_t start = 0;       // range in the document's normalised text: the quote's where one
  size_t end = 0;         //   verified, else the passage's
  std::string quote;      // exact words that the answer takes from there; may be empty
  bool verified = false;  // the quote stands in the passage (spaces, quotes, width folded);
                          //   without a quote: the sentence is supported by its words
};

/// A sentence of the answer that no cited passage supports.
struct Unsupported {
  size_t begin = 0;  // in CheckedAnswer::text
  size_t end = 0;
  std::string reason;  // "no citation", "words not in [2]"
};

struct CheckedAnswer {
  std::string text;                 // numbers as shown, inventions removed
  std::vector<Citation> citations;  // one per number, in order
  std::vector<Unsupported> unsupported;
  int invented = 0;  // ids removed
  int quotes = 0;
  int quotes_failed = 0;
};

/// Checks a finished answer. `passages` are all that the conversation holds.
CheckedAnswer check_answer(std::string_view answer, std::span<const Passage> passages);

/// Rewrites ids to shown numbers while the answer streams; holds back at most an open "[12, 3".
class CitationStream {
 public:
  explicit CitationStream(std::span<const Passage> passages);
  /// What can be shown now.
  std::string push(std::string_view text);
  std::string finish();

 private:
  int shown_number(int passage);
  std::vector<int> known_;
  std::vector<int> shown_;
  std::string pending_;
  bool finishing_ = false;
};

/// One line of the legend: "[1] path:12-30" or "[1] path p. 7".
std::string legend_line(const Citation& citation);

}  // namespace apud
