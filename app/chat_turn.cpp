#include "app/chat_turn.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/clock.h"
#include "app/reword.h"
#include "app/turn.h"
#include "rag/refine.h"

namespace apud {

namespace {

// Shares of a window (context less answer reserve). Measured on 10-turn conversations: more
// evidence a turn means more rebuilds, less means that more answers are missing from it.
constexpr int kFirstShare = 3;        // evidence of the first round: a third
constexpr int kLaterShare = 10;       // of later ones, what they find in the prompt included
constexpr double kKept = 0.45;        // what a rebuild leaves of the window
constexpr double kRounds = 0.2;       // of it at most for questions and answers,
constexpr double kRoundsAlone = 0.6;  // where there is no evidence beside them
constexpr size_t kLastRounds = 2;     // which stay whatever they take

constexpr int kMemoryTokens = 300;  // of rounds of earlier chats

int evidence_share(const ChatSession& session, int limit) {
  return std::max(256, limit / (session.rounds() == 0 ? kFirstShare : kLaterShare));
}

/// Do the best hits lie in what the conversation already shows? Then the question goes on with it,
/// however short its words, and the model answers from there.
bool goes_on(const Retrieval& retrieval, const Ledger& ledger) {
  constexpr size_t kLooked = 3;
  for (size_t i = 0; i < std::min(kLooked, retrieval.hits.size()); ++i) {
    const Hit& hit = retrieval.hits[i];
    for (const SentRange& there : ledger.sent()) {
      if (there.document == hit.document && there.begin < hit.end && hit.begin < there.end)
        return true;
    }
  }
  return false;
}

/// Makes room in one rebuild, rarely: old rounds leave, evidence shrinks to its useful sentences.
EvidenceRefined refine(Runtime& runtime, ChatSession& session, const std::string& question,
                       int limit, Think think) {
  const Conversation& conversation = session.conversation();
  std::vector<int> starts = conversation.round_starts();
  int first = conversation.data().first_turn;
  double share = session.ledger().prompt_tokens() > 0 ? kRounds : kRoundsAlone;
  for (size_t i = 0; i < starts.size(); ++i) {
    first = starts[i];
    if (i + kLastRounds >= starts.size()) break;
    if (conversation.measure_bare(first, question, think) <= share * limit) break;
  }
  RefineOptions options;
  options.target = std::max(
      0, static_cast<int>(kKept * limit) - conversation.measure_bare(first, question, think));
  std::vector<EvidenceRound> rounds = session.evidence_rounds();
  rounds.push_back({static_cast<int>(rounds.size()) + 1, question, ""});
  return session.refine(plan_refinement(session.ledger(), rounds, runtime.counter(), options),
                        first);
}

}  // namespace

PreparedTurn prepare_turn(Runtime& runtime, ChatSession& session, const TurnRequest& request) {
  PreparedTurn turn;
  Finished& finished = turn.finished;
  finished.question = request.question;
  finished.model = runtime.chat_model().installed.id;
  Conversation& conversation = session.conversation();
  int context = runtime.context();
  int limit = context - request.answer_tokens;
  if (!request.again) {
    bool asks = needs_retrieval(request.question, session.rounds() == 0);
    bool search = asks && !request.collections.empty();
    bool recall = asks && request.memory != nullptr;
    EvidenceRequest evidence;
    evidence.question = request.question;
    evidence.previous_question = session.previous_question();
    evidence.collections = request.collections;
    evidence.ledger = &session.ledger();
    evidence.evidence_tokens = std::min(runtime.evidence_tokens(), evidence_share(session, limit));
    evidence.answer_tokens = request.answer_tokens;
    evidence.context = context;
    if ((search || recall) && request.searching) request.searching(true);
    if (recall) {
      evidence.recalled = request.memory->pack(
          request.memory->recall(request.question, session.session().info.id), request.question,
          session.ledger().next_id(), std::min(kMemoryTokens, evidence.evidence_tokens / 2),
          session.ledger().sent());
      turn.recalled = static_cast<int>(evidence.recalled.passages.size());
      finished.evidence.budget = evidence.evidence_tokens;
    }
    if (search) {
      finished.evidence = search_evidence(runtime, evidence);
      if (finished.evidence.abstained && goes_on(*finished.evidence.retrieval, session.ledger())) {
        finished.evidence.abstained = false;
        finished.evidence.found = true;
        finished.evidence.retrieval->below_line = false;
      } else if (finished.evidence.abstained && turn.recalled == 0) {
        retry_search(runtime, evidence, finished.evidence);
      }
    }
    if (turn.recalled > 0) {
      finished.evidence.abstained = false;
      finished.evidence.found = true;
    }
    bool found = finished.evidence.found;
    if (found) {
      // First as if the window were endless: most turns fit, and a turn that comes back to known
      // passages brings little.
      EvidenceRequest endless = evidence;
      endless.context = 1 << 24;
      pack_evidence(runtime, conversation, endless, finished.evidence);
    }
    if (conversation.measure(request.question, finished.evidence.frame, request.think) > limit) {
      if (session.rounds() > 0 && (found || session.ledger().prompt_tokens() > 0))
        turn.refined = refine(runtime, session, request.question, limit, request.think);
      if (found) pack_evidence(runtime, conversation, evidence, finished.evidence);
    }
    warn_left_out(finished.evidence);
    if ((search || recall) && request.searching) request.searching(false);
    finished.warnings = finished.evidence.warnings;
    conversation.add_user(request.question, finished.evidence.frame, unix_now());
  }
  turn.prompt = conversation.prompt(limit, request.think);
  if (turn.prompt.newly_dropped > 0) {
    session.drop_rounds_before(conversation.data().first_turn);
    finished.warnings.push_back(
        fmt::format("window full: the oldest {} messages left the prompt (the history keeps them)",
                    turn.prompt.newly_dropped));
  }
  return turn;
}

}  // namespace apud
