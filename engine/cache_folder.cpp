// The folder of the KV cache as a whole, whoever wrote it: what `apud cache` shows and removes.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "base/error.h"
#include "engine/disk_cache.h"
#include "engine/impl/kv_file.h"

namespace apud {
namespace {

using Json = nlohmann::json;

constexpr int kClearAttempts = 8;  // while other processes write

}  // namespace

Path default_kv_cache_dir() { return cache_dir() / "kv"; }

std::vector<CacheFolderInfo> list_kv_cache(const Path& folder) {
  std::vector<CacheFolderInfo> out;
  for (const Path& key : list_kv_keys(folder)) {
    CacheFolderInfo info;
    info.key = key.filename().string();
    if (auto text = read_file_if_exists(key / "key.json", 1 << 16)) {
      Json json = Json::parse(*text, nullptr, false);
      auto field = [&](const char* name) {
        return json.is_object() && json.contains(name) && json[name].is_string()
                   ? json[name].get<std::string>()
                   : std::string();
      };
      info.model = field("model");
      info.layout = field("layout");
      info.executor = field("executor");
    }
    for (const KvFileEntry& entry : list_kv_files(key)) {
      ++info.pages;
      info.bytes += entry.bytes;
      info.last_used = std::max(info.last_used, entry.last_used);
    }
    out.push_back(std::move(info));
  }
  std::sort(out.begin(), out.end(), [](const CacheFolderInfo& a, const CacheFolderInfo& b) {
    return a.last_used > b.last_used;
  });
  return out;
}

std::vector<CachePageInfo> show_kv_cache(const Path& folder, const std::string& key) {
  std::vector<CachePageInfo> out;
  bool known = false;
  for (const Path& path : list_kv_keys(folder)) {
    if (path.filename() != key) continue;
    known = true;
    for (const KvFileEntry& entry : list_kv_files(path)) {
      CachePageInfo info{
          entry.path.filename().string(), entry.name.tokens, entry.bytes, entry.last_used, {}};
      if (auto head = read_kv_head(entry.path)) info.tags = head->tags;
      out.push_back(std::move(info));
    }
  }
  if (!known) {
    throw Error(ErrorKind::kNoInput, "no cache " + key + " in " + folder.string(),
                "apud cache list names them");
  }
  std::sort(out.begin(), out.end(), [](const CachePageInfo& a, const CachePageInfo& b) {
    return std::tie(b.last_used, a.file) < std::tie(a.last_used, b.file);
  });
  return out;
}

uint64_t clear_kv_cache(const Path& folder, const std::optional<std::string>& key) {
  uint64_t freed = 0;
  for (const Path& path : list_kv_keys(folder)) {
    if (key && path.filename() != *key) continue;
    for (const KvFileEntry& entry : list_kv_files(path)) freed += entry.bytes;
    std::error_code error;
    for (int attempt = 0; attempt < kClearAttempts; ++attempt) {
      std::filesystem::remove_all(path, error);
      if (error.value() != ENOTEMPTY) break;
    }
    // What a process writes right now is its own, later cache.
    if (error && error.value() != ENOTEMPTY && error.value() != ENOENT)
      throw io_error("cannot remove", path.string(), error.value());
  }
  return freed;
}

// Times are compared by the minute and later blocks go first, so that a chain loses its end before
// its beginning.
uint64_t limit_kv_cache(const Path& folder, uint64_t bytes) {
  std::vector<KvFileEntry> all;
  uint64_t total = 0;
  for (const Path& key : list_kv_keys(folder)) {
    for (KvFileEntry& entry : list_kv_files(key)) {
      total += entry.bytes;
      all.push_back(std::move(entry));
    }
  }
  if (total <= bytes) return 0;
  std::sort(all.begin(), all.end(), [](const KvFileEntry& a, const KvFileEntry& b) {
    if (a.last_used / 60 != b.last_used / 60) return a.last_used < b.last_used;
    if (a.name.block != b.name.block) return a.name.block > b.name.block;
    return a.path < b.path;
  });
  uint64_t freed = 0;
  for (const KvFileEntry& entry : all) {
    if (total - freed <= bytes) break;
    if (unlink(entry.path.c_str()) == 0) freed += entry.bytes;
  }
  return freed;
}

int remove_kv_pages_tagged(const Path& folder, std::span<const std::string> tags) {
  std::set<std::string> wanted(tags.begin(), tags.end());
  int removed = 0;
  for (const Path& key : list_kv_keys(folder)) {
    remove_stale_kv_files(key);
    for (const KvFileEntry& entry : list_kv_files(key)) {
      std::optional<KvFileHead> head = read_kv_head(entry.path);
      // What cannot be read cannot be shown to be free of it.
      bool ours =
          !head || std::any_of(head->tags.begin(), head->tags.end(),
                               [&](const std::string& tag) { return wanted.contains(tag); });
      if (!ours) continue;
      if (unlink(entry.path.c_str()) != 0 && errno != ENOENT) {
        throw io_error("cannot remove", entry.path.string(), errno);
      }
      ++removed;
    }
  }
  return removed;
}

}  // namespace apud
