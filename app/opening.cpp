#include "app/opening.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/prompts.h"
#include "engine/conversation.h"

namespace apud {

Ledger Opening::ledger() const {
  Ledger ledger;
  ledger.set_pinned(pinned);
  return ledger;
}

std::string system_prompt(const Options& options, const std::string& asked, bool documents) {
  if (!asked.empty()) return asked;
  if (!options.settings.system.empty()) return options.settings.system;
  return std::string(documents ? system_with_documents() : system_without_documents());
}

Opening make_opening(Runtime& runtime, const std::string& system,
                     const std::vector<std::string>& collections, int answer_tokens) {
  if (answer_tokens >= runtime.context()) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("an answer of up to {} tokens leaves no room for a question in a window "
                    "of {}",
                    answer_tokens, runtime.context()),
        "lower --max-tokens (batch: max_tokens) or raise --ctx");
  }
  Opening opening;
  opening.system = system;
  std::vector<std::pair<int64_t, std::string>> documents;  // and their collection
  for (const std::string& name : collections) {
    for (int64_t id : runtime.store().pinned(runtime.store().collection(name).id))
      documents.emplace_back(id, name);
  }
  if (documents.empty()) return opening;
  std::sort(documents.begin(), documents.end());
  int limit = static_cast<int>(kPinnedShare * (runtime.context() - answer_tokens));
  for (const auto& [id, collection] : documents) {
    auto info = runtime.store().document(id);
    auto text = runtime.store().text_if_there(id);
    if (!info || !text || text->text.empty()) continue;
    Passage passage;
    passage.id = pinned_id(id);
    passage.document = id;
    passage.collection = collection;
    passage.path = info->path;
    passage.title = info->title;
    passage.end = text->text.size();
    passage.parts = {{0, passage.end}};
    passage.from = text->anchor_at(0);
    passage.to = text->anchor_at(passage.end - 1);
    passage.text = passage.source_text = std::move(text->text);
    opening.pinned.push_back(std::move(passage));
    int tokens = runtime.counter().count(render_evidence(opening.pinned));
    if (tokens <= limit) continue;
    opening.pinned.pop_back();
    opening.warnings.push_back(
        fmt::format("pinned {} left out: pinned documents may have {} tokens of this window, with "
                    "it they have {} (--ctx raises it, apud pin --rm takes pins away)",
                    info->path, limit, tokens));
  }
  if (!opening.pinned.empty())
    opening.system = pinned_frame(render_evidence(opening.pinned)) + system;
  return opening;
}

std::vector<int32_t> opening_tokens(const std::shared_ptr<const Model>& model,
                                    const std::string& system, int64_t now) {
  auto prompt = [&](const char* question) {
    Conversation conversation = Conversation::start(model, system, now);
    conversation.add_user(question, "", now);
    return conversation.prompt(1 << 24).ids;
  };
  std::vector<int32_t> one = prompt("Question"), other = prompt("问");
  one.erase(std::mismatch(one.begin(), one.end(), other.begin(), other.end()).first, one.end());
  return one;
}

}  // namespace apud
