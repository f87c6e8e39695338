// How a conversation opens: pinned documents, then the system prompt. Both are the same in every
// conversation with the same collections, so their KV is computed once.
//
// Threads: one thread.
#pragma once

#include <string>
#include <vector>

#include "app/runtime.h"
#include "rag/ledger.h"

namespace apud {

struct Opening {
  std::string system;  // pinned documents first: they are shared whatever the system prompt says
  std::vector<Passage> pinned;
  std::vector<std::string> warnings;  // pinned documents that do not fit
  /// Of the evidence: pinned documents are not packed again.
  Ledger ledger() const;
};

/// The system prompt asked for (--system, a batch line), else the configured one, else ours.
std::string system_prompt(const Options& options, const std::string& asked, bool documents);

/// Pinned documents may take this share of the window, answer reserve apart; those beyond, by age
/// of the document, are left out with a warning.
inline constexpr double kPinnedShare = 0.5;
Opening make_opening(Runtime& runtime, const std::string& system,
                     const std::vector<std::string>& collections, int answer_tokens);

/// Ids that every prompt of such a conversation begins with: up to the first word of the user.
std::vector<int32_t> opening_tokens(const std::shared_ptr<const Model>& model,
                                    const std::string& system, int64_t now);

}  // namespace apud
