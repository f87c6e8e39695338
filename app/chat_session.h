// The state of one chat: conversation, evidence ledger, session file. The verb's loop and its
// commands work on it; nothing here prints.
//
// Threads: one thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "app/opening.h"
#include "app/answer.h"
#include "engine/session_store.h"
#include "rag/ledger.h"
#include "rag/refine.h"

namespace apud {

class ChatSession {
 public:
  /// A new session, or a saved one. `save` false: nothing reaches the disk.
  ChatSession(std::shared_ptr<const Model> model, std::string model_id, bool save);
  /// Opens by name or id (locks it; kBusy advises --fork); with `fork` works on a copy.
  void open(const std::string& name_or_id, bool fork);
  void start(const std::string& name, const Opening& opening,
             const std::vector<std::string>& collections);
  /// Another system prompt behind the pinned documents.
  void set_system(const std::string& text);

  Conversation& conversation() { return *conversation_; }
  Ledger& ledger() { return ledger_; }
  Session& session() { return session_; }
  bool saving() const { return save_; }
  /// Rounds so far (user turns).
  int rounds() const;
  /// The question of the last round that searched documents, "" for none: for follow-ups.
  std::string previous_question() const;
  /// What citations of a turn may name: everything in the ledger, and the turn's own passages.
  std::vector<Passage> citable(const Finished& turn) const;

  /// Notes a finished round: evidence into the ledger, citations counted, file written.
  void finish_round(const Finished& finished, const Completion& completion,
                    const TokenCounter& counter);
  bool undo();
  bool drop_answer();
  /// Questions and answers so far, for planning what evidence is still of use.
  std::vector<EvidenceRound> evidence_rounds() const;
  /// Applies a plan and lets the window begin with turn `first_turn`; what rounds before it brought
  /// and keeps moves to its first question.
  EvidenceRefined refine(const Refinement& plan, int first_turn);
  /// Passages of rounds that left the prompt leave the ledger's prompt side too.
  void drop_rounds_before(int first_turn);
  void save();
  void set_collections(const std::vector<std::string>& collections) {
    session_.info.collections = collections;
  }
  void rename(const std::string& name);
  /// Goes on under a copy; the old session stays as it is.
  void fork(const std::string& name);
  std::string export_text(bool json) const;
  /// The last answer's stored data (citations …), "" for none.
  std::string last_answer_data() const;

 private:
  void load_extra();
  /// Round (1-based) of a turn of the conversation.
  int round_of(int turn) const;
  /// Brings the evidence in the conversation's turns in line with the ledger.
  void set_window(int first_turn);
  std::shared_ptr<const Model> model_;
  bool save_;
  SessionStore store_;
  Session session_;
  std::optional<SessionStore::Lock> lock_;
  std::optional<SessionStore::Lock> name_lock_;  // until the first round is saved
  std::unique_ptr<Conversation> conversation_;
  Ledger ledger_;
};

/// A session as Markdown, its answers with their legends as the reader saw them; with receipts
/// where wanted.
std::string session_markdown(Session session, bool receipts = false);

}  // namespace apud
