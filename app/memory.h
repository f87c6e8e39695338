// Conversation memory (`chat --memory`): saved chats are documents of a collection of their own,
// and what fits a question comes back through the evidence ledger like any passage.
//
// Ownership: borrows the runtime. Threads: one thread.
#pragma once

#include <string>
#include <vector>

#include "app/runtime.h"
#include "rag/recall.h"

namespace apud {

/// Reserved name; its only root is the folder of sessions.
inline constexpr const char* kMemoryCollection = "_chats";

/// Throws kUsage for it: documents of the user's have no place there, nor has it under another
/// name.
void check_not_reserved(const std::string& collection);

class ChatMemory {
 public:
  explicit ChatMemory(Runtime& runtime) : runtime_(runtime) {}

  /// Indexes chats that are new or changed since the last time. Returns a warning where that could
  /// not be done now (another process writes); what was indexed before is used then.
  std::string sync();
  /// Rounds of chats other than `session` that the question is about, at most two.
  std::vector<Hit> recall(const std::string& question, const std::string& session);
  /// Passages of those rounds, ids from `first_id` on, without what `sent` shows already.
  Packed pack(const std::vector<Hit>& rounds, const std::string& question, int first_id, int budget,
              const std::vector<SentRange>& sent);

 private:
  bool there();
  void measure(const CollectionInfo& collection);
  Runtime& runtime_;
  std::optional<RecallScale> scale_;
};

/// Takes a removed session's text out of the memory, with everything made from it.
void forget_session(Runtime& runtime, const std::string& id);

}  // namespace apud
