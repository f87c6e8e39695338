// Which earlier rounds a question is about: at most a few, none where the question is about
// something else. A small encoder finds every question somewhat like every other, so a cosine says
// little by itself: it is compared with what questions reach on rounds of chats that they do not
// belong to (RecallScale), and the words that question and round share count beside it.
//
// Threads: one at a time, as the store and the retriever.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "rag/retriever.h"

namespace apud {

/// Best cosines of a collection's own questions on rounds of other chats.
struct RecallScale {
  double median = 0;
  double high = 0;     // 95 of 100 stay below; above median
  int64_t chunks = 0;  // of the collection when it was measured
};
/// Measures on at most `samples` rounds. Absent for fewer than 3 chats or 8 usable rounds.
std::optional<RecallScale> measure_recall_scale(Store& store, Retriever& retriever,
                                                const CollectionInfo& collection, int samples = 48);

/// What the decision rests on.
struct RecallEvidence {
  double cosine = 0;   // question and round
  double overlap = 0;  // idf share of the question's words that the round holds
};
RecallEvidence recall_evidence(Store& store, const Hit& hit, std::string_view question);

struct RecallOptions {
  int most = 2;                      // rounds
  std::optional<RecallScale> scale;  // absent: only words decide, and most of them must meet
};
/// `hits` of a search in a collection of chats (loader session/1). Returns those that the question
/// is about, best first, one per round.
std::vector<Hit> recall_rounds(Store& store, std::span<const Hit> hits, std::string_view question,
                               const RecallOptions& options = {});

}  // namespace apud
