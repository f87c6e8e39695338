// A thin RAII face of SQLite: connection, statement, transaction. Every failure is an apud::Error.
//
// Threads: a Database and its statements belong to one thread at a time.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace apud::sqlite {

/// The error that an SQLite result code stands for, with advice. `what` names the action.
[[nodiscard]] Error error_of(sqlite3* db, int code, const std::string& what,
                             const std::string& path);

class Database {
 public:
  enum class Open { kCreate, kReadWrite, kReadOnly, kImmutable };
  Database(const Path& path, Open how);
  /// A copy of `from` in memory, under its path in messages.
  static std::unique_ptr<Database> copy_in_memory(Database& from);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  sqlite3* get() const { return db_; }
  const std::string& path() const { return path_; }
  /// Runs statements without parameters or results.
  void exec(const std::string& sql);
  int64_t integer(const std::string& sql);
  std::string text(const std::string& sql);
  int64_t last_id() const { return sqlite3_last_insert_rowid(db_); }
  [[noreturn]] void fail(int code, const std::string& what) const {
    throw error_of(db_, code, what, path_);
  }

 private:
  Database() = default;
  void harden();

  sqlite3* db_ = nullptr;
  std::string path_;
};

/// A prepared statement; parameters are bound in order with add().
class Statement {
 public:
  Statement(Database& db, std::string_view sql);
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& add(int64_t value);
  Statement& add(double value);
  Statement& add(std::string_view text);
  Statement& add_blob(const void* data, size_t size);
  /// For a function of ours that asks for a pointer of this type (a string literal). Not owned.
  Statement& add_pointer(void* pointer, const char* type);
  /// True when a row is there. After false the statement is ready to be bound anew.
  bool row();
  /// Runs to the end.
  void run();

  int64_t integer(int column) { return sqlite3_column_int64(statement_, column); }
  double real(int column) { return sqlite3_column_double(statement_, column); }
  bool null(int column) { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  std::string text(int column);
  /// Valid until the next row().
  std::span<const std::byte> blob(int column);
  void reset();

 private:
  Database& db_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

/// BEGIN IMMEDIATE … COMMIT; rolled back by the destructor unless committed.
class Transaction {
 public:
  explicit Transaction(Database& db);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit();

 private:
  Database& db_;
  bool open_ = true;
};

/// One consistent snapshot over several reads. Inside an open transaction it does nothing.
class Snapshot {
 public:
  explicit Snapshot(Database& db);
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

 private:
  Database& db_;
  bool own_;
};

}  // namespace apud::sqlite
