#include "models/arch/tensors.h"

#include <fmt/format.h>

#include <filesystem>
#include <set>

#include "base/error.h"
#include "models/arch/json.h"

namespace apud {

namespace {

class GgufSource : public TensorSource {
 public:
  explicit GgufSource(const GgufFile& file) : file_(file) {}
  const std::string& name() const override { return file_.name(); }
  std::optional<WeightView> find(const std::string& name) const override {
    const GgufTensor* tensor = file_.tensor(name);
    return tensor ? std::optional(tensor->view) : std::nullopt;
  }
  void for_each(const std::function<void(const WeightView&)>& visit) const override {
    for (const GgufTensor& tensor : file_.tensors()) visit(tensor.view);
  }

 private:
  const GgufFile& file_;
};

/// A shard is a plain file name inside the folder, nothing that leads elsewhere.
void check_shard_name(const std::string& index, const std::string& name) {
  if (name.empty() || name.size() > 255 || name[0] == '.' || name.find('/') != std::string::npos ||
      name.find('\\') != std::string::npos || name.find('\0') != std::string::npos ||
      !name.ends_with(".safetensors")) {
    throw Error(
        ErrorKind::kBadData,
        fmt::format("{}: weight_map names the file {}, which is no plain shard name", index, name));
  }
}

}  // namespace

std::unique_ptr<TensorSource> make_gguf_source(const GgufFile& file) {
  return std::make_unique<GgufSource>(file);
}

FolderTensors::FolderTensors(const Path& folder, const std::vector<ExtraTensors>& extra)
    : name_(folder.string()) {
  Path gguf_path = folder / "model.gguf";
  Path index_path = folder / "model.safetensors.index.json";
  std::error_code ignored;
  if (std::filesystem::exists(gguf_path, ignored)) {
    gguf_ = GgufFile::open(gguf_path);
    for (const GgufTensor& tensor : gguf_->tensors())
      add_view(gguf_path, std::string(tensor.name), tensor.view);
  } else if (auto index = JsonObject::read_if_exists(index_path)) {
    auto map = index->object("weight_map");
    if (!map) index->fail("weight_map", "is missing");
    std::set<std::string> shards;
    for (const auto& [tensor, file] : map->value().items()) {
      if (!file.is_string()) map->fail(tensor, "must be a file name");
      check_shard_name(index_path.string(), file.get<std::string>());
      shards.insert(file.get<std::string>());
    }
    for (const std::string& shard : shards) add(folder / shard, "");
    for (const auto& [tensor, file] : map->value().items()) {
      if (!views_.contains(tensor)) map->fail(tensor, "is in no shard");
    }
  } else {
    add(folder / "model.safetensors", "");
  }
  for (const ExtraTensors& each : extra) add(each.file, each.prefix);
}

void FolderTensors::add(const Path& path, const std::string& prefix) {
  files_.push_back(SafeTensorsFile::open(path));
  for (const auto& [name, tensor] : files_.back().tensors()) {
    add_view(path, prefix + name, tensor.view);
  }
}

void FolderTensors::add_view(const Path& path, const std::string& name, const WeightView& view) {
  if (!views_.emplace(name, view).second) {
    throw Error(ErrorKind::kBadData,
                fmt::format("{}: tensor {} is in two files", path.string(), name));
  }
}

std::vector<FolderTensors::File> FolderTensors::files() const {
  std::vector<File> files;
  if (gguf_) files.push_back({gguf_->bytes(), gguf_->data_begin()});
  for (const SafeTensorsFile& file : files_) files.push_back({file.bytes(), file.data_begin()});
  return files;
}

std::optional<WeightView> FolderTensors::find(const std::string& name) const {
  auto it = views_.find(name);
  if (it == views_.end() || it->second.data == nullptr) return std::nullopt;
  return it->second;
}

void FolderTensors::for_each(const std::function<void(const WeightView&)>& visit) const {
  for (const auto& [name, view] : views_) {
    if (view.data) visit(view);
  }
}

}  // namespace apud
