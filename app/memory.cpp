#include "app/memory.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/json_text.h"
#include "app/signals.h"
#include "engine/disk_cache.h"
#include "engine/session_store.h"
#include "rag/index.h"
#include "rag/ingest.h"

namespace apud {

namespace {

constexpr int kLooked = 12;  // hits that the decision looks at

Path session_path(const std::string& id) { return SessionStore::default_folder() / (id + ".json"); }

}  // namespace

void check_not_reserved(const std::string& collection) {
  if (collection == kMemoryCollection) {
    throw Error(ErrorKind::kUsage,
                fmt::format("collection {} is kept for what `chat --memory` recalls", collection),
                "choose another name");
  }
}

bool ChatMemory::there() {
  return runtime_.has_store() && runtime_.store().find_collection(kMemoryCollection).has_value();
}

std::string ChatMemory::sync() {
  Path folder = SessionStore::default_folder();
  if (SessionStore(folder).list().empty()) return {};
  IngestOptions options;
  options.collection = kMemoryCollection;
  options.walk.include = {"*.json"};
  options.walk.no_ignore = true;
  options.prune = true;
  options.calibrate = false;  // recall_rounds() decides
  try {
    Store& store = runtime_.writer();
    std::optional<CollectionInfo> known = store.find_collection(kMemoryCollection);
    EngineEmbedder& embedder = known && !known->embedder.name.empty()
                                   ? runtime_.embedder_of(*known)
                                   : runtime_.embedder(runtime_.options.settings.embedder);
    ingest(store, embedder, std::span(&folder, 1), options, {}, &cancel_flag());
    measure(store.collection(kMemoryCollection));
    return {};
  } catch (const Error& e) {
    return std::string("earlier chats are not indexed up to now: ") + e.what();
  }
}

/// The scale as last measured, or measured again where the collection has grown since.
void ChatMemory::measure(const CollectionInfo& collection) {
  Path file = cache_dir() / "memory.json";
  std::string of = collection.uuid + "/" + collection.embedder.fingerprint;
  try {
    ordered_json known = parse_json(read_file_if_exists(file, 1 << 16).value_or("{}"));
    if (known.is_object() && known.value("of", "") == of) {
      RecallScale scale{known.value("median", 0.0), known.value("high", 0.0),
                        known.value("chunks", int64_t{0})};
      int64_t drift = std::abs(collection.chunks - scale.chunks);
      if (scale.high > scale.median && drift * 5 <= scale.chunks) {
        scale_ = scale;
        return;
      }
    }
  } catch (const std::exception&) {
    // A cache file that cannot be read is measured anew.
  }
  scale_ =
      measure_recall_scale(runtime_.store(), runtime_.retriever({kMemoryCollection}), collection);
  if (!scale_) return;
  try {
    make_private_dir(cache_dir());
    write_file_atomic(file, dump_json({{"of", of},
                                       {"median", scale_->median},
                                       {"high", scale_->high},
                                       {"chunks", scale_->chunks}}));
  } catch (const Error&) {
    // Measured again next time.
  }
}

std::vector<Hit> ChatMemory::recall(const std::string& question, const std::string& session) {
  if (!there()) return {};
  std::vector<std::string> collections = {kMemoryCollection};
  RetrieveOptions retrieve;
  retrieve.k = kLooked;
  Retrieval found = runtime_.retriever(collections).retrieve(question, collections, retrieve);
  std::string own = session_path(session).string();
  std::erase_if(found.hits, [&](const Hit& hit) { return hit.path == own; });
  RecallOptions options;
  options.scale = scale_;
  return recall_rounds(runtime_.store(), found.hits, question, options);
}

Packed ChatMemory::pack(const std::vector<Hit>& rounds, const std::string& question, int first_id,
                        int budget, const std::vector<SentRange>& sent) {
  if (rounds.empty()) return {};
  PackOptions options;
  options.budget = budget;
  options.first_id = first_id;
  options.sent = sent;
  options.whole_document = false;
  Packed packed =
      runtime_.packer({kMemoryCollection}).pack(rounds, question, runtime_.counter(), options);
  for (Passage& passage : packed.passages)
    passage.path = fmt::format("chat {}", passage.title.empty() ? "without a name" : passage.title);
  return packed;
}

void forget_session(Runtime& runtime, const std::string& id) {
  if (!runtime.has_store()) return;
  Store& store = runtime.writer();
  std::optional<CollectionInfo> memory = store.find_collection(kMemoryCollection);
  if (!memory) return;
  auto document = store.find_document(memory->id, session_path(id).string());
  if (!document) return;
  remove_kv_pages_tagged(default_kv_cache_dir(), fmt::format("doc:{}", document->id));
  WriteLock lock(store);
  store.remove_documents(lock, std::span(&document->id, 1));
  store.purge(lock);
  remake_vector_index(store, store.collection(kMemoryCollection));
}

}  // namespace apud
