// Which sentences of the evidence a conversation still needs: the plan of the one rebuild that
// makes room when the window runs out.
//
// Every round keeps its best sentences first (those that bear its question and its answer, cited
// passages before others), then its second best, and so on in turn until the target is reached: a
// later question may come back to any of them. What bears on no round leaves, even where there is
// room.
//
// Threads: pure function.
#pragma once

#include <span>
#include <string>

#include "rag/ledger.h"

namespace apud {

struct EvidenceRound {
  int turn = 0;  // as in the ledger
  std::string question;
  std::string answer;  // as shown; empty: none yet, or it said that the documents do not hold it
};

struct RefineOptions {
  int target = 1000;  // tokens of evidence that may stay, as render_evidence() writes it
};

/// rounds: oldest first, the question about to be asked last. Passages that need no change are not
/// in the plan.
Refinement plan_refinement(const Ledger& ledger, std::span<const EvidenceRound> rounds,
                           const TokenCounter& counter, const RefineOptions& options);

}  // namespace apud
