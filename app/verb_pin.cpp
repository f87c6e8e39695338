// `apud pin`: documents that stand whole at the beginning of every conversation with their
// collection, read once.
#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "app/clock.h"
#include "app/find_documents.h"
#include "app/json_text.h"
#include "app/opening.h"
#include "app/progress.h"
#include "app/runtime.h"

namespace apud {

namespace {

constexpr int kMostSavingMs = 600'000;  // what a pin is for: its pages must reach the disk

int list_pins(Runtime& runtime, const CollectionInfo& collection) {
  Terminal& terminal = runtime.terminal;
  ordered_json out = {{"schema", kJsonSchema}, {"pins", ordered_json::array()}};
  std::vector<int64_t> pinned = runtime.store().pinned(collection.id);
  for (int64_t id : pinned) {
    std::optional<DocumentInfo> info = runtime.store().document(id);
    if (!info) continue;
    if (runtime.options.common.json) {
      out["pins"].push_back(
          {{"id", pinned_id(id)}, {"path", info->path}, {"tokens", info->tokens}});
    } else {
      terminal.out_text(fmt::format("[{}] {}\n", pinned_id(id), info->path));
    }
  }
  if (runtime.options.common.json) terminal.out(dump_json(out) + "\n");
  terminal.flush();
  return pinned.empty() ? 1 : 0;
}

/// Computes the KV of a collection's pinned documents, so that conversations begin after them.
void read_pinned(Runtime& runtime, const std::string& collection) {
  Terminal& terminal = runtime.terminal;
  const Options& o = runtime.options;
  std::vector<std::string> collections = {collection};
  Opening opening =
      make_opening(runtime, system_prompt(o, "", true), collections, o.settings.answer);
  if (opening.pinned.empty()) return;
  std::vector<std::string> tags;
  for (const Passage& passage : opening.pinned)
    tags.push_back(fmt::format("doc:{}", passage.document));
  std::vector<int32_t> tokens =
      opening_tokens(runtime.chat_model().model, opening.system, unix_now());
  Engine& engine = runtime.engine();
  int known = engine.reusable(tokens).total;
  terminal.progress(fmt::format("reading {} tokens once", tokens.size() - known), true);
  engine.pin(tokens, tags);
  engine.save_pending(kMostSavingMs);
  terminal.progress("", true);
  int total = engine.reusable(tokens).total;
  terminal.note(fmt::format(
      "{} pinned document{} of {}, {} tokens with the system prompt ({} read now): conversations "
      "begin after them",
      opening.pinned.size(), opening.pinned.size() == 1 ? "" : "s", collection, total,
      static_cast<int>(tokens.size()) - known));
}

/// Pins documents, unless all pinned ones together would not fit: then none of them.
void pin(Runtime& runtime, const std::string& name, std::span<const int64_t> ids) {
  Store& store = runtime.writer();
  {
    WriteLock lock(store);
    std::vector<int64_t> before = store.pinned(store.collection(name).id);
    store.set_pinned(lock, ids, true);
    Opening opening = make_opening(runtime, "", {name}, runtime.options.settings.answer);
    if (!opening.warnings.empty()) {
      std::vector<int64_t> fresh;
      for (int64_t id : ids) {
        if (!std::binary_search(before.begin(), before.end(), id)) fresh.push_back(id);
      }
      store.set_pinned(lock, fresh, false);
      throw Error(ErrorKind::kUsage, opening.warnings.front(), "pin fewer or shorter documents");
    }
  }
  read_pinned(runtime, name);
}

}  // namespace

void pin_paths(Runtime& runtime, const std::string& collection,
               const std::vector<std::string>& paths) {
  Store& store = runtime.writer();
  int64_t id = store.collection(collection).id;
  std::vector<int64_t> ids;
  for (const std::string& path : paths) {
    if (auto info = store.find_document(id, path))
      ids.push_back(info->duplicate_of > 0 ? info->duplicate_of : info->id);
  }
  if (!ids.empty()) pin(runtime, collection, ids);
}

int verb_pin(Runtime& runtime) {
  const Options& o = runtime.options;
  std::string name =
      o.common.collections.empty() ? o.settings.collection : o.common.collections.front();
  CollectionInfo collection = runtime.store().collection(name);
  if (o.manage.names.empty()) return list_pins(runtime, collection);
  std::vector<int64_t> ids;
  for (const std::string& wanted : o.manage.names) {
    for (const DocumentInfo& d : match_documents(runtime.store(), collection, wanted))
      ids.push_back(d.duplicate_of > 0 ? d.duplicate_of : d.id);
  }
  if (!o.manage.remove) {
    pin(runtime, name, ids);
    return 0;
  }
  Store& store = runtime.writer();
  WriteLock lock(store);
  store.set_pinned(lock, ids, false);
  runtime.terminal.note(
      fmt::format("{} pinned documents left", store.pinned(collection.id).size()));
  return 0;
}

}  // namespace apud
