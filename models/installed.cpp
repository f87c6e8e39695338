// What is installed: catalogue models that lie in the models folder, and files added by name, which
// data_dir()/models.toml lists.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "base/error.h"
#include "models/arch/arch.h"
#include "models/catalogue.h"

namespace apud {

namespace fs = std::filesystem;

namespace {

Path names_file() { return data_dir() / "models.toml"; }

uint64_t size_on_disk(const Path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    uint64_t size = fs::file_size(path, ignored);
    return ignored ? 0 : size;
  }
  uint64_t total = 0;
  for (auto it = fs::recursive_directory_iterator(path, ignored); it != fs::end(it);
       it.increment(ignored)) {
    if (ignored) break;
    std::error_code gone;
    if (it->is_regular_file(gone)) total += it->file_size(gone);
  }
  return total;
}

/// Whether every file lies there, with its size where the catalogue knows it. Content was verified
/// before the model got its name.
bool is_installed(const CatalogueEntry& entry, const Path& path) {
  return std::all_of(entry.files.begin(), entry.files.end(), [&](const CatalogueFile& file) {
    Path at = entry.folder ? path / file.path : path;
    std::error_code missing;
    if (!fs::is_regular_file(at, missing)) return false;
    uint64_t size = fs::file_size(at, missing);
    return !missing && (file.bytes > 0 ? size == file.bytes : size > 0);
  });
}

InstalledModel installed_of(const CatalogueEntry& entry, const Path& path) {
  return {entry.id, path, entry.kind, size_on_disk(path)};
}

/// Chat or embedding model, by what the file says about itself; refuses what cannot be loaded.
std::string kind_of(const Path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored))
    return config_from_folder(path, 0).encoder ? "embed" : "chat";
  GgufFile file = GgufFile::open(path);
  return config_from_gguf(file, 0).encoder ? "embed" : "chat";
}

std::vector<InstalledModel> added_models() {
  std::vector<InstalledModel> models;
  Path path = names_file();
  auto text = read_file_if_exists(path, 16 << 20);
  if (!text) return models;
  try {
    toml::table root = toml::parse(*text);
    const toml::array* list = root["model"].as_array();
    if (!list) return models;
    for (const toml::node& node : *list) {
      const toml::table* table = node.as_table();
      auto get = [&](const char* key) {
        auto value = table ? (*table)[key].value<std::string>() : std::nullopt;
        if (!value) {
          throw Error(ErrorKind::kConfig, fmt::format("{}: a model without {}", path.string(), key),
                      "mend or delete this file");
        }
        return *value;
      };
      InstalledModel model{get("name"), get("path"), get("kind"), 0};
      model.bytes = size_on_disk(model.path);
      models.push_back(std::move(model));
    }
  } catch (const toml::parse_error& e) {
    throw Error(ErrorKind::kConfig,
                fmt::format("{}: line {}: {}", path.string(), e.source().begin.line,
                            std::string(e.description())),
                "mend or delete this file");
  }
  return models;
}

void write_added(const std::vector<InstalledModel>& models) {
  toml::array list;
  for (const InstalledModel& model : models) {
    list.push_back(
        toml::table{{"name", model.id}, {"path", model.path.string()}, {"kind", model.kind}});
  }
  std::ostringstream out;
  out << "# Models added by name (apud model add).\n" << toml::table{{"model", list}} << '\n';
  write_file_atomic(names_file(), out.str());
}

FileLock lock_names() {
  make_private_dir(data_dir());
  Path path = data_dir() / "models.toml.lock";
  auto lock = FileLock::try_acquire(path);
  if (!lock)
    throw Error(ErrorKind::kBusy, "another process changes the list of models", "try again");
  return std::move(*lock);
}

}  // namespace

Path models_dir() {
  if (const char* dir = std::getenv("APUD_MODELS"); dir && *dir) return dir;
  return data_dir() / "models";
}

std::vector<InstalledModel> installed_models() {
  std::vector<InstalledModel> models;
  for (const CatalogueEntry& entry : Catalogue::builtin().entries()) {
    Path path = models_dir() / entry.target;
    if (is_installed(entry, path)) models.push_back(installed_of(entry, path));
  }
  for (InstalledModel& model : added_models()) models.push_back(std::move(model));
  return models;
}

InstalledModel find_model(const std::string& id_or_path) {
  const Catalogue& catalogue = Catalogue::builtin();
  if (const CatalogueEntry* entry = catalogue.find(id_or_path)) {
    Path path = models_dir() / entry->target;
    if (is_installed(*entry, path)) return installed_of(*entry, path);
    throw Error(ErrorKind::kNoInput, fmt::format("model {} is not installed", entry->id),
                fmt::format("fetch it with: apud model pull {}", entry->id));
  }
  for (const InstalledModel& model : added_models()) {
    if (model.id == id_or_path) return model;
  }
  std::error_code ignored;
  if (!id_or_path.empty() && fs::exists(id_or_path, ignored)) {
    return {id_or_path, id_or_path, kind_of(id_or_path), size_on_disk(id_or_path)};
  }
  auto near = catalogue.nearest(id_or_path);
  throw Error(ErrorKind::kNoInput, fmt::format("no model {}", id_or_path),
              near.empty() ? "apud model list shows what is there, with --all what can be fetched"
                           : fmt::format("nearest names: {}", fmt::join(near, ", ")));
}

InstalledModel add_model(const std::string& name, const Path& path) {
  bool plain = !name.empty() && name.size() <= 128 && name[0] != '-' && name[0] != '.';
  for (char c : name)
    plain = plain && static_cast<unsigned char>(c) > 0x20 && c != 0x7F && c != '/';
  if (!plain)
    throw Error(ErrorKind::kUsage, fmt::format("model name {}: no spaces, no slashes", name));
  if (Catalogue::builtin().find(name)) {
    throw Error(ErrorKind::kUsage, fmt::format("model name {} belongs to the catalogue", name),
                "choose another name");
  }
  std::error_code missing;
  Path full = fs::canonical(path, missing);
  if (missing) throw Error(ErrorKind::kNoInput, fmt::format("no model at {}", path.string()));
  InstalledModel model{name, full, kind_of(full), size_on_disk(full)};
  FileLock lock = lock_names();
  std::vector<InstalledModel> models = added_models();
  std::erase_if(models, [&](const InstalledModel& each) { return each.id == name; });
  models.push_back(model);
  write_added(models);
  return model;
}

uint64_t remove_model(const std::string& id) {
  if (const CatalogueEntry* entry = Catalogue::builtin().find(id)) {
    Path path = models_dir() / entry->target;
    std::error_code error;
    uint64_t bytes = size_on_disk(path);
    if (!fs::exists(path, error))
      throw Error(ErrorKind::kNoInput, fmt::format("model {} is not installed", id));
    fs::remove_all(path, error);
    if (error) throw io_error("cannot remove", path.string(), error.value());
    return bytes;
  }
  FileLock lock = lock_names();
  std::vector<InstalledModel> models = added_models();
  if (std::erase_if(models, [&](const InstalledModel& each) { return each.id == id; }) == 0) {
    throw Error(ErrorKind::kNoInput, fmt::format("no model {}", id),
                "apud model list shows what is there");
  }
  write_added(models);
  return 0;
}

}  // namespace apud
