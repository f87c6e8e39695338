// Opening, checking and locking.
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

void quick_check(Database& db) {
  std::string verdict = db.text("PRAGMA quick_check(1)");
  if (verdict != "ok") {
    throw Error(ErrorKind::kBadData, "store " + db.path() + " is damaged: " + verdict,
                "move the file away (do not delete it) and ingest again, or restore a copy");
  }
}

}  // namespace

namespace sqlite {
uint64_t random64() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

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

std::vector<std::string> Store::index_terms(std::string_view text) {
  return impl_->terms->of(text);
}

Database& Store::Impl::writable() {
  APUD_CHECK(mode == Mode::kReadWrite && locked, "writing needs a WriteLock of this store");
  return *db;
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
