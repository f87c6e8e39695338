#include "engine/conversation.h"

#include <algorithm>

#include "base/check.h"
#include "base/utf8.h"

namespace apud {
namespace {

constexpr const char* kOpenThink = "<think>";
constexpr const char* kCloseThink = "</think>";

std::string trimmed(const std::string& text) {
  size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

std::string bytes_of(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool special) {
  std::string out;
  for (int32_t id : ids) out += tokenizer.decode_token(id, special);
  return out;
}

/// A few tokens from `at`, for a message.
std::string some_text(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, int at) {
  auto from = static_cast<size_t>(at);
  if (from >= ids.size()) return {};
  size_t count = std::min<size_t>(8, ids.size() - from);
  return utf8_repair(bytes_of(tokenizer, std::span(ids).subspan(from, count), true));
}

int common_prefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return static_cast<int>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

std::string prompt_text(const Turn& turn) { return turn.evidence + turn.content; }

}  // namespace

Conversation::Conversation(std::shared_ptr<const Model> model, ConversationData data)
    : model_(std::move(model)), data_(std::move(data)) {
  if (!model_->chat_template()) {
    throw Error(ErrorKind::kUnavailable, model_->config().name + " has no chat template",
                "choose an instruct or chat model (apud model list)");
  }
  int turns = static_cast<int>(data_.turns.size());
  data_.first_turn = std::clamp(data_.first_turn, 0, std::max(0, turns - 1));
  reported_first_turn_ = data_.first_turn;
  if (!data_.model_fingerprint.empty() && data_.model_fingerprint != model_->fingerprint()) {
    other_model_ = true;
    changed_ = CacheBreak::Cause::kOtherModel;
    for (Turn& turn : data_.turns) turn.ids.clear();
    data_.sent.clear();
  }
  data_.model_fingerprint = model_->fingerprint();
  // Ids that no longer exist in the vocabulary would be read past its end.
  int32_t vocab = model_->tokenizer().vocab_size();
  auto bad = [&](int32_t id) { return id < 0 || id >= vocab; };
  for (Turn& turn : data_.turns) {
    if (std::any_of(turn.ids.begin(), turn.ids.end(), bad)) turn.ids.clear();
  }
  if (std::any_of(data_.sent.begin(), data_.sent.end(), bad)) data_.sent.clear();
}

Conversation Conversation::start(std::shared_ptr<const Model> model, std::string system,
                                 int64_t now) {
  ConversationData data;
  data.system = std::move(system);
  data.template_now = now;
  return Conversation(std::move(model), std::move(data));
}

void Conversation::set_system(std::string text) {
  if (text == data_.system) return;
  data_.system = std::move(text);
  changed_ = CacheBreak::Cause::kSystemPrompt;
}

bool Conversation::can_think() const {
  return model_->chat_template()->mentions("enable_thinking") || always_thinks();
}

bool Conversation::always_thinks() const {
  const ChatTemplate& chat = *model_->chat_template();
  return chat.mentions(kCloseThink) && !chat.mentions("enable_thinking");
}

void Conversation::add_user(std::string content, std::string evidence, int64_t time) {
  APUD_CHECK(data_.turns.empty() || data_.turns.back().role != "user",
             "users and answers alternate");
  Turn turn;
  turn.role = "user";
  turn.content = std::move(content);
  turn.evidence = std::move(evidence);
  turn.time = time;
  data_.turns.push_back(std::move(turn));
}

void Conversation::set_turn_data(int index, std::string json) {
  data_.turns.at(static_cast<size_t>(index)).data_json = std::move(json);
}

/// Ids of the prompt from `first_turn` on. Answers that the template renders as they were written
/// are represented by the ids that were generated.
std::vector<int32_t> Conversation::render(int first_turn, Think think, bool* starts_open) const {
  const ChatTemplate& chat = *model_->chat_template();
  const Tokenizer& tokenizer = model_->tokenizer();
  std::vector<ChatMessage> messages;
  std::vector<const Turn*> turn_of;  // null: the system message
  bool system_role = chat.mentions("system");
  if (!data_.system.empty() && system_role) {
    messages.push_back({"system", data_.system, {}});
    turn_of.push_back(nullptr);
  }
  for (size_t i = static_cast<size_t>(first_turn); i < data_.turns.size(); ++i) {
    const Turn& turn = data_.turns[i];
    messages.push_back({turn.role, prompt_text(turn), {}});
    turn_of.push_back(&turn);
    if (!system_role && !data_.system.empty() && i == static_cast<size_t>(first_turn)) {
      // A template without a system role: the first question carries it.
      messages.back().content = data_.system + "\n\n" + messages.back().content;
    }
  }
  TemplateOptions options;
  options.now = data_.template_now;
  if (chat.mentions("enable_thinking")) options.enable_thinking = think == Think::kOn;
  OriginText rendered = chat.render(messages, options);
  const std::string& text = rendered.text();

  std::vector<int32_t> ids;
  size_t done = 0;  // bytes of the text that have ids
  size_t next = 0;  // message whose content may come next
  for (size_t at = 0; at < text.size();) {
    if (rendered.scaffold_at(at)) {
      ++at;
      continue;
    }
    size_t end = at;
    while (end < text.size() && !rendered.scaffold_at(end)) ++end;
    std::string_view run = std::string_view(text).substr(at, end - at);
    // Contents come in the order of their messages; a template may leave some out or trim them.
    for (size_t m = next; m < messages.size(); ++m) {
      bool whole = run == messages[m].content;
      if (!whole && run != trimmed(messages[m].content)) continue;
      next = m + 1;
      const Turn* turn = turn_of[m];
      if (whole && turn && turn->role == "assistant" && !turn->ids.empty()) {
        std::vector<int32_t> before = tokenizer.encode(rendered.substr(done, at));
        ids.insert(ids.end(), before.begin(), before.end());
        ids.insert(ids.end(), turn->ids.begin(), turn->ids.end());
        done = end;
      }
      break;
    }
    at = end;
  }
  std::vector<int32_t> rest = tokenizer.encode(rendered.substr(done, text.size()));
  ids.insert(ids.end(), rest.begin(), rest.end());
  std::optional<int32_t> bos = tokenizer.bos();
  if (tokenizer.add_bos() && bos && (ids.empty() || ids.front() != *bos))
    ids.insert(ids.begin(), *bos);
  if (starts_open) *starts_open = trimmed(text).ends_with(kOpenThink);
  return ids;
}

/// First turns of the rounds after `first_turn`, the last round included.
std::vector<int> Conversation::rounds_after(int first_turn) const {
  std::vector<int> out;
  for (int i = first_turn + 1; i < static_cast<int>(data_.turns.size()); ++i) {
    if (data_.turns[static_cast<size_t>(i)].role == "user") out.push_back(i);
  }
  return out;
}

Prompt Conversation::prompt(int limit, Think think) {
  APUD_CHECK(!data_.turns.empty() && data_.turns.back().role == "user", "a question to answer");
  Prompt prompt;
  bool starts_open = false;
  prompt.ids = render(data_.first_turn, think, &starts_open);
  if (static_cast<int>(prompt.ids.size()) > limit) {
    // Enough leaves at once that the next turns fit without another break of the cache.
    int goal = limit * 3 / 4;
    for (int first : rounds_after(data_.first_turn)) {
      std::vector<int32_t> ids = render(first, think, &starts_open);
      data_.first_turn = first;
      prompt.ids = std::move(ids);
      if (static_cast<int>(prompt.ids.size()) <= goal) break;
    }
    if (static_cast<int>(prompt.ids.size()) > limit) {
      throw Error(ErrorKind::kUsage,
                  "the question with its evidence has " + std::to_string(prompt.ids.size()) +
                      " tokens, the prompt may have " + std::to_string(limit),
                  "shorten the question or raise --ctx");
    }
  }
  prompt.dropped_turns = data_.first_turn;
  prompt.newly_dropped = data_.first_turn - reported_first_turn_;
  reported_first_turn_ = data_.first_turn;
  if (can_think()) prompt.reasoning = ReasoningMarkers{kOpenThink, kCloseThink, starts_open};
  explain_break(prompt);
  pending_prompt_ = prompt.ids;
  return prompt;
}

void Conversation::explain_break(Prompt& prompt) const {
  prompt.expected_reuse = common_prefix(data_.sent, prompt.ids);
  size_t shorter = std::min(data_.sent.size(), prompt.ids.size());
  bool broken = prompt.expected_reuse < static_cast<int>(shorter);
  if (!broken && changed_ != CacheBreak::Cause::kOtherModel) return;
  CacheBreak why;
  why.position = prompt.expected_reuse;
  why.expected_text = some_text(model_->tokenizer(), data_.sent, why.position);
  why.new_text = some_text(model_->tokenizer(), prompt.ids, why.position);
  if (changed_) {
    why.cause = *changed_;
  } else if (prompt.newly_dropped > 0) {
    why.cause = CacheBreak::Cause::kTurnsDropped;
  } else {
    // The turn before the question; where it was thought for, its text follows the reasoning.
    size_t turns = data_.turns.size();
    bool thought = turns >= 2 && !data_.turns[turns - 2].reasoning.empty();
    why.cause = thought ? CacheBreak::Cause::kReasoning : CacheBreak::Cause::kTemplate;
  }
  prompt.cache_break = std::move(why);
}

void Conversation::add_answer(const Completion& completion, std::string data_json, int64_t time) {
  APUD_CHECK(!data_.turns.empty() && data_.turns.back().role == "user", "an answer to a question");
  const Tokenizer& tokenizer = model_->tokenizer();
  Turn turn;
  turn.role = "assistant";
  turn.content = completion.text;
  turn.reasoning = completion.reasoning;
  turn.finish_reason = finish_reason_name(completion.finish_reason);
  turn.data_json = std::move(data_json);
  turn.time = time;
  // The ids of the answer: without reasoning, and up to a stop string when that falls between
  // tokens.
  auto answer = std::span(completion.tokens).subspan(static_cast<size_t>(completion.answer_begin));
  std::string bytes;
  size_t count = 0;
  while (count < answer.size() && bytes.size() < turn.content.size()) {
    bytes += tokenizer.decode_token(answer[count++]);
  }
  if (bytes == turn.content || utf8_repair(bytes_of(tokenizer, answer, false)) == turn.content) {
    if (bytes != turn.content) count = answer.size();
    turn.ids.assign(answer.begin(), answer.begin() + static_cast<ptrdiff_t>(count));
  }
  data_.turns.push_back(std::move(turn));
  data_.sent = std::move(pending_prompt_);
  pending_prompt_.clear();
  data_.sent.insert(data_.sent.end(), completion.tokens.begin(), completion.tokens.end());
  changed_.reset();
  other_model_ = false;
}

int Conversation::measure(const std::string& content, const std::string& evidence,
                          Think think) const {
  Conversation next = *this;
  next.add_user(content, evidence, 0);
  return static_cast<int>(next.render(next.data_.first_turn, think).size());
}

int Conversation::measure_bare(int first_turn, const std::string& content, Think think) const {
  Conversation next = *this;
  for (Turn& turn : next.data_.turns) turn.evidence.clear();
  next.add_user(content, {}, 0);
  return static_cast<int>(next.render(first_turn, think).size());
}

std::vector<int> Conversation::round_starts() const { return rounds_after(data_.first_turn - 1); }

void Conversation::set_window(int first_turn, std::span<const std::string> evidence) {
  APUD_CHECK(evidence.size() == data_.turns.size(), "one text per turn");
  for (size_t i = 0; i < evidence.size(); ++i) {
    Turn& turn = data_.turns[i];
    if (turn.role != "user" || turn.evidence == evidence[i]) continue;
    turn.evidence = evidence[i];
    if (!changed_ && static_cast<int>(i) >= data_.first_turn)
      changed_ = CacheBreak::Cause::kEvidence;
  }
  data_.first_turn = first_turn;
}

bool Conversation::undo() {
  if (data_.turns.empty()) return false;
  if (data_.turns.back().role == "assistant") data_.turns.pop_back();
  if (!data_.turns.empty() && data_.turns.back().role == "user") data_.turns.pop_back();
  // A window that had closed over what is left opens again.
  if (data_.first_turn >= static_cast<int>(data_.turns.size())) data_.first_turn = 0;
  reported_first_turn_ = std::min(reported_first_turn_, data_.first_turn);
  changed_ = CacheBreak::Cause::kEdited;
  return true;
}

bool Conversation::drop_answer() {
  if (data_.turns.empty() || data_.turns.back().role != "assistant") return false;
  data_.turns.pop_back();
  changed_ = CacheBreak::Cause::kEdited;
  return true;
}

void Conversation::edit(int index, std::string content, std::string evidence, int64_t time) {
  auto at = static_cast<size_t>(index);
  APUD_CHECK(at < data_.turns.size() && data_.turns[at].role == "user", "a user turn to edit");
  data_.turns.resize(at);
  if (data_.first_turn > index) data_.first_turn = 0;
  reported_first_turn_ = std::min(reported_first_turn_, data_.first_turn);
  add_user(std::move(content), std::move(evidence), time);
  changed_ = CacheBreak::Cause::kEdited;
}

void complete_receipt(Receipt& receipt, const Prompt& prompt) {
  receipt.dropped_turns = prompt.dropped_turns;
  receipt.cache_break = prompt.cache_break;
  // What a tier held and was faster computed is not gone.
  int held = receipt.usage.cached;
  for (const TierChoice& choice : receipt.tiers) held += choice.used ? 0 : choice.tokens;
  // The last token generated was never run, and a prompt's last token always is.
  if (held + 2 < prompt.expected_reuse) {
    CacheBreak evicted;
    evicted.cause = CacheBreak::Cause::kEvicted;
    evicted.position = receipt.usage.cached;
    receipt.cache_break = std::move(evicted);
  }
}

}  // namespace apud
