// A conversation: turns, and the exact token ids that stand for them in a prompt.
//
// Token ids are the history. Each answer keeps the ids that were generated; rendering the next turn
// through the chat template yields text with origins, and where an answer's text appears in it the
// stored ids are put in its place, never a new tokenisation (generated ids need not be the
// tokenisation of their text). The template's clock is frozen per conversation. So turn N+1 begins
// with the very tokens of turn N, and its KV is reused; where a template rewrites earlier turns,
// the prompt says where and why.
//
// When the window is full, the oldest rounds leave the prompt, never the history; once dropped they
// stay out, and enough leave at once that it happens rarely.
//
// Ownership: ConversationData is plain data (what a session file holds); Conversation shares the
// model. Threads: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace apud {

struct Turn {
  std::string role;           // "user" or "assistant"
  std::string content;        // what was typed or answered
  std::string evidence;       // user: text put before `content` in the prompt, verbatim
  std::string reasoning;      // assistant: kept for display, never in a later prompt
  std::vector<int32_t> ids;   // assistant: generated ids of `content`; empty: tokenise
  std::string finish_reason;  // assistant
  std::string data_json;      // opaque to the engine: citations, retrieval (a JSON value or empty)
  int64_t time = 0;           // seconds since the epoch
};

struct ConversationData {
  std::string system;
  std::vector<Turn> turns;
  int64_t template_now = 0;       // the template's clock
  int first_turn = 0;             // turns before it have left the prompt
  std::vector<int32_t> sent;      // ids of the last prompt and its answer: what a cache may hold
  std::string model_fingerprint;  // of the model that made `sent` and the ids
};

enum class Think { kOff, kOn };  // reasoning of models whose template knows the switch

struct Prompt {
  std::vector<int32_t> ids;
  int dropped_turns = 0;                      // turns of the history that are not in it
  int newly_dropped = 0;                      // of these, since the last prompt
  int expected_reuse = 0;                     // tokens it shares with the last prompt and answer
  std::optional<CacheBreak> cache_break;      // where it does not simply continue
  std::optional<ReasoningMarkers> reasoning;  // for Request::reasoning
};

class Conversation {
 public:
  /// Throws kUnavailable when the model has no chat template. Ids of another model's tokenizer are
  /// dropped from `data` (the text stays); other_model() tells.
  Conversation(std::shared_ptr<const Model> model, ConversationData data);
  /// A new conversation, its clock set to `now` (seconds since the epoch).
  static Conversation start(std::shared_ptr<const Model> model, std::string system, int64_t now);

  const ConversationData& data() const { return data_; }
  const std::vector<Turn>& turns() const { return data_.turns; }
  bool other_model() const { return other_model_; }
  void set_system(std::string text);
  /// Whether the template knows enable_thinking, or the model always reasons.
  bool can_think() const;
  bool always_thinks() const;

  /// Adds a user turn. REQUIRES: the last turn is not a user turn.
  void add_user(std::string content, std::string evidence, int64_t time);
  /// Replaces data_json of a turn (index in turns()).
  void set_turn_data(int index, std::string json);
  /// The prompt for an answer to the last turn, at most `limit` tokens (context - answer reserve);
  /// drops old rounds where it must. Throws kUsage with the numbers when the last round alone is
  /// too long. REQUIRES: the last turn is a user turn.
  Prompt prompt(int limit, Think think = Think::kOff);
  /// Adds the answer to the prompt that prompt() returned last.
  void add_answer(const Completion& completion, std::string data_json, int64_t time);

  /// Tokens that the prompt would have were `content` with `evidence` the next user turn; no turn
  /// is dropped or added. For packing: limit - measure(question, "") is left for evidence.
  int measure(const std::string& content, const std::string& evidence,
              Think think = Think::kOff) const;

  /// Tokens of a prompt for `content` that begins with turn `first_turn` (a user turn, or the
  /// number of turns: nothing of the history) and carries no evidence: for planning a window.
  int measure_bare(int first_turn, const std::string& content, Think think = Think::kOff) const;
  /// First turns at which a window may begin: of the rounds still in the prompt, oldest first.
  std::vector<int> round_starts() const;
  /// Rewrites the window: it begins with turn `first_turn`, and the evidence of user turn i becomes
  /// evidence[i] (one text per turn; those of answers are ignored). The next prompt continues the
  /// last one up to the first text that differs.
  void set_window(int first_turn, std::span<const std::string> evidence);

  /// Removes the last round (user and answer). False when there is none.
  bool undo();
  /// Removes the last answer, so that prompt() asks again. False when there is none.
  bool drop_answer();
  /// Replaces the content of user turn `index` and removes everything after it.
  void edit(int index, std::string content, std::string evidence, int64_t time);

 private:
  std::vector<int32_t> render(int first_turn, Think think, bool* starts_open = nullptr) const;
  std::vector<int> rounds_after(int first_turn) const;
  void explain_break(Prompt& prompt) const;

  std::shared_ptr<const Model> model_;
  ConversationData data_;
  bool other_model_ = false;
  std::optional<CacheBreak::Cause> changed_;  // what was done since the last prompt
  std::vector<int32_t> pending_prompt_;       // ids of the last prompt(), until its answer
  int reported_first_turn_ = 0;               // dropped turns that a Prompt has told of
};

/// Puts what the prompt knows into the answer's receipt: dropped turns, and why a reuse broke.
/// Tokens that the last prompt shared and that were computed all the same are reported as evicted.
void complete_receipt(Receipt& receipt, const Prompt& prompt);

}  // namespace apud
