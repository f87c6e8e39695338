#include "rag/store/schema.h"

#include <fmt/format.h>

#include <set>

#include "base/check.h"
#include "rag/store/impl.h"

namespace apud::sqlite {
namespace {

// Ids are AUTOINCREMENT: never given twice, because sessions, answers and index files keep them.
constexpr const char* kVersion1 = R"(
CREATE TABLE embedders(
  id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
  dimension INTEGER NOT NULL) STRICT;
CREATE TABLE collections(
  id INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE,
  embedder INTEGER NOT NULL REFERENCES embedders(id), chunker TEXT NOT NULL,
  dense_weight REAL NOT NULL, abstain_line REAL NOT NULL, calibration_queries INTEGER NOT NULL,
  calibrated_chunks INTEGER NOT NULL, generation INTEGER NOT NULL, created INTEGER NOT NULL,
  changed INTEGER NOT NULL) STRICT;
CREATE TABLE roots(
  collection INTEGER NOT NULL REFERENCES collections(id), path TEXT NOT NULL,
  PRIMARY KEY(collection, path)) STRICT, WITHOUT ROWID;
CREATE TABLE documents(
  id INTEGER PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL REFERENCES collections(id),
  path TEXT NOT NULL, title TEXT NOT NULL, loader TEXT NOT NULL, status INTEGER NOT NULL,
  reason TEXT NOT NULL, content_hash TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  indexed INTEGER NOT NULL, vanished INTEGER NOT NULL, duplicate_of INTEGER NOT NULL,
  chunks INTEGER NOT NULL, tokens INTEGER NOT NULL, text_bytes INTEGER NOT NULL,
  UNIQUE(collection, path)) STRICT;
CREATE TABLE texts(
  document INTEGER PRIMARY KEY REFERENCES documents(id), text BLOB NOT NULL, anchors BLOB NOT NULL) STRICT;
CREATE TABLE chunks(
  id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents(id),
  ordinal INTEGER NOT NULL, begin INTEGER NOT NULL, end INTEGER NOT NULL, heading TEXT NOT NULL,
  heading_path TEXT NOT NULL, tokens INTEGER NOT NULL, vector INTEGER NOT NULL REFERENCES vectors(id),
  UNIQUE(document, ordinal)) STRICT;
CREATE INDEX chunks_by_vector ON chunks(vector);
CREATE TABLE vectors(
  id INTEGER PRIMARY KEY, embedder INTEGER NOT NULL REFERENCES embedders(id), key BLOB NOT NULL,
  data BLOB NOT NULL, UNIQUE(embedder, key)) STRICT;
CREATE TABLE orphans(vector INTEGER PRIMARY KEY) STRICT;
CREATE TABLE answers(
  id TEXT PRIMARY KEY, created INTEGER NOT NULL, session TEXT NOT NULL, question TEXT NOT NULL,
  answer TEXT NOT NULL, trace TEXT NOT NULL) STRICT;
CREATE INDEX answers_by_time ON answers(created);
CREATE TABLE answer_documents(
  answer TEXT NOT NULL REFERENCES answers(id), document INTEGER NOT NULL,
  PRIMARY KEY(answer, document)) STRICT, WITHOUT ROWID;
CREATE INDEX answer_documents_by_document ON answer_documents(document);
)";

constexpr const char* kVersion2 = R"(
CREATE TABLE pins(document INTEGER PRIMARY KEY REFERENCES documents(id)) STRICT;
)";

// The abstain line was a cosine before; a relevance now (rag/relevance.h). Measured anew by the
// next ingest, until then not in force.
constexpr const char* kVersion3 = R"(
UPDATE collections SET calibration_queries = 0, calibrated_chunks = 0;
)";

// One keyword table per collection before; now one for a range of chunk ids, filled by
// rebuild_keywords().
constexpr const char* kVersion4 = R"(
CREATE TABLE keyword_tables(
  collection INTEGER NOT NULL REFERENCES collections(id), shard INTEGER NOT NULL,
  stale INTEGER NOT NULL, PRIMARY KEY(collection, shard)) STRICT, WITHOUT ROWID;
)";
constexpr int64_t kKeywordTablesVersion = 4;

// Tokens of what was embedded before have no codes until it is embedded anew (apud coll reindex).
constexpr const char* kVersion5 = R"(
ALTER TABLE embedders ADD COLUMN centers BLOB;
CREATE TABLE token_codes(
  vector INTEGER PRIMARY KEY REFERENCES vectors(id), data BLOB NOT NULL) STRICT;
)";

// A collection's sums without its documents' rows; and tables of half as many chunk ids.
constexpr const char* kVersion6 = R"(
CREATE INDEX documents_sums ON documents(collection, vanished, chunks, tokens, text_bytes);
)";
constexpr int64_t kHalfTablesVersion = 6;

// A line of their own for questions with CJK: the common one until the next ingest measures both.
constexpr const char* kVersion7 = R"(
ALTER TABLE collections ADD COLUMN abstain_line_cjk REAL NOT NULL DEFAULT 0.0;
UPDATE collections SET abstain_line_cjk = abstain_line, calibrated_chunks = 0;
)";

constexpr const char* kMigrations[kSchemaVersion] = {kVersion1, kVersion2, kVersion3, kVersion4,
                                                     kVersion5, kVersion6, kVersion7};

void drop_whole_keyword_tables(Database& db) {
  std::vector<int64_t> collections;
  Statement select(db, "SELECT id FROM collections");
  while (select.row()) collections.push_back(select.integer(0));
  for (int64_t c : collections) db.exec(fmt::format("DROP TABLE fts_{}", c));
}

[[noreturn]] void refuse(Database& db, const std::string& why, const std::string& advice) {
  throw Error(ErrorKind::kBadData, "store " + db.path() + ": " + why, advice);
}

/// Ours, empty (returns false), or refused.
bool check_identity(Database& db) {
  int64_t application = db.integer("PRAGMA application_id");
  int64_t version = db.integer("PRAGMA user_version");
  if (application == 0 && version == 0 && db.integer("SELECT count(*) FROM sqlite_schema") == 0)
    return false;
  if (application != kApplicationId) {
    refuse(db,
           "an SQLite file of another program (application id " + std::to_string(application) + ")",
           "move it away or choose another data folder (XDG_DATA_HOME)");
  }
  if (version > kSchemaVersion) {
    refuse(db,
           "schema version " + std::to_string(version) + " is newer than this apud's " +
               std::to_string(kSchemaVersion),
           "use the newer apud that made it");
  }
  if (version < 1)
    refuse(db, "schema version " + std::to_string(version) + " does not exist", "restore a copy");
  return true;
}

}  // namespace

void migrate(Database& db) {
  int64_t version = check_identity(db) ? db.integer("PRAGMA user_version") : 0;
  if (version == kSchemaVersion) return;
  Transaction transaction(db);
  for (int64_t step = version; step < kSchemaVersion; ++step) db.exec(kMigrations[step]);
  if (version < kKeywordTablesVersion) drop_whole_keyword_tables(db);
  if (version < kHalfTablesVersion) rebuild_keywords(db);
  db.exec("PRAGMA application_id = " + std::to_string(kApplicationId));
  db.exec("PRAGMA user_version = " + std::to_string(kSchemaVersion));
  transaction.commit();
}

bool needs_migration(Database& db) {
  return !check_identity(db) || db.integer("PRAGMA user_version") < kSchemaVersion;
}

void verify_schema(Database& db) {
  if (!check_identity(db)) refuse(db, "empty", "run apud ingest to fill it");
  int64_t version = db.integer("PRAGMA user_version");
  APUD_CHECK(version == kSchemaVersion, "an older store is brought up to date before");
  static const std::set<std::string> tables = {
      "embedders", "collections",    "roots",       "documents",      "texts",
      "chunks",    "vectors",        "orphans",     "answers",        "answer_documents",
      "pins",      "keyword_tables", "token_codes", "sqlite_sequence"};
  std::set<std::string> found;
  Statement select(db, "SELECT type, name FROM sqlite_schema");
  while (select.row()) {
    std::string type = select.text(0), name = select.text(1);
    // A store of ours has no trigger and no view; a file that has one was made to run its code.
    if (type != "table" && type != "index")
      refuse(db, fmt::format("holds a {} '{}'", type, name), "restore a copy");
    if (type != "table") continue;
    if (name.rfind("fts_", 0) == 0) continue;
    if (!tables.count(name)) refuse(db, "holds an unknown table '" + name + "'", "restore a copy");
    found.insert(name);
  }
  for (const std::string& name : tables) {
    if (!found.count(name)) refuse(db, "lacks the table '" + name + "'", "restore a copy");
  }
}

}  // namespace apud::sqlite
