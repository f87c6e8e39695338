// What a chat does before the model runs: search, pack, make room in the window, build the prompt.
// Nothing here prints; the verb and the evaluations share it.
//
// Threads: one thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "app/chat_session.h"
#include "app/memory.h"

namespace apud {

struct TurnRequest {
  std::string question;
  bool again = false;                    // the last question once more: it is in the conversation
  std::vector<std::string> collections;  // empty: no documents
  int answer_tokens = 600;
  Think think = Think::kOff;
  ChatMemory* memory = nullptr;               // earlier chats; null: not used
  std::function<void(bool begin)> searching;  // before and after the search
};

struct PreparedTurn {
  Finished finished;  // question, evidence, warnings
  Prompt prompt;      // for the engine; the question is the conversation's last turn
  std::optional<EvidenceRefined> refined;
  int recalled = 0;  // passages that came from earlier chats
};

/// Throws what retrieval and Conversation::prompt() throw; the question may then be in the
/// conversation.
PreparedTurn prepare_turn(Runtime& runtime, ChatSession& session, const TurnRequest& request);

}  // namespace apud
