// Small models often answer right and cite wrong, or forget to. While the answer streams:
//  - a sentence without a mark whose words one passage bears gets that passage's mark at its end;
//  - a mark is put right when another passage bears its sentence as well or better and is more
//    relevant to the question;
//  - an answer that ends without any mark gets the one of the passage nearest to it; where it
//    shares hardly a word with any, it stays without and is no answer from the passages.
// Nothing else is changed: a sentence that no passage bears keeps what the model wrote, and is
// reported by check_answer.
//
// The words of a short answer ("8 characters") stand in many passages; Passage::score, how near a
// passage is to the question, says which of them is meant (docs/performance.md, "Answers").
//
// Threads: one object per answer.
#pragma once

#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rag/packer.h"
#include "rag/text/language.h"

namespace apud {

/// What an answer owes its passages.
enum class Citing {
  kMay,    // they were given with the question: what it cites is checked
  kMust,   // it is to come from them, so it has to name one
  kReply,  // none came with the question ("thanks", "shorter"): a mark behind words that are not a
           // passage's is habit and goes
};

class AttributionStream {
 public:
  explicit AttributionStream(std::span<const Passage> passages, Citing citing = Citing::kMay);
  /// Text that can be shown now; held back are the end of a sentence until what follows is known,
  /// and a mark until it is closed.
  std::string push(std::string_view text);
  /// refused: the text says that the passages do not answer, so it needs no mark.
  std::string finish(bool refused = false);

 private:
  struct Candidate {
    int id;
    int rank;
    std::set<std::string> stems;
    double relevance;  // weighed Passage::score
    Language language;
  };
  struct Best {
    int id = 0;        // 0: none
    double share = 0;  // of the sentence's words
    double value = 0;  // share + relevance
  };
  /// Among the passages that hold at least `least` of the words, the one of the highest value.
  Best best_passage(const std::set<std::string>& words, double least) const;
  /// The one to name for an answer without any mark; 0 where no passage shares its words.
  int nearest_passage() const;
  /// The mark for a sentence that has none, "" where no passage bears it.
  std::string missing_mark() const;
  /// Whether the words tell that the sentence comes from no passage.
  bool foreign(const std::set<std::string>& words) const;
  /// A closed mark of the model's, with ids put right.
  std::string resolve_mark(std::string_view mark);
  void begin_sentence();
  void take(std::string_view character, char32_t code, std::string& out);
  void release_end(bool followed_by_mark, std::string& out);

  Citing citing_;
  std::vector<Candidate> candidates_;
  std::string sentence_;  // text of the sentence so far, marks left out
  std::set<int> marked_;  // ids it carries
  std::string answer_;    // all sentences, while none carried a mark
  bool cited_ = false;    // one did
  std::string end_;       // its last character and the space after it, while undecided
  bool ended_ = false;    // its end is out, marks may still follow
  std::string mark_;      // an open mark
};

/// The whole answer at once.
std::string attribute(std::string_view answer, std::span<const Passage> passages,
                      Citing citing = Citing::kMay);

}  // namespace apud
