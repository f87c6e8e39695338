// Sessions on disk: one JSON file per conversation under data_dir()/sessions, replaced as a whole,
// 0600, with a lock file while it is open. docs/formats.md describes the file.
//
// A damaged file is refused with advice and never overwritten.
//
// Threads: SessionStore belongs to one thread; processes are kept apart by lock files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/conversation.h"

namespace apud {

struct SessionInfo {
  std::string id;      // 12 hex digits
  std::string name;    // given, or from the first question; unique
  bool named = false;  // given by the user
  std::string model;   // id or path as the user knows it
  std::vector<std::string> collections;
  int64_t created = 0;  // seconds since the epoch
  int64_t updated = 0;
  int turns = 0;  // messages, the user's and the model's
};

struct Session {
  SessionInfo info;
  ConversationData conversation;
  std::string extra_json;  // opaque to the engine (evidence ledger, …): a JSON value or empty
};

class SessionStore {
 public:
  explicit SessionStore(Path folder);
  static Path default_folder();  // data_dir()/sessions

  /// A new, empty, unsaved session with a fresh id. An empty name is filled in at the first save.
  Session create(const std::string& name, int64_t now) const;

  /// Holds a session open; a second opener is refused.
  class Lock {
   public:
    explicit Lock(FileLock lock) : lock_(std::move(lock)) {}

   private:
    FileLock lock_;
  };
  /// Throws kBusy naming the session and the holder's pid, with `--fork` as advice.
  Lock open(const SessionInfo& session) const;
  /// Holds the name of a session that is not saved yet, as open() does a saved one.
  Lock reserve(const std::string& name) const;

  /// Writes the session (atomic). Throws kIo.
  void save(Session& session, int64_t now) const;
  /// By id, name, or unique beginning of an id. Throws kNoInput with the nearest names; kBadData
  /// for a file that is damaged or of a newer version.
  Session load(const std::string& name_or_id) const;
  /// Most recently updated first. Damaged files are listed in `damaged` and otherwise skipped.
  std::vector<SessionInfo> list(std::vector<std::string>* damaged = nullptr) const;
  /// The session updated last, if any.
  std::optional<SessionInfo> last() const;
  void rename(const std::string& name_or_id, const std::string& new_name) const;
  /// A copy under a new id; `turns` > 0 cuts it to its first turns. Saved.
  Session fork(const std::string& name_or_id, const std::string& new_name, int turns,
               int64_t now) const;
  /// Removes file and lock file; returns the id (for remove_kv_pages_tagged("session:" + id)).
  std::string remove(const std::string& name_or_id) const;

 private:
  Path file(const std::string& id) const;
  Path name_lock(const std::string& name) const;
  Lock hold(const Path& lock_file, const std::string& name) const;
  std::string resolve(const std::string& name_or_id) const;
  Path folder_;
};

/// receipts: what each answer cost and reused, as quotes after it.
std::string export_session_markdown(const Session& session, bool receipts = false);
std::string export_session_json(const Session& session);

}  // namespace apud
