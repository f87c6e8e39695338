// Where architectures take their tensors from: one interface over a GGUF file and over the
// safetensors files of a folder.
//
// Owns the mapped files; views stay valid as long as the source. Threads: const after construction.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/gguf.h"
#include "models/safetensors.h"

namespace apud {

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// For messages.
  virtual const std::string& name() const = 0;
  /// By the name in the file; absent when the file has none, or one of a type that weights lack.
  virtual std::optional<WeightView> find(const std::string& name) const = 0;
  /// Every tensor that could be a weight.
  virtual void for_each(const std::function<void(const WeightView&)>& visit) const = 0;
};

std::unique_ptr<TensorSource> make_gguf_source(const GgufFile& file);

/// model.gguf with the folder's own tensor names (what holds quantised weights), else
/// model.safetensors or the shards of model.safetensors.index.json; and the given extra files,
/// whose tensors get `prefix` before their name.
struct ExtraTensors {
  Path file;
  std::string prefix;
};
class FolderTensors : public TensorSource {
 public:
  FolderTensors(const Path& folder, const std::vector<ExtraTensors>& extra);
  const std::string& name() const override { return name_; }
  std::optional<WeightView> find(const std::string& name) const override;
  void for_each(const std::function<void(const WeightView&)>& visit) const override;
  struct File {
    std::span<const std::byte> bytes;
    size_t data_begin;
  };
  /// The files that the tensors lie in.
  std::vector<File> files() const;

 private:
  void add(const Path& path, const std::string& prefix);
  void add_view(const Path& path, const std::string& name, const WeightView& view);
  std::string name_;
  std::optional<GgufFile> gguf_;
  std::vector<SafeTensorsFile> files_;
  std::map<std::string, WeightView> views_;
};

}  // namespace apud
