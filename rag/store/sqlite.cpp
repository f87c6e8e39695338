#include "rag/store/sqlite.h"

#include "base/check.h"

namespace apud::sqlite {

Error error_of(sqlite3* db, int code, const std::string& what, const std::string& path) {
  std::string detail = db ? sqlite3_errmsg(db) : sqlite3_errstr(code);
  std::string message = what + " " + path + ": " + detail;
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Error(ErrorKind::kBusy, message, "another program holds the store; try again");
    case SQLITE_NOMEM:
      return Error(ErrorKind::kBusy, message, "free memory and try again");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
      return Error(
          ErrorKind::kBadData, message,
          "the store is damaged: move the file away (do not delete it) and ingest again, or "
          "restore a copy");
    case SQLITE_FULL:
      return Error(ErrorKind::kIo, message,
                   "the disk is full: free space or move the data folder (XDG_DATA_HOME), then run "
                   "the command again; what was committed is kept");
    case SQLITE_READONLY:
      return Error(ErrorKind::kIo, message, "the data folder cannot be written");
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
      return Error(ErrorKind::kIo, message, "check that the folder exists and is yours");
    case SQLITE_INTERRUPT:
      return Error(ErrorKind::kBusy, message, "");
    default:
      return Error(ErrorKind::kIo, message, "check the disk");
  }
}

Database::Database(const Path& path, Open how) : path_(path.string()) {
  int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_PRIVATECACHE;
  std::string name = path_;
  if (how == Open::kImmutable) {
    // A URI: % ? # are the only characters with a meaning in its path.
    name = "file:";
    for (char c : path_) {
      if (c == '%' || c == '?' || c == '#') {
        static const char* digits = "0123456789ABCDEF";
        name += '%';
        name += digits[static_cast<unsigned char>(c) >> 4];
        name += digits[c & 15];
      } else {
        name += c;
      }
    }
    name += "?immutable=1";
    flags |= SQLITE_OPEN_READONLY | SQLITE_OPEN_URI;
  } else if (how == Open::kReadOnly) {
    flags |= SQLITE_OPEN_READONLY;
  } else {
    flags |= SQLITE_OPEN_READWRITE | (how == Open::kCreate ? SQLITE_OPEN_CREATE : 0);
  }
  int code = sqlite3_open_v2(name.c_str(), &db_, flags, nullptr);
  if (code != SQLITE_OK) {
    Error error = error_of(db_, code, "cannot open store", path_);
    sqlite3_close(db_);
    throw error;
  }
  harden();
}

std::unique_ptr<Database> Database::copy_in_memory(Database& from) {
  std::unique_ptr<Database> copy(new Database);
  copy->path_ = from.path_;
  int code =
      sqlite3_open_v2(":memory:", &copy->db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  if (code != SQLITE_OK) copy->fail(code, "cannot copy into memory the store");
  copy->harden();
  sqlite3_backup* backup = sqlite3_backup_init(copy->db_, "main", from.db_, "main");
  if (!backup) copy->fail(sqlite3_errcode(copy->db_), "cannot copy into memory the store");
  sqlite3_backup_step(backup, -1);
  code = sqlite3_backup_finish(backup);
  if (code != SQLITE_OK) copy->fail(code, "cannot copy into memory the store");
  return copy;
}

void Database::harden() {
  sqlite3_busy_timeout(db_, 5000);
  // Hostile files: no schema code of theirs runs, internal tables cannot be written by SQL.
  sqlite3_db_config(db_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(db_, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_db_config(db_, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
  sqlite3_db_config(db_, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr);
  sqlite3_db_config(db_, SQLITE_DBCONFIG_DQS_DML, 0, nullptr);
  sqlite3_db_config(db_, SQLITE_DBCONFIG_DQS_DDL, 0, nullptr);
}

Database::~Database() { sqlite3_close(db_); }

void Database::exec(const std::string& sql) {
  int code = sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) fail(code, "cannot use store");
}

int64_t Database::integer(const std::string& sql) {
  Statement statement(*this, sql);
  return statement.row() ? statement.integer(0) : 0;
}

std::string Database::text(const std::string& sql) {
  Statement statement(*this, sql);
  return statement.row() ? statement.text(0) : std::string();
}

Statement::Statement(Database& db, std::string_view sql) : db_(db) {
  int code =
      sqlite3_prepare_v2(db.get(), sql.data(), static_cast<int>(sql.size()), &statement_, nullptr);
  if (code != SQLITE_OK) db.fail(code, "cannot use store");
}

Statement& Statement::add(int64_t value) {
  APUD_CHECK(sqlite3_bind_int64(statement_, ++bound_, value) == SQLITE_OK, "bind");
  return *this;
}

Statement& Statement::add(double value) {
  APUD_CHECK(sqlite3_bind_double(statement_, ++bound_, value) == SQLITE_OK, "bind");
  return *this;
}

Statement& Statement::add(std::string_view text) {
  int code = sqlite3_bind_text64(statement_, ++bound_, text.empty() ? "" : text.data(), text.size(),
                                 SQLITE_TRANSIENT, SQLITE_UTF8);
  if (code != SQLITE_OK) db_.fail(code, "cannot use store");
  return *this;
}

Statement& Statement::add_blob(const void* data, size_t size) {
  int code = sqlite3_bind_blob64(statement_, ++bound_, size ? data : "", size, SQLITE_TRANSIENT);
  if (code != SQLITE_OK) db_.fail(code, "cannot use store");
  return *this;
}

Statement& Statement::add_pointer(void* pointer, const char* type) {
  APUD_CHECK(sqlite3_bind_pointer(statement_, ++bound_, pointer, type, nullptr) == SQLITE_OK,
             "bind");
  return *this;
}

bool Statement::row() {
  int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) {
    Error error = error_of(db_.get(), code, "cannot use store", db_.path());
    reset();
    throw error;
  }
  reset();
  return false;
}

void Statement::run() {
  while (row()) {
  }
}

void Statement::reset() {
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
  bound_ = 0;
}

std::string Statement::text(int column) {
  const void* data = sqlite3_column_blob(statement_, column);
  int size = sqlite3_column_bytes(statement_, column);
  return data ? std::string(static_cast<const char*>(data), size) : std::string();
}

std::span<const std::byte> Statement::blob(int column) {
  const void* data = sqlite3_column_blob(statement_, column);
  int size = sqlite3_column_bytes(statement_, column);
  return {static_cast<const std::byte*>(data), data ? static_cast<size_t>(size) : 0};
}

Transaction::Transaction(Database& db) : db_(db) { db_.exec("BEGIN IMMEDIATE"); }

Transaction::~Transaction() {
  // A failed statement may have ended the transaction already; a destructor has no one to tell.
  if (open_ && !sqlite3_get_autocommit(db_.get())) {
    sqlite3_exec(db_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
}

void Transaction::commit() {
  db_.exec("COMMIT");
  open_ = false;
}

Snapshot::Snapshot(Database& db) : db_(db), own_(sqlite3_get_autocommit(db.get()) != 0) {
  if (own_) db_.exec("BEGIN");
}

Snapshot::~Snapshot() {
  if (own_) sqlite3_exec(db_.get(), "COMMIT", nullptr, nullptr, nullptr);
}

}  // namespace apud::sqlite
