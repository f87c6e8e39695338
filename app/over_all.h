// Questions that a few passages cannot answer ("how many of the documents …", "summarise the
// collection"): every document is read, part by part (map), what the parts say on the question is
// noted with the part's number, and the answer is made from the notes (reduce).
//
// Costs the reading of the whole collection: tokens / prefill speed. Threads: one thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "app/answer.h"

namespace apud {

/// Does the question speak of what the documents say as a whole? Cautious: only where its words do
/// ("how many documents mention …", "all these files", "总结这些文档"), not "how many days", nor
/// where files are things on a disk ("how do I copy all files", "which file holds …").
bool asks_about_all(std::string_view question);

/// Embedder's tokens of what would be read.
int64_t collection_tokens(Runtime& runtime, const std::vector<std::string>& collections);

struct OverAllProgress {
  int part = 0;  // read so far
  int parts = 0;
  bool joining = false;  // notes of notes
};

/// Reads everything and makes the evidence for the last prompt: `frame` holds the notes, the
/// passages are those that they name. Abstained where no part said anything. Throws kUsage where
/// the window is too small for a part, and what the engine throws; Interrupted on Ctrl-C.
Evidence over_all_evidence(Runtime& runtime, const Conversation& conversation,
                           const EvidenceRequest& request,
                           const std::function<void(const OverAllProgress&)>& progress);

/// Numbers in marks like [12], [3, 4], ascending, each once.
std::vector<int> cited_ids(std::string_view text);

}  // namespace apud
