#include "models/catalogue.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "base/error.h"
#include "base/nearest.h"

namespace apud {

extern const char kCatalogText[];

namespace {

[[noreturn]] void bad_entry(const std::string& id, const std::string& field,
                            const std::string& what) {
  throw Error(ErrorKind::kBadData, fmt::format("catalogue: {}: {}: {}", id, field, what));
}

/// A relative path that stays below its folder.
void check_path(const std::string& id, const std::string& field, const std::string& path,
                bool nested) {
  bool plain = !path.empty() && path.size() < 256 && path[0] != '/' && path[0] != '.' &&
               path.find("/.") == std::string::npos && path.find("//") == std::string::npos;
  for (char c : path) {
    plain = plain && (std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' ||
                      c == '_' || (nested && c == '/'));
  }
  if (!plain) bad_entry(id, field, path + " is no plain path below the models folder");
}

void check_hash(const std::string& id, const std::string& hash) {
  bool hex = hash.size() == 64 && hash.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!hex) bad_entry(id, "sha256", hash + " is no SHA-256 in lower-case hex");
}

template <typename T>
T field(const toml::table& table, const std::string& id, const char* key) {
  auto value = table[key].value<T>();
  if (!value) bad_entry(id, key, "is missing or of another type");
  return *value;
}

CatalogueFile file_of(const toml::table& table, const std::string& id, const std::string& path) {
  CatalogueFile file;
  file.path = path;
  check_path(id, "path", path, true);
  auto bytes = field<int64_t>(table, id, "bytes");
  if (bytes <= 0) bad_entry(id, "bytes", std::to_string(bytes));
  file.bytes = static_cast<uint64_t>(bytes);
  file.sha256 = field<std::string>(table, id, "sha256");
  check_hash(id, file.sha256);
  return file;
}

void add_sources(const toml::table& model, CatalogueEntry& entry) {
  const toml::array* sources = model["sources"].as_array();
  if (!sources || sources->empty()) bad_entry(entry.id, "sources", "none");
  for (const toml::node& node : *sources) {
    const toml::table* source = node.as_table();
    if (!source) bad_entry(entry.id, "sources", "no table");
    auto type = field<std::string>(*source, entry.id, "type");
    if (type == "registry") {
      entry.registry = entry.id;
    } else if (type == "hub") {
      entry.hub_repo = field<std::string>(*source, entry.id, "repo");
      entry.hub_revision = field<std::string>(*source, entry.id, "revision");
      check_path(entry.id, "repo", entry.hub_repo, true);
      check_path(entry.id, "revision", entry.hub_revision, false);
      if (!entry.folder) {
        entry.hub_file = field<std::string>(*source, entry.id, "file");
        check_path(entry.id, "file", entry.hub_file, true);
      } else if (entry.files.empty()) {
        const toml::array* names = (*source)["files"].as_array();
        if (!names) bad_entry(entry.id, "files", "is missing");
        for (const toml::node& name : *names) {
          CatalogueFile file;
          file.path = name.value<std::string>().value_or("");
          check_path(entry.id, "files", file.path, true);
          entry.files.push_back(file);
        }
      }
    } else {
      bad_entry(entry.id, "type", type + " is no known source");
    }
  }
}

CatalogueEntry entry_of(const toml::table& model, const toml::table* licences) {
  CatalogueEntry entry;
  entry.id = field<std::string>(model, "a model", "id");
  entry.kind = field<std::string>(model, entry.id, "kind");
  if (entry.kind != "chat" && entry.kind != "embed") bad_entry(entry.id, "kind", entry.kind);
  entry.base = model["base"].value_or(false);
  auto format = field<std::string>(model, entry.id, "format");
  if (format != "gguf" && format != "hf") bad_entry(entry.id, "format", format);
  entry.folder = format == "hf";
  entry.target = field<std::string>(model, entry.id, "path");
  check_path(entry.id, "path", entry.target, false);
  entry.licence = field<std::string>(model, entry.id, "licence");
  if (const toml::table* terms = licences ? (*licences)[entry.licence].as_table() : nullptr) {
    entry.needs_acceptance = (*terms)["needs_acceptance"].value_or(false);
    entry.licence_url = (*terms)["url"].value_or(std::string());
  }
  entry.description = model["note"].value_or(std::string());
  entry.parameters_b = static_cast<double>(field<int64_t>(model, entry.id, "parameters")) / 1e9;
  entry.context = static_cast<int>(field<int64_t>(model, entry.id, "context"));
  entry.approx_bytes = static_cast<uint64_t>(model["approx_bytes"].value_or(int64_t{0}));
  entry.unverified = model["unverified"].value_or(false);
  entry.architecture = field<std::string>(model, entry.id, "architecture");
  if (!entry.folder) {
    if (entry.unverified) {
      entry.files.push_back({entry.target, 0, ""});
    } else {
      entry.files.push_back(file_of(model, entry.id, entry.target));
    }
  } else if (const toml::array* files = model["files"].as_array()) {
    for (const toml::node& node : *files) {
      const toml::table* file = node.as_table();
      if (!file) bad_entry(entry.id, "files", "no table");
      entry.files.push_back(file_of(*file, entry.id, field<std::string>(*file, entry.id, "name")));
    }
  }
  add_sources(model, entry);
  return entry;
}

}  // namespace

uint64_t CatalogueEntry::bytes() const {
  uint64_t total = 0;
  for (const CatalogueFile& file : files) total += file.bytes;
  return total > 0 ? total : approx_bytes;
}

Catalogue Catalogue::parse(const std::string& text) {
  Catalogue catalogue;
  toml::table root;
  try {
    root = toml::parse(text);
  } catch (const toml::parse_error& e) {
    throw Error(ErrorKind::kBadData, fmt::format("catalogue: line {}: {}", e.source().begin.line,
                                                 std::string(e.description())));
  }
  if (field<int64_t>(root, "file", "schema") != 1) bad_entry("file", "schema", "must be 1");
  catalogue.hub_host_ = field<std::string>(root, "file", "hub_host");
  const toml::array* models = root["model"].as_array();
  if (!models) bad_entry("file", "model", "is missing");
  std::set<std::string> ids, targets;
  for (const toml::node& node : *models) {
    const toml::table* model = node.as_table();
    if (!model) bad_entry("file", "model", "no table");
    CatalogueEntry entry = entry_of(*model, root["licences"].as_table());
    if (!ids.insert(entry.id).second) bad_entry(entry.id, "id", "is there twice");
    if (!targets.insert(entry.target).second) bad_entry(entry.id, "path", "belongs to two models");
    catalogue.entries_.push_back(std::move(entry));
  }
  return catalogue;
}

const Catalogue& Catalogue::builtin() {
  static const Catalogue catalogue = parse(kCatalogText);
  return catalogue;
}

std::string Catalogue::hub_host() const {
  const char* other = std::getenv("APUD_HUB_HOST");
  return other && *other ? other : hub_host_;
}

const CatalogueEntry* Catalogue::find(const std::string& id) const {
  auto it = std::find_if(entries_.begin(), entries_.end(),
                         [&](const CatalogueEntry& entry) { return entry.id == id; });
  return it == entries_.end() ? nullptr : &*it;
}

std::vector<std::string> Catalogue::nearest(const std::string& id) const {
  std::vector<std::string> ids;
  for (const CatalogueEntry& entry : entries_) ids.push_back(entry.id);
  return nearest_names(id, ids);
}

}  // namespace apud
