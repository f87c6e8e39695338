// Opening, locking, collections, answers.
#include "rag/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>

#include "base/check.h"
#include "base/hash.h"
#include "base/utf8.h"
#include "rag/store/impl.h"
#include "rag/store/schema.h"

namespace apud {
namespace {

using sqlite::Database;
using sqlite::Statement;

// Reading every page costs about a second per GiB from a warm cache: always done for small stores,
// left to `apud doctor` for large ones. Damage in between is met as an error by the page's reader.
constexpr uint64_t kQuickCheckBytes = 64u << 20;

// A store of an older schema on media that cannot be written is converted in memory up to this
// size.
constexpr uint64_t kMostCopiedBytes = 1u << 30;

Path lock_path(const Path& store) { return store.string() + ".lock"; }

uint64_t random64() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

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

/// Edit distance, for suggestions. Names are at most 64 characters by then.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t next = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = row[j];
      row[j] = next;
    }
  }
  return row[b.size()];
}

CollectionInfo read_collection(Database& db, Statement& row) {
  CollectionInfo info;
  info.id = row.integer(0);
  info.uuid = row.text(1);
  info.name = row.text(2);
  info.embedder = {row.text(3), row.text(4), static_cast<int>(row.integer(5))};
  info.chunker = row.text(6);
  info.calibration = {row.real(7), row.real(8), static_cast<int>(row.integer(9)), row.integer(10)};
  info.generation = row.integer(11);
  info.created = row.integer(12);
  info.changed = row.integer(13);
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
    "c.abstain_line, c.calibration_queries, c.calibrated_chunks, c.generation, c.created, "
    "c.changed "
    "FROM collections c JOIN embedders e ON e.id = c.embedder ";

AnswerRecord read_answer(Database& db, Statement& row) {
  AnswerRecord record{row.text(0), row.integer(1), row.text(2), row.text(3),
                      row.text(4), row.text(5),    {}};
  Statement documents(db,
                      "SELECT document FROM answer_documents WHERE answer = ? ORDER BY document");
  documents.add(record.id);
  while (documents.row()) record.documents.push_back(documents.integer(0));
  return record;
}

void quick_check(Database& db) {
  std::string verdict = db.text("PRAGMA quick_check(1)");
  if (verdict != "ok") {
    throw Error(ErrorKind::kBadData, "store " + db.path() + " is damaged: " + verdict,
                "move the file away (do not delete it) and ingest again, or restore a copy");
  }
}

}  // namespace

namespace sqlite {
int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}
}  // namespace sqlite

std::string text_key(std::string_view text) {
  XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, hash);
  return std::string(reinterpret_cast<const char*>(bytes.digest), sizeof bytes.digest);
}

Path Store::default_path() { return data_dir() / "apud.db"; }

bool Store::exists(const Path& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

Store::Store(const Path& path, Mode mode) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->mode = mode;
  const bool writing = mode == Mode::kReadWrite;
  if (!writing && !exists(path)) {
    throw Error(ErrorKind::kNoInput, "no document store at " + path.string(),
                "run apud ingest FOLDER first");
  }
  if (writing) {
    make_private_dir(path.parent_path());
    // The file is born with mode 0600 (SQLite would follow the umask); -wal and -shm take its mode.
    FileDescriptor born(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!born.valid() && errno != EEXIST)
      throw io_error("cannot create store", path.string(), errno);
    born.reset();
    // SQLite would open it for reading instead, and fail later without the reason.
    if (::access(path.c_str(), W_OK) != 0)
      throw io_error("cannot write store", path.string(), errno);
    impl_->db = std::make_unique<Database>(path, Database::Open::kReadWrite);
  } else if (::access(path.parent_path().c_str(), W_OK) == 0 && ::access(path.c_str(), W_OK) == 0) {
    // A reader of a WAL database needs its shared-memory file, so it opens the file for writing
    // too; query_only keeps it from doing so.
    impl_->db = std::make_unique<Database>(path, Database::Open::kReadWrite);
    if (sqlite::needs_migration(*impl_->db)) Store(path, Mode::kReadWrite);
    impl_->db->exec("PRAGMA query_only = ON");
  } else {
    impl_->read_only_media = true;
    std::error_code error;
    uint64_t wal = std::filesystem::file_size(path.string() + "-wal", error);
    if (error || wal == 0) {
      impl_->db = std::make_unique<Database>(path, Database::Open::kImmutable);
    } else {
      // Unfinished log on media that cannot be written: only readable if the index file is there.
      impl_->db = std::make_unique<Database>(path, Database::Open::kReadOnly);
    }
  }
  Database& db = *impl_->db;
  db.exec("PRAGMA cell_size_check = ON");
  std::error_code error;
  if (std::filesystem::file_size(path, error) <= kQuickCheckBytes && !error) quick_check(db);
  if (writing) {
    db.exec("PRAGMA journal_mode = WAL");
    db.exec("PRAGMA synchronous = FULL");
    db.exec("PRAGMA secure_delete = ON");
  }
  // Checkpoints run only under our lock: SQLite before 3.51.3 can damage the file when two
  // connections meet in one. Commits happen under it (and with them the automatic checkpoints);
  // closing does not.
  sqlite3_db_config(db.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  db.exec("PRAGMA temp_store = MEMORY");
  db.exec("PRAGMA cache_size = -16384");
  sqlite::register_tokenizer(db);
  if (writing && sqlite::needs_migration(db)) {
    WriteLock lock(*this, true);
    sqlite::migrate(db);
  }
  if (impl_->read_only_media && sqlite::needs_migration(db)) {
    impl_->migrate_copy();
  }
  sqlite::verify_schema(impl_->database());
  impl_->terms = std::make_unique<sqlite::IndexTerms>(impl_->database());
}

void Store::Impl::migrate_copy() {
  std::error_code error;
  if (std::filesystem::file_size(path, error) > kMostCopiedBytes || error) {
    throw Error(
        ErrorKind::kBadData,
        fmt::format("store {}: schema version {} is older than this apud's {}, and the "
                    "store cannot be written or is too large to convert in memory",
                    path.string(), db->integer("PRAGMA user_version"), sqlite::kSchemaVersion),
        "copy it into a folder that can be written, DIR/apud/apud.db, and run apud with "
        "XDG_DATA_HOME=DIR: it is converted when opened");
  }
  db = Database::copy_in_memory(*db);
  sqlite::register_tokenizer(*db);
  sqlite::migrate(*db);
}

Store::~Store() = default;
Store::Store(Store&&) noexcept = default;
Store& Store::operator=(Store&&) noexcept = default;

const Path& Store::path() const { return impl_->path; }
bool Store::read_only_media() const { return impl_->read_only_media; }

std::vector<std::string> Store::check() {
  std::vector<std::string> findings;
  Database& db = impl_->database();
  Statement integrity(db, "PRAGMA integrity_check(20)");
  while (integrity.row()) {
    if (integrity.text(0) != "ok") findings.push_back(integrity.text(0));
  }
  auto count = [&](const char* what, const char* sql) {
    int64_t n = db.integer(sql);
    if (n) findings.push_back(fmt::format("{}: {}", what, n));
  };
  count("chunks without a vector",
        "SELECT count(*) FROM chunks WHERE vector NOT IN (SELECT id FROM vectors)");
  count("chunks without a document",
        "SELECT count(*) FROM chunks WHERE document NOT IN (SELECT id FROM documents)");
  count("documents whose number of chunks is wrong",
        "SELECT count(*) FROM documents d WHERE d.chunks != (SELECT count(*) FROM chunks WHERE "
        "document = d.id)");
  count("vectors that nothing uses",
        "SELECT count(*) FROM vectors WHERE id NOT IN (SELECT vector FROM chunks) AND id NOT IN "
        "(SELECT vector FROM orphans)");
  count("token codes without a vector",
        "SELECT count(*) FROM token_codes WHERE vector NOT IN (SELECT id FROM vectors)");
  for (const CollectionInfo& c : collections()) {
    int64_t rows = sqlite::count_keyword_rows(db, c.id);
    if (rows != c.chunks) {
      findings.push_back(
          fmt::format("collection {}: {} keyword rows for {} chunks", c.name, rows, c.chunks));
    }
  }
  return findings;
}

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
  std::vector<std::pair<size_t, std::string>> near;
  Statement select(impl_->database(), "SELECT name FROM collections");
  while (select.row()) {
    std::string other = select.text(0);
    near.emplace_back(distance(name.substr(0, 256), other), other);
  }
  std::sort(near.begin(), near.end());
  std::string advice =
      near.empty() ? "there are no collections yet: run apud ingest FOLDER" : "there is: ";
  for (size_t i = 0; i < near.size() && i < 3; ++i) advice += (i ? ", " : "") + near[i].second;
  if (near.size() > 3) advice += ", … (apud coll list)";
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
  insert.add(fmt::format("{:016x}{:016x}", random64(), random64()))
      .add(name)
      .add(embedder_id(embedder))
      .add(chunker)
      .add(static_cast<int64_t>(1 + random64() % (1u << 20)))
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
            "UPDATE collections SET dense_weight = ?, abstain_line = ?, "
            "calibration_queries = ?, calibrated_chunks = ? WHERE id = ?")
      .add(c.dense_weight)
      .add(c.abstain_line)
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

std::string Store::save_answer(WriteLock&, AnswerRecord record) {
  Database& db = impl_->writable();
  if (record.id.empty()) {
    static const char* alphabet = "0123456789abcdefghjkmnpqrstvwxyz";  // no i, l, o, u
    uint64_t bits = random64();
    for (int i = 0; i < 12; ++i, bits >>= 5) record.id += alphabet[bits & 31];
  }
  sqlite::Transaction transaction(db);
  Statement(
      db, "INSERT INTO answers(id, created, session, question, answer, trace) VALUES(?,?,?,?,?,?)")
      .add(record.id)
      .add(record.created ? record.created : sqlite::now_seconds())
      .add(record.session)
      .add(record.question)
      .add(record.answer)
      .add(record.trace)
      .run();
  Statement link(db, "INSERT OR IGNORE INTO answer_documents(answer, document) VALUES(?,?)");
  for (int64_t document : record.documents) link.add(record.id).add(document).run();
  transaction.commit();
  return record.id;
}

std::optional<AnswerRecord> Store::answer(std::string_view id) {
  Database& db = impl_->database();
  Statement select(
      db, "SELECT id, created, session, question, answer, trace FROM answers WHERE id = ?");
  select.add(id);
  if (!select.row()) return std::nullopt;
  return read_answer(db, select);
}

std::vector<AnswerRecord> Store::answers(int limit) {
  Database& db = impl_->database();
  Statement select(db,
                   "SELECT id, created, session, question, answer, trace FROM answers "
                   "ORDER BY created DESC, rowid DESC LIMIT ?");
  select.add(static_cast<int64_t>(limit));
  std::vector<AnswerRecord> all;
  while (select.row()) all.push_back(read_answer(db, select));
  return all;
}

void Store::remove_session_answers(WriteLock&, std::string_view session) {
  Database& db = impl_->writable();
  sqlite::Transaction transaction(db);
  Statement(
      db, "DELETE FROM answer_documents WHERE answer IN (SELECT id FROM answers WHERE session = ?)")
      .add(session)
      .run();
  Statement(db, "DELETE FROM answers WHERE session = ?").add(session).run();
  transaction.commit();
}

std::vector<std::string> Store::index_terms(std::string_view text) {
  return impl_->terms->of(text);
}

Database& Store::Impl::writable() {
  APUD_CHECK(mode == Mode::kReadWrite && locked, "writing needs a WriteLock of this store");
  return *db;
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
      .add(static_cast<int64_t>(1 + random64() % (1u << 20)))
      .add(sqlite::now_seconds())
      .add(collection)
      .run();
}

struct WriteLock::Impl {
  Store::Impl* store = nullptr;
  std::optional<FileLock> lock;
};

WriteLock::WriteLock(Store& store, bool wait, const CancelFlag* cancel)
    : impl_(std::make_unique<Impl>()) {
  APUD_CHECK(store.impl_->mode == Store::Mode::kReadWrite,
             "a read-only store cannot be locked for writing");
  APUD_CHECK(!store.impl_->locked, "one WriteLock per store at a time");
  Path path = lock_path(store.impl_->path);
  for (;;) {
    impl_->lock = FileLock::try_acquire(path);
    if (impl_->lock) break;
    auto holder = FileLock::holder(path);
    std::string who = holder ? fmt::format("process {}", *holder) : "another process";
    if (!wait) {
      throw Error(ErrorKind::kBusy, fmt::format("the document store is being written by {}", who),
                  "wait for it to end, or use --wait");
    }
    if (cancel && cancel->raised())
      throw Error(ErrorKind::kBusy, "stopped while waiting for " + who);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  impl_->store = store.impl_.get();
  impl_->store->locked = true;
}

WriteLock::~WriteLock() {
  if (!impl_->store) return;
  // Best effort: a checkpoint that readers keep from finishing is done by the next writer.
  sqlite3_wal_checkpoint_v2(impl_->store->db->get(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr,
                            nullptr);
  impl_->store->locked = false;
}

}  // namespace apud
