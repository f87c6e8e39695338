// Hashes: SHA-256 for identity of downloads and documents, XXH3 for checksums of our own files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace apud {

/// Streaming SHA-256. Not thread-safe; one object per stream.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void update(std::span<const std::byte> data);
  void update(std::string_view text);
  /// 64 lower-case hex digits. The object is spent afterwards.
  std::string finish_hex();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string sha256_hex(std::string_view data);
/// SHA-256 of a file's content; throws apud::Error (kIo, kNoInput).
std::string sha256_file_hex(const std::filesystem::path& path);
/// XXH3-64: fast, not cryptographic. Deterministic over machines.
uint64_t xxh3_64(const void* data, size_t size, uint64_t seed = 0);
inline uint64_t xxh3_64(std::string_view text, uint64_t seed = 0) {
  return xxh3_64(text.data(), text.size(), seed);
}
/// The same, of data that comes in pieces.
class Xxh3 {
 public:
  explicit Xxh3(uint64_t seed = 0);
  ~Xxh3();
  Xxh3(const Xxh3&) = delete;
  Xxh3& operator=(const Xxh3&) = delete;
  void update(std::span<const std::byte> data);
  uint64_t finish() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
/// XXH3-128 as 32 hex digits.
std::string xxh3_128_hex(std::string_view data);

}  // namespace apud
