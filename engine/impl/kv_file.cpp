#include "engine/impl/kv_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>

#include "base/hash.h"
#include "kernels/program.h"

namespace apud {
namespace {

constexpr char kMagic[8] = {'A', 'P', 'U', 'D', 'K', 'V', '1', '\n'};
constexpr size_t kFixedBytes = 8 + 4 * 4 + 8 + 32 + 32;  // magic, four counts, payload, key, parent
constexpr uint32_t kMaxTagBytes = 64 << 10;
constexpr uint64_t kMaxPayload = 1ull << 30;
constexpr size_t kHeadRead = 4096;
constexpr size_t kPiece = size_t{1} << 20;  // read and verified while it is in cache
const std::string kTemporary = ".tmp-";     // PID-SERIAL
constexpr int64_t kStaleSeconds = 3600;     // a page takes far less to write

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

template <typename T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
T get(std::span<const std::byte> data, size_t at) {
  T value;
  std::memcpy(&value, data.data() + at, sizeof value);
  return value;
}

bool read_at(int fd, void* out, size_t size, uint64_t offset) {
  auto* at = static_cast<char*>(out);
  while (size > 0) {
    ssize_t n = pread(fd, at, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
  return true;
}

bool write_all(int fd, const void* data, size_t size) {
  const auto* at = static_cast<const char*>(data);
  while (size > 0) {
    ssize_t n = ::write(fd, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

struct Opened {
  FileDescriptor fd;
  uint64_t bytes = 0;
};

std::optional<Opened> open_page(const Path& path) {
  Opened opened;
  opened.fd = FileDescriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat st;
  if (!opened.fd.valid() || fstat(opened.fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return {};
  opened.bytes = static_cast<uint64_t>(st.st_size);
  return opened;
}

std::optional<KvFileHead> read_head(const Opened& opened) {
  std::vector<std::byte> start(std::min<uint64_t>(opened.bytes, kHeadRead));
  if (!read_at(opened.fd.get(), start.data(), start.size(), 0)) return {};
  if (start.size() < kFixedBytes) return {};
  uint32_t tags = get<uint32_t>(start, 16);
  if (tags > kMaxTagBytes) return {};
  size_t whole = kFixedBytes + kKvPageTokens * 4 + tags + 8;
  if (whole > start.size() && opened.bytes > start.size()) {
    start.resize(std::min<uint64_t>(opened.bytes, whole));
    if (!read_at(opened.fd.get(), start.data(), start.size(), 0)) return {};
  }
  return decode_kv_head(start, opened.bytes);
}

}  // namespace

std::string KvFileName::str() const {
  return parent + "-" + self + "-" + std::to_string(block) + "-" + std::to_string(tokens) + ".kv";
}

std::optional<KvFileName> KvFileName::parse(const std::string& name) {
  // 32 - 16 - digits - digits .kv
  if (name.size() < 32 + 1 + 16 + 1 + 1 + 1 + 1 + 3 || name.size() > 80) return {};
  if (name[32] != '-' || name[49] != '-' || !name.ends_with(".kv")) return {};
  KvFileName out;
  out.parent = name.substr(0, 32);
  out.self = name.substr(33, 16);
  if (!is_hex(out.parent) || !is_hex(out.self)) return {};
  const char* end = name.data() + name.size() - 3;
  auto block = std::from_chars(name.data() + 50, end, out.block);
  if (block.ec != std::errc() || block.ptr == end || *block.ptr != '-') return {};
  auto tokens = std::from_chars(block.ptr + 1, end, out.tokens);
  if (tokens.ec != std::errc() || tokens.ptr != end) return {};
  if (out.tokens < 1 || out.tokens > kKvPageTokens) return {};
  return out;
}

std::string encode_kv_head(const KvFileHead& head) {
  std::string tags;
  for (const std::string& tag : head.tags) {
    if (tags.size() + tag.size() + 1 > kMaxTagBytes) break;
    tags += tag;
    tags += '\n';
  }
  std::string out(kMagic, sizeof kMagic);
  put<uint32_t>(out, static_cast<uint32_t>(head.tokens.size()));
  put<uint32_t>(out, head.block);
  put<uint32_t>(out, static_cast<uint32_t>(tags.size()));
  put<uint32_t>(out, 0);
  put<uint64_t>(out, head.payload_bytes);
  out += head.key;
  out += head.parent;
  for (int32_t token : head.tokens) put<int32_t>(out, token);
  out += tags;
  put<uint64_t>(out, xxh3_64(out));
  return out;
}

std::optional<KvFileHead> decode_kv_head(std::span<const std::byte> data, uint64_t file_bytes) {
  if (data.size() < kFixedBytes || std::memcmp(data.data(), kMagic, sizeof kMagic) != 0) return {};
  KvFileHead head;
  uint32_t tokens = get<uint32_t>(data, 8);
  head.block = get<uint32_t>(data, 12);
  uint32_t tag_bytes = get<uint32_t>(data, 16);
  head.payload_bytes = get<uint64_t>(data, 24);
  if (tokens < 1 || tokens > kKvPageTokens || tag_bytes > kMaxTagBytes ||
      head.payload_bytes > kMaxPayload) {
    return {};
  }
  size_t checked = kFixedBytes + tokens * 4 + tag_bytes;
  if (data.size() < checked + 8) return {};
  head.checksum = get<uint64_t>(data, checked);
  if (xxh3_64(data.data(), checked) != head.checksum) return {};
  head.head_bytes = checked + 8;
  if (file_bytes != head.head_bytes + head.payload_bytes + 8) return {};
  const char* text = reinterpret_cast<const char*>(data.data());
  head.key.assign(text + 32, 32);
  head.parent.assign(text + 64, 32);
  head.tokens.resize(tokens);
  std::memcpy(head.tokens.data(), data.data() + kFixedBytes, tokens * 4);
  std::string_view tags(text + kFixedBytes + tokens * 4, tag_bytes);
  while (!tags.empty()) {
    size_t end = tags.find('\n');
    if (end == std::string_view::npos) return {};
    head.tags.emplace_back(tags.substr(0, end));
    tags.remove_prefix(end + 1);
  }
  return head;
}

std::optional<KvFileHead> read_kv_head(const Path& path) {
  std::optional<Opened> opened = open_page(path);
  if (!opened) return {};
  return read_head(*opened);
}

std::optional<KvFileHead> read_kv_file(const Path& path, size_t payload_bytes, PageSink& sink) {
  std::optional<Opened> opened = open_page(path);
  if (!opened) return {};
  std::optional<KvFileHead> head = read_head(*opened);
  if (!head || head->payload_bytes != payload_bytes) return {};
  Xxh3 hash(head->checksum);
  for (size_t done = 0; done < payload_bytes;) {
    std::span<std::byte> piece = sink.next(std::min(kPiece, payload_bytes - done));
    if (piece.empty() ||
        !read_at(opened->fd.get(), piece.data(), piece.size(), head->head_bytes + done)) {
      return {};
    }
    hash.update(piece);
    done += piece.size();
  }
  uint64_t checksum = 0;
  if (!read_at(opened->fd.get(), &checksum, 8, head->head_bytes + payload_bytes) ||
      hash.finish() != checksum) {
    return {};
  }
  return head;
}

std::optional<KvFileHead> read_kv_file(const Path& path, std::span<std::byte> payload) {
  MemorySink sink(payload);
  return read_kv_file(path, payload.size(), sink);
}

std::string write_kv_file(const Path& path, const KvFileHead& head,
                          std::span<const std::byte> payload, bool* removed) {
  static std::atomic<uint64_t> serial{0};
  Path temporary = path.parent_path() / (kTemporary + std::to_string(getpid()) + "-" +
                                         std::to_string(serial.fetch_add(1)));
  FileDescriptor fd(
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (removed) *removed = !fd.valid() && errno == ENOENT;
  if (!fd.valid()) return "cannot create " + temporary.string() + ": " + std::strerror(errno);
  std::string start = encode_kv_head(head);
  uint64_t head_checksum = 0;
  std::memcpy(&head_checksum, start.data() + start.size() - 8, 8);
  uint64_t checksum = xxh3_64(payload.data(), payload.size(), head_checksum);
  bool good = write_all(fd.get(), start.data(), start.size()) &&
              write_all(fd.get(), payload.data(), payload.size()) &&
              write_all(fd.get(), &checksum, 8);
  int error = errno;
  int raw = fd.release();
  if (close(raw) != 0 && good) {
    good = false;
    error = errno;
  }
  if (good && rename(temporary.c_str(), path.c_str()) == 0) return {};
  if (good) error = errno;
  if (removed) *removed = error == ENOENT;
  unlink(temporary.c_str());
  return "cannot write " + path.parent_path().string() + ": " + std::strerror(error);
}

void touch_kv_file(const Path& path) { utimensat(AT_FDCWD, path.c_str(), nullptr, 0); }

std::vector<KvFileEntry> list_kv_files(const Path& key_folder) {
  std::vector<KvFileEntry> out;
  std::error_code error;
  for (std::filesystem::directory_iterator it(key_folder, error), end; !error && it != end;
       it.increment(error)) {
    std::optional<KvFileName> name = KvFileName::parse(it->path().filename().string());
    struct stat st;
    if (!name || lstat(it->path().c_str(), &st) != 0 || !S_ISREG(st.st_mode)) continue;
    out.push_back({it->path(), std::move(*name), static_cast<uint64_t>(st.st_size), st.st_mtime});
  }
  return out;
}

std::vector<KvFileName> list_kv_names(const Path& key_folder) {
  std::vector<KvFileName> out;
  DIR* folder = opendir(key_folder.c_str());
  if (!folder) return out;
  while (const dirent* entry = readdir(folder)) {
    // What is no regular file is found out when it is read.
    if (std::optional<KvFileName> name = KvFileName::parse(entry->d_name))
      out.push_back(std::move(*name));
  }
  closedir(folder);
  return out;
}

void remove_stale_kv_files(const Path& key_folder) {
  std::error_code error;
  for (std::filesystem::directory_iterator it(key_folder, error), end; !error && it != end;
       it.increment(error)) {
    std::string name = it->path().filename().string();
    struct stat st;
    if (!name.starts_with(kTemporary) || lstat(it->path().c_str(), &st) != 0) continue;
    int pid = 0;
    std::from_chars(name.data() + kTemporary.size(), name.data() + name.size(), pid);
    bool runs = pid > 0 && (kill(pid, 0) == 0 || errno != ESRCH);
    if (!runs || st.st_mtime + kStaleSeconds < std::time(nullptr)) unlink(it->path().c_str());
  }
}

std::vector<Path> list_kv_keys(const Path& folder) {
  std::vector<Path> out;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    std::string name = it->path().filename().string();
    std::error_code ignored;
    if (name.size() == 32 && is_hex(name) && it->is_directory(ignored) &&
        !it->is_symlink(ignored)) {
      out.push_back(it->path());
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace apud
