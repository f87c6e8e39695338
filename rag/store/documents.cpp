// Writing documents: one transaction each.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/check.h"
#include "rag/store/half.h"
#include "rag/store/impl.h"

namespace apud {

namespace {

constexpr size_t kPurgedTogether = 4;  // keyword tables of some 1.5 MB

}  // namespace

using sqlite::Database;
using sqlite::KeywordRow;
using sqlite::Statement;

std::vector<KeywordRow> sqlite::keyword_rows(std::string_view path, std::string_view text,
                                             const std::vector<StoredChunk>& chunks) {
  std::vector<KeywordRow> rows;
  rows.reserve(chunks.size());
  for (const StoredChunk& chunk : chunks) {
    APUD_CHECK(chunk.begin <= chunk.end && chunk.end <= text.size(), "chunk lies in its text");
    rows.push_back({chunk.id, chunk.heading, text.substr(chunk.begin, chunk.end - chunk.begin),
                    sqlite::keyword_path(chunk.heading_path, path)});
  }
  return rows;
}

void sqlite::rebuild_keywords(Database& db) {
  std::vector<int64_t> collections;  // no table can be dropped beside a statement that reads
  Statement known(db, "SELECT id FROM collections");
  while (known.row()) collections.push_back(known.integer(0));
  for (int64_t collection : collections) drop_keyword_tables(db, collection);
  Statement select(db,
                   "SELECT d.id, d.collection, d.path, t.text FROM documents d "
                   "JOIN texts t ON t.document = d.id WHERE d.vanished = 0 AND d.chunks > 0");
  while (select.row()) {
    std::string path = select.text(2), text = decompress(select.blob(3), "text of " + path);
    add_keywords(db, select.integer(1),
                 keyword_rows(path, text, read_chunks_of(db, select.integer(0))));
  }
}

void Store::Impl::clear_document(const DocumentInfo& info) {
  std::vector<StoredChunk> chunks = sqlite::read_chunks_of(*db, info.id);
  if (!chunks.empty()) {
    if (!info.vanished) {
      Statement text(*db, "SELECT text FROM texts WHERE document = ?");
      text.add(info.id);
      if (!text.row())
        throw Error(ErrorKind::kBadData, "text of " + info.path + " is missing in the store");
      std::string whole = sqlite::decompress(text.blob(0), "text of " + info.path);
      sqlite::remove_keywords(*db, info.collection, sqlite::keyword_rows(info.path, whole, chunks));
    }
    Statement(*db, "INSERT OR IGNORE INTO orphans SELECT vector FROM chunks WHERE document = ?")
        .add(info.id)
        .run();
    Statement(*db, "DELETE FROM chunks WHERE document = ?").add(info.id).run();
  }
  Statement(*db, "DELETE FROM texts WHERE document = ?").add(info.id).run();
}

void Store::Impl::drop_orphans() {
  // Emptying an empty table writes a page, and its commit waits for the disk.
  if (db->integer("SELECT EXISTS (SELECT 1 FROM orphans)") == 0) return;
  db->exec(
      "DELETE FROM token_codes WHERE vector IN (SELECT vector FROM orphans) AND NOT EXISTS "
      "(SELECT 1 FROM chunks WHERE chunks.vector = token_codes.vector)");
  db->exec(
      "DELETE FROM vectors WHERE id IN (SELECT vector FROM orphans) AND NOT EXISTS "
      "(SELECT 1 FROM chunks WHERE chunks.vector = vectors.id)");
  db->exec("DELETE FROM orphans");
}

void Store::Impl::drop_index_file(const std::string& collection_uuid, uintmax_t most_bytes) {
  Path file = cache_dir() / "index" / (collection_uuid + ".vec");
  std::error_code ignored;  // a cache file that is not there is as good as removed
  uintmax_t size = std::filesystem::file_size(file, ignored);
  if (!ignored && size <= most_bytes) std::filesystem::remove(file, ignored);
}

int64_t Store::put_document(WriteLock&, const DocumentInfo& info, const Document& document,
                            std::span<const NewChunk> chunks, std::span<const std::string> new_keys,
                            std::span<const float> new_vectors,
                            std::span<const std::string> new_codes) {
  Database& db = impl_->writable();
  sqlite::Transaction transaction(db);
  Statement owner(
      db,
      "SELECT c.embedder, e.dimension FROM collections c JOIN embedders e ON e.id = c.embedder "
      "WHERE c.id = ?");
  owner.add(info.collection);
  APUD_CHECK(owner.row(), "the collection of a document exists");
  int64_t embedder = owner.integer(0);
  size_t dimension = static_cast<size_t>(owner.integer(1));
  owner.reset();
  APUD_CHECK(new_vectors.size() == new_keys.size() * dimension, "one vector per key");
  APUD_CHECK(new_codes.empty() || new_codes.size() == new_keys.size(), "codes for every key");

  Statement insert_vector(db, "INSERT OR IGNORE INTO vectors(embedder, key, data) VALUES(?,?,?)");
  for (size_t i = 0; i < new_keys.size(); ++i) {
    auto row = half::from_floats(new_vectors.subspan(i * dimension, dimension));
    insert_vector.add(embedder)
        .add_blob(new_keys[i].data(), new_keys[i].size())
        .add_blob(row.data(), row.size() * sizeof(uint16_t))
        .run();
  }

  Statement insert_codes(db,
                         "INSERT OR REPLACE INTO token_codes(vector, data) SELECT id, ? FROM "
                         "vectors WHERE embedder = ? AND key = ?");
  for (size_t i = 0; i < new_codes.size(); ++i) {
    insert_codes.add_blob(new_codes[i].data(), new_codes[i].size())
        .add(embedder)
        .add_blob(new_keys[i].data(), new_keys[i].size())
        .run();
  }

  int64_t tokens = 0;
  for (const NewChunk& chunk : chunks) tokens += chunk.tokens;
  if (auto old = find_document(info.collection, info.path)) impl_->clear_document(*old);
  Statement insert(
      db,
      "INSERT INTO documents(collection, path, title, loader, status, reason, content_hash, size, "
      "mtime_ns, indexed, vanished, duplicate_of, chunks, tokens, text_bytes) "
      "VALUES(?,?,?,?,?,?,?,?,?,?,0,?,?,?,?) ON CONFLICT(collection, path) DO UPDATE SET "
      "title=excluded.title, loader=excluded.loader, status=excluded.status, "
      "reason=excluded.reason, content_hash=excluded.content_hash, size=excluded.size, "
      "mtime_ns=excluded.mtime_ns, indexed=excluded.indexed, vanished=0, "
      "duplicate_of=excluded.duplicate_of, chunks=excluded.chunks, tokens=excluded.tokens, "
      "text_bytes=excluded.text_bytes RETURNING id");
  insert.add(info.collection)
      .add(info.path)
      .add(info.title)
      .add(info.loader)
      .add(static_cast<int64_t>(info.status))
      .add(info.reason)
      .add(info.content_hash)
      .add(info.size)
      .add(info.mtime_ns)
      .add(sqlite::now_seconds())
      .add(info.duplicate_of)
      .add(static_cast<int64_t>(chunks.size()))
      .add(tokens)
      .add(static_cast<int64_t>(document.text.size()));
  APUD_CHECK(insert.row(), "an insert that returns gives a row");
  const int64_t id = insert.integer(0);
  insert.reset();  // a statement in progress would refuse the commit

  if (!chunks.empty()) {
    std::string packed = sqlite::compress(document.text);
    std::string anchors = sqlite::pack_anchors(document.anchors);
    Statement(db, "INSERT INTO texts(document, text, anchors) VALUES(?,?,?)")
        .add(id)
        .add_blob(packed.data(), packed.size())
        .add_blob(anchors.data(), anchors.size())
        .run();
    Statement find_vector(db, "SELECT id FROM vectors WHERE embedder = ? AND key = ?");
    Statement insert_chunk(
        db,
        "INSERT INTO chunks(document, ordinal, begin, end, heading, heading_path, tokens, "
        "vector) VALUES(?,?,?,?,?,?,?,?)");
    std::vector<StoredChunk> stored;
    for (size_t i = 0; i < chunks.size(); ++i) {
      const NewChunk& c = chunks[i];
      find_vector.add(embedder).add_blob(c.embedded_hash.data(), c.embedded_hash.size());
      APUD_CHECK(find_vector.row(), "every chunk's text has a vector by now");
      int64_t vector = find_vector.integer(0);
      find_vector.reset();
      insert_chunk.add(id)
          .add(static_cast<int64_t>(i))
          .add(static_cast<int64_t>(c.begin))
          .add(static_cast<int64_t>(c.end))
          .add(c.heading)
          .add(c.heading_path)
          .add(static_cast<int64_t>(c.tokens))
          .add(vector)
          .run();
      stored.push_back({db.last_id(), id, static_cast<int>(i), c.begin, c.end, c.heading,
                        c.heading_path, c.tokens});
    }
    sqlite::add_keywords(db, info.collection,
                         sqlite::keyword_rows(info.path, document.text, stored));
  }
  impl_->bump(info.collection);
  transaction.commit();
  return id;
}

void Store::move_document(WriteLock&, int64_t id, std::string_view path, int64_t mtime_ns) {
  Database& db = impl_->writable();
  sqlite::Transaction transaction(db);
  auto info = document(id);
  APUD_CHECK(info, "a moved document exists");
  // An entry without chunks may stand at the new path (a file that was empty or skipped before).
  if (auto squatter = find_document(info->collection, path); squatter && squatter->id != id) {
    impl_->clear_document(*squatter);
    Statement(db, "DELETE FROM pins WHERE document = ?").add(squatter->id).run();
    Statement(db, "DELETE FROM documents WHERE id = ?").add(squatter->id).run();
  }
  if (info->chunks > 0) {
    std::vector<StoredChunk> chunks = chunks_of(id);
    std::string whole = text(id).text;
    if (!info->vanished) {
      sqlite::remove_keywords(db, info->collection,
                              sqlite::keyword_rows(info->path, whole, chunks));
    }
    sqlite::add_keywords(db, info->collection, sqlite::keyword_rows(path, whole, chunks));
  }
  Statement(db, "UPDATE documents SET path = ?, mtime_ns = ?, vanished = 0 WHERE id = ?")
      .add(path)
      .add(mtime_ns)
      .add(id)
      .run();
  impl_->bump(info->collection);
  transaction.commit();
}

void Store::touch_document(WriteLock&, int64_t id, int64_t mtime_ns, int64_t size) {
  Statement(impl_->writable(), "UPDATE documents SET mtime_ns = ?, size = ? WHERE id = ?")
      .add(mtime_ns)
      .add(size)
      .add(id)
      .run();
}

void Store::set_vanished(WriteLock&, std::span<const int64_t> ids, bool vanished) {
  Database& db = impl_->writable();
  sqlite::Transaction transaction(db);
  for (int64_t id : ids) {
    auto info = document(id);
    APUD_CHECK(info, "a vanished document exists");
    if (info->vanished == vanished) continue;
    if (info->chunks > 0) {
      std::vector<StoredChunk> chunks = chunks_of(id);
      std::string whole = text(id).text;
      auto rows = sqlite::keyword_rows(info->path, whole, chunks);
      if (vanished) {
        sqlite::remove_keywords(db, info->collection, rows);
      } else {
        sqlite::add_keywords(db, info->collection, rows);
      }
    }
    Statement(db, "UPDATE documents SET vanished = ? WHERE id = ?")
        .add(static_cast<int64_t>(vanished))
        .add(id)
        .run();
    impl_->bump(info->collection);
  }
  transaction.commit();
}

std::vector<std::string> Store::remove_documents(WriteLock&, std::span<const int64_t> asked) {
  Database& db = impl_->writable();
  sqlite::Transaction transaction(db);
  std::vector<int64_t> ids(asked.begin(), asked.end());
  Statement twin(db,
                 "SELECT t.id FROM documents d JOIN collections c ON c.id = d.collection "
                 "JOIN collections s ON s.name = c.name || '/shadow' "
                 "JOIN documents t ON t.collection = s.id AND t.path = d.path WHERE d.id = ?");
  for (int64_t id : asked) {
    twin.add(id);
    while (twin.row()) ids.push_back(twin.integer(0));
  }
  std::vector<std::string> sessions;
  std::set<std::string> uuids;  // of the collections that change
  Statement uuid(db, "SELECT uuid FROM collections WHERE id = ?");
  Statement quoting(
      db,
      "SELECT DISTINCT a.session FROM answers a JOIN answer_documents q ON q.answer = a.id "
      "WHERE q.document = ? AND a.session != '' ORDER BY a.session");
  for (int64_t id : ids) {
    auto info = document(id);
    if (!info) continue;
    uuid.add(info->collection);
    while (uuid.row()) uuids.insert(uuid.text(0));
    quoting.add(id);
    while (quoting.row()) sessions.push_back(quoting.text(0));
    // Answers made from it hold its words in their traces.
    for (const char* sql :
         {"DELETE FROM answers WHERE id IN (SELECT answer FROM answer_documents WHERE document = "
          "?)",
          "DELETE FROM answer_documents WHERE answer NOT IN (SELECT id FROM answers)"}) {
      Statement drop(db, sql);
      if (std::string_view(sql).find('?') != std::string_view::npos) drop.add(id);
      drop.run();
    }
    impl_->clear_document(*info);
    Statement(db, "DELETE FROM pins WHERE document = ?").add(id).run();
    Statement(db, "DELETE FROM documents WHERE id = ?").add(id).run();
    impl_->bump(info->collection);
  }
  impl_->drop_orphans();
  // In the same commit where that is little: each waits for the disk.
  std::vector<sqlite::KeywordTable> stale = sqlite::stale_keyword_tables(db);
  if (stale.size() <= kPurgedTogether) {
    for (sqlite::KeywordTable table : stale) sqlite::purge_keyword_table(db, table);
  }
  transaction.commit();
  // Making it anew takes time for every vector of the collection. A larger one stays, holding what
  // was removed until it is next written; searches take it out by its ids.
  constexpr uintmax_t kRemadeAtOnce = 16u << 20;
  for (const std::string& changed : uuids) Impl::drop_index_file(changed, kRemadeAtOnce);
  std::sort(sessions.begin(), sessions.end());
  sessions.erase(std::unique(sessions.begin(), sessions.end()), sessions.end());
  return sessions;
}

void Store::set_token_centers(WriteLock&, std::string_view embedder,
                              std::span<const float> centers) {
  Statement(impl_->writable(), "UPDATE embedders SET centers = ? WHERE fingerprint = ?")
      .add_blob(centers.data(), centers.size_bytes())
      .add(embedder)
      .run();
}

void Store::set_pinned(WriteLock&, std::span<const int64_t> ids, bool pinned) {
  Database& db = impl_->writable();
  sqlite::Transaction transaction(db);
  for (int64_t id : ids) {
    Statement(db, pinned ? "INSERT OR IGNORE INTO pins(document) VALUES(?)"
                         : "DELETE FROM pins WHERE document = ?")
        .add(id)
        .run();
  }
  transaction.commit();
}

void Store::drop_leftovers(WriteLock&) {
  Database& db = impl_->writable();
  sqlite::Transaction transaction(db);
  impl_->drop_orphans();
  transaction.commit();
  sqlite::purge_keywords(db);
}

void Store::purge(WriteLock& lock) {
  drop_leftovers(lock);
  Database& db = impl_->writable();
  // Removed text is zeroed in the file by secure_delete once the log is written back and cut.
  int code =
      sqlite3_wal_checkpoint_v2(db.get(), nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
  if (code != SQLITE_OK) db.fail(code, "removed, but a reader keeps old pages alive in");
}

}  // namespace apud
