// Collections: what they are called, hold and are made with; their roots, calibration, generation.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/nearest.h"
#include "base/utf8.h"
#include "rag/store/impl.h"

namespace apud {
namespace {

using sqlite::Database;
using sqlite::Statement;

void check_name(std::string_view name) {
  size_t characters = 0;
  bool good = !name.empty() && utf8_valid(name) && name.front() != '-' && name.front() != '.';
  for (size_t pos = 0; good && pos < name.size(); ++characters) {
    Utf8Char c = utf8_decode(name, pos);
    pos += c.size;
    if (c.code < 0x80) {
      good = (c.code >= 'a' && c.code <= 'z') || (c.code >= 'A' && c.code <= 'Z') ||
             (c.code >= '0' && c.code <= '9') || c.code == '-' || c.code == '_' || c.code == '.';
    } else {
      good = c.code >= 0xA0 && display_width(c.code) > 0 && c.code != 0x3000;
    }
  }
  if (!good || characters > 64) {
    throw Error(ErrorKind::kUsage, fmt::format("collection name '{}' cannot be used", name),
                "use 1 to 64 letters, digits, '-', '_' or '.', not beginning with '-' or '.'");
  }
}

CollectionInfo read_collection(Database& db, Statement& row) {
  CollectionInfo info;
  info.id = row.integer(0);
  info.uuid = row.text(1);
  info.name = row.text(2);
  info.embedder = {row.text(3), row.text(4), static_cast<int>(row.integer(5))};
  info.chunker = row.text(6);
  info.calibration = {row.real(7), row.real(8), row.real(9), static_cast<int>(row.integer(10)),
                      row.integer(11)};
  info.generation = row.integer(12);
  info.created = row.integer(13);
  info.changed = row.integer(14);
  Statement roots(db, "SELECT path FROM roots WHERE collection = ? ORDER BY path");
  roots.add(info.id);
  while (roots.row()) info.roots.push_back(roots.text(0));
  Statement sums(db,
                 "SELECT count(*) FILTER (WHERE vanished = 0 AND chunks > 0), count(*) FILTER "
                 "(WHERE vanished = 1), "
                 "coalesce(sum(chunks) FILTER (WHERE vanished = 0), 0), "
                 "coalesce(sum(tokens) FILTER (WHERE vanished = 0), 0), "
                 "coalesce(sum(text_bytes) FILTER (WHERE vanished = 0), 0) "
                 "FROM documents WHERE collection = ?");
  sums.add(info.id);
  sums.row();
  info.documents = sums.integer(0);
  info.vanished = sums.integer(1);
  info.chunks = sums.integer(2);
  info.tokens = sums.integer(3);
  info.text_bytes = sums.integer(4);
  return info;
}

constexpr const char* kCollectionQuery =
    "SELECT c.id, c.uuid, c.name, e.fingerprint, e.name, e.dimension, c.chunker, c.dense_weight, "
    "c.abstain_line, c.abstain_line_cjk, c.calibration_queries, c.calibrated_chunks, c.generation, "
    "c.created, "
    "c.changed "
    "FROM collections c JOIN embedders e ON e.id = c.embedder ";

}  // namespace

std::vector<CollectionInfo> Store::collections() {
  Database& db = impl_->database();
  sqlite::Snapshot snapshot(db);
  Statement select(db, std::string(kCollectionQuery) + "ORDER BY c.name");
  std::vector<CollectionInfo> all;
  while (select.row()) all.push_back(read_collection(db, select));
  return all;
}

std::optional<CollectionInfo> Store::find_collection(std::string_view name) {
  Database& db = impl_->database();
  sqlite::Snapshot snapshot(db);
  Statement select(db, std::string(kCollectionQuery) + "WHERE c.name = ?");
  select.add(name);
  if (!select.row()) return std::nullopt;
  return read_collection(db, select);
}

CollectionInfo Store::collection(std::string_view name) {
  if (auto found = find_collection(name)) return *found;
  std::vector<std::string> names;
  Statement select(impl_->database(), "SELECT name FROM collections");
  while (select.row()) {
    if (std::string other = select.text(0); other.find('/') == std::string::npos)
      names.push_back(other);
  }
  std::vector<std::string> near = nearest_names(std::string(name), names);
  std::string advice = names.empty()  ? "there are no collections yet: run apud ingest FOLDER"
                       : near.empty() ? "apud coll list shows them"
                                      : fmt::format("there is: {}", fmt::join(near, ", "));
  if (!near.empty() && names.size() > near.size()) advice += ", … (apud coll list)";
  throw Error(ErrorKind::kNoInput, fmt::format("no collection named '{}'", name), advice);
}

CollectionInfo Store::create_collection(WriteLock&, std::string_view name,
                                        const EmbedderIdentity& embedder,
                                        std::string_view chunker) {
  check_name(name);
  if (find_collection(name)) {
    throw Error(ErrorKind::kUsage, fmt::format("a collection named '{}' exists already", name));
  }
  return impl_->insert_collection(*this, name, embedder, chunker);
}

CollectionInfo Store::Impl::insert_collection(Store& store, std::string_view name,
                                              const EmbedderIdentity& embedder,
                                              std::string_view chunker) {
  Database& db = writable();
  sqlite::Transaction transaction(db);
  int64_t now = sqlite::now_seconds();
  Statement insert(
      db,
      "INSERT INTO collections(uuid, name, embedder, chunker, dense_weight, abstain_line, "
      "calibration_queries, calibrated_chunks, generation, created, changed) "
      "VALUES(?,?,?,?,0.6,0.0,0,0,?,?,?)");
  insert.add(fmt::format("{:016x}{:016x}", sqlite::random64(), sqlite::random64()))
      .add(name)
      .add(embedder_id(embedder))
      .add(chunker)
      .add(static_cast<int64_t>(1 + sqlite::random64() % (1u << 20)))
      .add(now)
      .add(now)
      .run();
  transaction.commit();
  return store.collection(name);
}

void Store::rename_collection(WriteLock&, std::string_view from, std::string_view to) {
  collection(from);  // kNoInput
  check_name(to);
  if (find_collection(to)) {
    throw Error(ErrorKind::kUsage, fmt::format("a collection named '{}' exists already", to));
  }
  Database& db = impl_->writable();
  sqlite::Transaction transaction(db);
  Statement rename(db, "UPDATE collections SET name = ? WHERE name = ?");
  rename.add(to).add(from).run();
  rename.add(shadow_name(to)).add(shadow_name(from)).run();
  transaction.commit();
}

std::vector<std::string> Store::remove_collection(WriteLock& lock, std::string_view name) {
  CollectionInfo info = collection(name);
  if (find_collection(shadow_name(name))) remove_collection(lock, shadow_name(name));
  std::vector<int64_t> ids;
  for (const DocumentInfo& d : documents(info.id)) ids.push_back(d.id);
  Database& db = impl_->writable();
  std::vector<std::string> sessions;
  {
    sqlite::Transaction transaction(db);
    Statement quoting(
        db,
        "SELECT DISTINCT a.session FROM answers a JOIN answer_documents q ON q.answer = a.id "
        "JOIN documents d ON d.id = q.document WHERE d.collection = ? AND a.session != '' "
        "ORDER BY a.session");
    quoting.add(info.id);
    while (quoting.row()) sessions.push_back(quoting.text(0));
    const char* mine = "(SELECT id FROM documents WHERE collection = ?)";
    auto run = [&](const std::string& sql) { Statement(db, sql).add(info.id).run(); };
    // Answers made from its documents hold their words in their traces.
    run(
        fmt::format("DELETE FROM answers WHERE id IN (SELECT answer FROM answer_documents WHERE "
                    "document IN {})",
                    mine));
    Statement(db, "DELETE FROM answer_documents WHERE answer NOT IN (SELECT id FROM answers)")
        .run();
    run(fmt::format("INSERT OR IGNORE INTO orphans SELECT vector FROM chunks WHERE document IN {}",
                    mine));
    run(fmt::format("DELETE FROM chunks WHERE document IN {}", mine));
    run(fmt::format("DELETE FROM texts WHERE document IN {}", mine));
    run(fmt::format("DELETE FROM pins WHERE document IN {}", mine));
    run("DELETE FROM documents WHERE collection = ?");
    run("DELETE FROM roots WHERE collection = ?");
    sqlite::drop_keyword_tables(db, info.id);
    run("DELETE FROM collections WHERE id = ?");
    impl_->drop_orphans();
    transaction.commit();
  }
  purge(lock);
  Impl::drop_index_file(info.uuid);
  return sessions;
}

void Store::set_calibration(WriteLock&, int64_t collection, const Calibration& c) {
  Statement(impl_->writable(),
            "UPDATE collections SET dense_weight = ?, abstain_line = ?, abstain_line_cjk = ?, "
            "calibration_queries = ?, calibrated_chunks = ? WHERE id = ?")
      .add(c.dense_weight)
      .add(c.abstain_line)
      .add(c.abstain_line_cjk)
      .add(static_cast<int64_t>(c.queries))
      .add(c.chunks)
      .add(collection)
      .run();
}

void Store::add_root(WriteLock&, int64_t collection, std::string_view root) {
  Statement(impl_->writable(), "INSERT OR IGNORE INTO roots(collection, path) VALUES(?,?)")
      .add(collection)
      .add(root)
      .run();
}

int64_t Store::generation(int64_t collection) {
  Statement select(impl_->database(), "SELECT generation FROM collections WHERE id = ?");
  select.add(collection);
  return select.row() ? select.integer(0) : 0;
}

int64_t Store::Impl::embedder_id(const EmbedderIdentity& embedder) {
  Statement select(*db, "SELECT id FROM embedders WHERE fingerprint = ?");
  select.add(embedder.fingerprint);
  if (select.row()) return select.integer(0);
  Statement(*db, "INSERT INTO embedders(fingerprint, name, dimension) VALUES(?,?,?)")
      .add(embedder.fingerprint)
      .add(embedder.name)
      .add(static_cast<int64_t>(embedder.dimension))
      .run();
  return db->last_id();
}

void Store::Impl::bump(int64_t collection) {
  Statement(*db, "UPDATE collections SET generation = generation + ?, changed = ? WHERE id = ?")
      .add(static_cast<int64_t>(1 + sqlite::random64() % (1u << 20)))
      .add(sqlite::now_seconds())
      .add(collection)
      .run();
}

}  // namespace apud
