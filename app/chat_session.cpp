#include "app/chat_session.h"

#include <chrono>

#include "app/clock.h"
#include "app/json_text.h"
#include "app/prompts.h"

namespace apud {

ChatSession::ChatSession(std::shared_ptr<const Model> model, std::string model_id, bool save)
    : model_(std::move(model)), save_(save), store_(SessionStore::default_folder()) {
  session_.info.model = std::move(model_id);
}

void ChatSession::start(const std::string& name, const Opening& opening,
                        const std::vector<std::string>& collections) {
  try {
    if (save_ && !name.empty()) name_lock_.emplace(store_.reserve(name));
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kIo) throw;  // a full disk: the first save says so
  }
  std::string model_id = session_.info.model;
  session_ = store_.create(name, unix_now());
  session_.info.model = model_id;
  session_.info.collections = collections;
  conversation_ =
      std::make_unique<Conversation>(Conversation::start(model_, opening.system, unix_now()));
  session_.conversation = conversation_->data();
  ledger_ = opening.ledger();
}

void ChatSession::set_system(const std::string& text) {
  conversation_->set_system(
      ledger_.pinned().empty() ? text : pinned_frame(render_evidence(ledger_.pinned())) + text);
}

void ChatSession::open(const std::string& name_or_id, bool fork) {
  std::string model_id = session_.info.model;
  Session loaded = store_.load(name_or_id);
  if (fork) {
    loaded = store_.fork(loaded.info.id, "", 0, unix_now());
  }
  if (save_) {
    lock_.emplace(store_.open(loaded.info));
    loaded = store_.load(loaded.info.id);  // as who had it open until now left it
  }
  session_ = std::move(loaded);
  conversation_ = std::make_unique<Conversation>(model_, session_.conversation);
  session_.info.model = model_id;
  load_extra();
}

void ChatSession::load_extra() {
  ledger_ = Ledger();
  ordered_json extra = parse_json(session_.extra_json);
  if (extra.is_object() && extra.contains("ledger"))
    ledger_ = Ledger::from_json(dump_json(extra["ledger"]));
}

int ChatSession::rounds() const {
  int rounds = 0;
  for (const Turn& turn : conversation_->turns()) rounds += turn.role == "user";
  return rounds;
}

std::string ChatSession::previous_question() const {
  const std::vector<Turn>& turns = conversation_->turns();
  for (size_t i = turns.size(); i-- > 0;) {
    if (turns[i].role == "user" && !turns[i].evidence.empty()) return turns[i].content;
  }
  return {};
}

void ChatSession::finish_round(const Finished& finished, const Completion& completion,
                               const TokenCounter& counter) {
  int round = rounds();
  const Packed& packed = finished.evidence.packed;
  std::vector<int> tokens;
  for (const Passage& passage : packed.passages)
    tokens.push_back(counter.count(render_evidence(std::span(&passage, 1))));
  if (!packed.passages.empty() || !packed.referred.empty())
    ledger_.add_turn(round, packed.passages, tokens, packed.referred);
  for (const Citation& citation : finished.checked.citations)
    ledger_.note_citation(citation.passage, round);
  conversation_->add_answer(completion, answer_json(finished, true), unix_now());
  save();
}

bool ChatSession::undo() {
  int round = rounds();
  if (!conversation_->undo()) return false;
  ledger_.truncate(round);
  set_window(conversation_->data().first_turn);
  save();
  return true;
}

bool ChatSession::drop_answer() { return conversation_->drop_answer(); }

void ChatSession::drop_rounds_before(int first_turn) {
  int first_round = round_of(first_turn);
  Refinement gone;
  for (const LedgerEntry& entry : ledger_.entries()) {
    if (entry.in_prompt && entry.turn < first_round)
      gone.changes.push_back({entry.passage.id, {}, 0});
  }
  ledger_.apply(gone);
}

int ChatSession::round_of(int turn) const {
  int round = 1;
  const std::vector<Turn>& turns = conversation_->turns();
  for (int i = 0; i < turn && i < static_cast<int>(turns.size()); ++i)
    round += turns[static_cast<size_t>(i)].role == "user";
  return round;
}

std::vector<EvidenceRound> ChatSession::evidence_rounds() const {
  std::vector<EvidenceRound> rounds;
  for (const Turn& turn : conversation_->turns()) {
    if (turn.role == "user") {
      rounds.push_back({static_cast<int>(rounds.size()) + 1, turn.content, ""});
    } else if (!rounds.empty() && !says_not_in_documents(turn.content)) {
      rounds.back().answer = turn.content;
    }
  }
  return rounds;
}

void ChatSession::set_window(int first_turn) {
  int first_round = round_of(first_turn);
  std::vector<std::string> evidence;
  int round = 0;
  for (const Turn& turn : conversation_->turns()) {
    if (turn.role != "user") {
      evidence.emplace_back();
      continue;
    }
    ++round;
    evidence.push_back(
        evidence_frame(render_evidence(ledger_.standing_at(round, first_round)), turn.content));
  }
  conversation_->set_window(first_turn, evidence);
}

EvidenceRefined ChatSession::refine(const Refinement& plan, int first_turn) {
  EvidenceRefined refined;
  refined.tokens_before = plan.tokens_before;
  refined.tokens_after = plan.tokens_after;
  for (const Refinement::Change& change : plan.changes)
    (change.keep.empty() ? refined.left : refined.condensed).push_back(change.id);
  ledger_.apply(plan);
  set_window(first_turn);
  return refined;
}

void ChatSession::save() {
  session_.conversation = conversation_->data();
  ordered_json extra = {{"ledger", parse_json(ledger_.to_json())}};
  session_.extra_json = dump_json(extra);
  if (!save_) return;
  if (!lock_) lock_.emplace(store_.open(session_.info));  // before others can find it
  store_.save(session_, unix_now());
  name_lock_.reset();  // whoever asks for the name finds the session
}

void ChatSession::rename(const std::string& name) {
  save();
  lock_.reset();  // rename() takes the lock itself
  store_.rename(session_.info.id, name);
  lock_.emplace(store_.open(session_.info));
  session_.info.name = name;
  session_.info.named = true;
}

void ChatSession::fork(const std::string& name) {
  save();
  Session copy = store_.fork(session_.info.id, name, 0, unix_now());
  lock_.emplace(store_.open(copy.info));
  session_.info = copy.info;
}

std::vector<Passage> ChatSession::citable(const Finished& turn) const {
  std::vector<Passage> passages = ledger_.passages();
  for (const Passage& passage : turn.evidence.packed.passages) passages.push_back(passage);
  return passages;
}

std::string ChatSession::export_text(bool json) const {
  return json ? export_session_json(session_) : session_markdown(session_);
}

std::string session_markdown(Session session, bool receipts) {
  for (Turn& turn : session.conversation.turns) {
    if (turn.role != "assistant") continue;
    // The turn holds the model's own words, whose marks are the ledger's numbers.
    if (std::string shown = shown_answer(turn.data_json); !shown.empty())
      turn.content = std::move(shown);
  }
  return export_session_markdown(session, receipts);
}

std::string ChatSession::last_answer_data() const {
  const std::vector<Turn>& turns = conversation_->turns();
  for (size_t i = turns.size(); i-- > 0;) {
    if (turns[i].role == "assistant") return turns[i].data_json;
  }
  return {};
}

}  // namespace apud
