// libFuzzer target: any bytes as a KV page file (even first byte) or a vector index file (odd). A
// file that does not verify is absence, never an error. The checksums of the heads are put right
// first, else nothing behind them would be reached.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/hash.h"
#include "engine/impl/kv_file.h"
#include "rag/index.h"

namespace {

constexpr size_t kIndexHeader = 144, kKvHead = 96;  // docs/formats.md

void put(std::string& bytes, size_t at, uint64_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

void index_file(std::string bytes) {
  if (bytes.size() >= kIndexHeader) {
    bytes.replace(64, 32, apud::xxh3_128_hex("e"));
    int64_t rows = 0;
    std::memcpy(&rows, bytes.data() + 16, sizeof rows);
    const char* lists = bytes.data() + kIndexHeader;
    const uint64_t left = bytes.size() - kIndexHeader;
    if (rows >= 0 && left >= 8 && static_cast<uint64_t>(rows) == (left - 8) / 24) {
      const auto ids = static_cast<size_t>(rows) * sizeof(int64_t);
      put(bytes, 96, apud::xxh3_64(lists + 8, ids));
      put(bytes, 104, apud::xxh3_64(lists + 8 + ids, 2 * ids));
      put(bytes, 112, apud::xxh3_64(lists, 8));
    }
    put(bytes, kIndexHeader - 8, apud::xxh3_64(bytes.data(), kIndexHeader - 8));
  }
  int fd = ::memfd_create("index", 0);
  if (fd < 0 || ::write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
    std::abort();
  apud::VectorIndex::Key key{std::string(32, '0'), "e", 7};
  int64_t generation = 0;
  auto index =
      apud::VectorIndex::load("/proc/self/fd/" + std::to_string(fd), key, 8, nullptr, &generation);
  ::close(fd);
  if (!index) return;
  std::vector<float> query(8, 0.25f);
  index->search(query, 3);
  index->remove(1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 1) {
    index_file(std::move(bytes));
    return 0;
  }
  apud::KvFileName::parse(bytes);
  if (bytes.size() >= kKvHead + sizeof(uint64_t)) {
    uint32_t tokens = 0, tag_bytes = 0;
    std::memcpy(&tokens, bytes.data() + 8, sizeof tokens);
    std::memcpy(&tag_bytes, bytes.data() + 16, sizeof tag_bytes);
    size_t checked = kKvHead + tokens % 65 * 4 + tag_bytes % 1024;
    if (checked + sizeof(uint64_t) <= bytes.size()) {
      uint64_t hash = apud::xxh3_64(bytes.data(), checked);
      std::memcpy(bytes.data() + checked, &hash, sizeof hash);
    }
  }
  auto head = apud::decode_kv_head(std::as_bytes(std::span(bytes)), bytes.size());
  if (head && (head->tokens.empty() || head->head_bytes > bytes.size())) std::abort();
  return 0;
}
