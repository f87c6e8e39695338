// Small models often answer right and forget to cite. A sentence that carries no mark of its own,
// and whose words one passage bears, gets that passage's mark at its end, while it streams. Nothing
// else is changed: a sentence that no passage bears stays without a mark (and is reported so).
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
  /// Text with marks added at the ends of finished sentences; at most the space after a sentence's
  /// end is held back.
  std::string push(std::string_view text);
  std::string finish();

 private:
  std::string end_sentence(bool marked);
  struct Candidate {
    int id;
    int rank;
    std::set<std::string> stems;
  };
  std::vector<Candidate> candidates_;
  std::string sentence_;  // shown already, its end not yet met
  std::string held_;      // from a sentence's last character on, until what follows is known
};

/// The whole answer at once.
std::string attribute(std::string_view answer, std::span<const Passage> passages);

}  // namespace apud
