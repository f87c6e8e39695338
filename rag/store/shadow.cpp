// A second set of chunks beside a live collection, put in its place by one transaction.
#include <fmt/format.h>

#include "base/check.h"
#include "rag/store/impl.h"

namespace apud {

using sqlite::Database;
using sqlite::Statement;

std::string Store::shadow_name(std::string_view live) { return std::string(live) + "/shadow"; }

CollectionInfo Store::create_shadow(WriteLock&, std::string_view live,
                                    const EmbedderIdentity& embedder, std::string_view chunker) {
  collection(live);
  std::string name = shadow_name(live);
  if (find_collection(name))
    throw Error(ErrorKind::kUsage, fmt::format("'{}' exists already", name),
                fmt::format("apud coll rm {} removes it", name));
  return impl_->insert_collection(*this, name, embedder, chunker);
}

void Store::adopt_shadow(WriteLock&, std::string_view name, int64_t generation) {
  Database& db = impl_->writable();
  std::string live_uuid, shadow_uuid;
  {
    sqlite::Transaction transaction(db);
    const CollectionInfo live = collection(name), shadow = collection(shadow_name(name));
    live_uuid = live.uuid, shadow_uuid = shadow.uuid;
    if (live.generation != generation) {
      throw Error(ErrorKind::kBusy,
                  fmt::format("collection '{}' was changed while its shadow was made", name),
                  "run it again: only the difference is computed");
    }
    auto run = [&](const std::string& sql) { Statement(db, sql).run(); };
    // Documents keep their ids: pins, answers and KV pages know them.
    const std::string live_documents =
        fmt::format("(SELECT id FROM documents WHERE collection = {})", live.id);
    const std::string pairs = fmt::format(
        "documents l JOIN documents s ON s.path = l.path AND l.collection = {} AND s.collection = "
        "{}",
        live.id, shadow.id);
    run("INSERT OR IGNORE INTO orphans SELECT vector FROM chunks WHERE document IN " +
        live_documents);
    run("DELETE FROM chunks WHERE document IN " + live_documents);
    run("DELETE FROM texts WHERE document IN " + live_documents);
    for (const char* table : {"chunks", "texts"}) {
      run(
          fmt::format("UPDATE {0} SET document = (SELECT l.id FROM {1} WHERE s.id = {0}.document) "
                      "WHERE document IN (SELECT s.id FROM {1})",
                      table, pairs));
    }
    run(fmt::format(
        "UPDATE documents SET (title, loader, status, reason, content_hash, size, mtime_ns, "
        "indexed, vanished, duplicate_of, chunks, tokens, text_bytes) = (SELECT s.title, s.loader, "
        "s.status, s.reason, s.content_hash, s.size, s.mtime_ns, s.indexed, 0, "
        "coalesce((SELECT o.id FROM documents o JOIN documents d ON d.path = o.path WHERE d.id = "
        "s.duplicate_of AND o.collection = {0}), 0), s.chunks, s.tokens, s.text_bytes FROM "
        "documents s WHERE s.path = documents.path AND s.collection = {1}) "
        "WHERE collection = {0} AND path IN (SELECT path FROM documents WHERE collection = {1})",
        live.id, shadow.id));
    // Without a counterpart: files that vanished. Read anew should they come back.
    run(fmt::format(
        "UPDATE documents SET chunks = 0, tokens = 0, text_bytes = 0, size = -1, mtime_ns = -1 "
        "WHERE collection = {} AND path NOT IN (SELECT path FROM documents WHERE collection = {})",
        live.id, shadow.id));
    run(fmt::format("DELETE FROM documents WHERE collection = {}", shadow.id));
    run(fmt::format("DELETE FROM roots WHERE collection = {}", shadow.id));
    sqlite::replace_keyword_tables(db, live.id, shadow.id);
    run(fmt::format(
        "UPDATE collections SET (embedder, chunker, dense_weight, abstain_line, "
        "abstain_line_cjk, calibration_queries, calibrated_chunks) = (SELECT embedder, chunker, "
        "dense_weight, abstain_line, abstain_line_cjk, calibration_queries, calibrated_chunks FROM "
        "collections WHERE id = {1}) "
        "WHERE id = {0}",
        live.id, shadow.id));
    run(fmt::format("DELETE FROM collections WHERE id = {}", shadow.id));
    int64_t strays =
        db.integer("SELECT count(*) FROM chunks WHERE document NOT IN (SELECT id FROM documents)");
    APUD_CHECK(strays == 0, "every document of a shadow is one of its collection");
    impl_->drop_orphans();
    impl_->bump(live.id);
    transaction.commit();
  }
  for (const std::string& uuid : {live_uuid, shadow_uuid}) Impl::drop_index_file(uuid);
}

struct ReadSnapshot::Impl {
  sqlite::Snapshot snapshot;
};

ReadSnapshot::ReadSnapshot(Store& store)
    : impl_(new Impl{sqlite::Snapshot(store.impl_->database())}) {}
ReadSnapshot::~ReadSnapshot() = default;

}  // namespace apud
