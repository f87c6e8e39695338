#include "rag/reindex.h"

#include <fmt/format.h>

#include <map>

#include "base/error.h"

namespace apud {
namespace {

/// An empty shadow, or one of the same settings that an earlier run left.
void open_shadow(Store& store, const TextEmbedder& embedder, const std::string& collection,
                 const ReindexOptions& options, const CancelFlag* cancel) {
  const std::string name = Store::shadow_name(collection);
  const std::string settings = chunker_settings(options.chunking);
  WriteLock lock(store, options.wait, cancel);
  if (auto left = store.find_collection(name)) {
    if (left->embedder.fingerprint == embedder.fingerprint() && left->chunker == settings) return;
    store.remove_collection(lock, name);
  }
  store.create_shadow(lock, collection,
                      {embedder.fingerprint(), embedder.name(), embedder.dimension()}, settings);
}

std::string some_of(const std::vector<std::string>& paths) {
  return paths[0] + (paths.size() > 1 ? fmt::format(" and {} more", paths.size() - 1) : "");
}

}  // namespace

Shadow build_shadow(Store& store, TextEmbedder& embedder, const std::string& collection,
                    const ReindexOptions& options, const IngestCallback& progress,
                    const CancelFlag* cancel) {
  Shadow shadow;
  CollectionInfo live = store.collection(collection);
  shadow.generation = live.generation;
  std::map<std::string, DocumentInfo> wanted;
  std::vector<Path> files;
  std::vector<std::string> gone;
  for (DocumentInfo& d : store.documents(live.id)) {
    if (d.vanished) continue;
    std::error_code error;
    if (std::filesystem::exists(d.path, error)) {
      files.emplace_back(d.path);
    } else if (d.chunks > 0) {
      gone.push_back(d.path);
    }
    wanted.emplace(d.path, std::move(d));
  }
  if (!gone.empty()) {
    throw Error(
        ErrorKind::kNoInput,
        fmt::format("{} of '{}' cannot be read anew: no such file", some_of(gone), collection),
        "apud ingest takes in where files were moved to; apud ingest --prune drops the "
        "gone ones");
  }
  if (files.empty())
    throw Error(ErrorKind::kNoInput, fmt::format("collection '{}' has no files", collection));
  open_shadow(store, embedder, collection, options, cancel);

  IngestOptions ingesting;
  ingesting.collection = Store::shadow_name(collection);
  ingesting.jobs = options.jobs;
  ingesting.wait = options.wait;
  shadow.report = ingest(store, embedder, files, ingesting, progress, cancel);
  if (shadow.report.cancelled) return shadow;

  // Of an earlier run: what has left the collection since.
  CollectionInfo built = store.collection(ingesting.collection);
  std::map<std::string, DocumentInfo> have;
  std::vector<int64_t> strays;
  for (DocumentInfo& d : store.documents(built.id)) {
    if (!wanted.count(d.path)) strays.push_back(d.id);
    have.emplace(d.path, std::move(d));
  }
  if (!strays.empty()) {
    WriteLock lock(store, options.wait, cancel);
    store.remove_documents(lock, strays);
  }
  for (const auto& [path, d] : wanted) {
    if (d.chunks == 0) continue;
    auto at = have.find(path);
    if (at == have.end()) {
      shadow.lost.push_back(path + " (not read)");
    } else if (at->second.vanished || (at->second.chunks == 0 && at->second.duplicate_of == 0)) {
      shadow.lost.push_back(fmt::format("{} ({})", path, load_status_name(at->second.status)));
    }
  }
  return shadow;
}

}  // namespace apud
