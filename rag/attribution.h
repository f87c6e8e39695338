// Small models often answer right and cite wrong, or forget to. While the answer streams:
//  - a sentence without a mark whose words one passage bears gets that passage's mark at its end;
//  - a mark whose passage does not bear its sentence is put right when another passage does.
// Nothing else is changed: a sentence that no passage bears keeps what the model wrote, and is
// reported by check_answer.
//
// Threads: one object per answer.
#pragma once

#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rag/packer.h"

namespace apud {

class AttributionStream {
 public:
  explicit AttributionStream(std::span<const Passage> passages);
  /// Text that can be shown now; held back are the end of a sentence until what follows is known,
  /// and a mark until it is closed.
  std::string push(std::string_view text);
  std::string finish();

 private:
  struct Candidate {
    int id;
    int rank;
    std::set<std::string> stems;
  };
  struct Best {
    int id = 0;  // 0: none
    double share = 0;
  };
  Best best_passage(const std::set<std::string>& words) const;
  /// The mark for a sentence that has none, "" where no passage bears it.
  std::string missing_mark() const;
  /// A closed mark of the model's, with ids put right.
  std::string resolve_mark(std::string_view mark);
  void begin_sentence();
  void take(std::string_view character, char32_t code, std::string& out);
  void release_end(bool followed_by_mark, std::string& out);

  std::vector<Candidate> candidates_;
  std::string sentence_;  // text of the sentence so far, marks left out
  std::set<int> marked_;  // ids it carries
  std::string end_;       // its last character and the space after it, while undecided
  bool ended_ = false;    // its end is out, marks may still follow
  std::string mark_;      // an open mark
};

/// The whole answer at once.
std::string attribute(std::string_view answer, std::span<const Passage> passages);

}  // namespace apud
