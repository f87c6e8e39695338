// One KV page as a file (docs/formats.md, "KV page files"): names, encoding, verification, and the
// folder layout that the disk tier and `apud cache` share.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "kernels/backend.h"

namespace apud {

/// What stands before the payload.
struct KvFileHead {
  std::string key;     // 32 hex digits
  std::string parent;  // 32 hex digits; all zeros for the first block
  uint32_t block = 0;
  std::vector<int32_t> tokens;  // 1 .. 64
  std::vector<std::string> tags;
  uint64_t payload_bytes = 0;
  size_t head_bytes = 0;  // offset of the payload; set by decoding
  uint64_t checksum = 0;  // of the head; seeds the payload's
};

/// File name: parent-self-block-tokens.kv
struct KvFileName {
  std::string parent;  // 32 hex digits
  std::string self;    // 16 hex digits of the page's own chain hash
  uint32_t block = 0;
  int tokens = 0;
  std::string str() const;
  static std::optional<KvFileName> parse(const std::string& name);
};
inline const std::string kKvRoot = std::string(32, '0');

/// Bytes that precede the payload.
std::string encode_kv_head(const KvFileHead& head);
/// Checks everything a head can be checked for; absent when it is not sound. `data` may be longer.
std::optional<KvFileHead> decode_kv_head(std::span<const std::byte> data, uint64_t file_bytes);
/// Head of a file; absent when there is no such file or it is not sound.
std::optional<KvFileHead> read_kv_head(const Path& path);
/// Reads a whole page file into `sink` and verifies it as it comes; absent where the file is not
/// sound or its payload is not of `payload_bytes`: what `sink` then has is of no use.
std::optional<KvFileHead> read_kv_file(const Path& path, size_t payload_bytes, PageSink& sink);
/// The same into memory of the payload's size.
std::optional<KvFileHead> read_kv_file(const Path& path, std::span<std::byte> payload);
/// Writes a page file under a temporary name and renames it. Not synced: a file torn by a crash
/// does not verify and is ignored. Returns an error text, empty on success; `removed`: somebody
/// else removed the folder or the file that was being written.
std::string write_kv_file(const Path& path, const KvFileHead& head,
                          std::span<const std::byte> payload, bool* removed = nullptr);
/// Sets the time of last use to now.
void touch_kv_file(const Path& path);

/// A page file met while listing a folder.
struct KvFileEntry {
  Path path;
  KvFileName name;
  uint64_t bytes = 0;
  int64_t last_used = 0;  // seconds since the epoch
};
/// Page files of one key's folder (or none when it does not exist).
std::vector<KvFileEntry> list_kv_files(const Path& key_folder);
/// Their names alone, without a look at each file.
std::vector<KvFileName> list_kv_names(const Path& key_folder);
/// Removes the temporary files of writers that no longer run.
void remove_stale_kv_files(const Path& key_folder);
/// Folders of keys below the cache folder.
std::vector<Path> list_kv_keys(const Path& folder);

}  // namespace apud
