// Files: mapped reading, whole reading with a limit, atomic replacement, lock files, folders of the
// XDG specification. Every failure is an apud::Error naming the path.
//
// Threads: free functions are re-entrant; objects belong to one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace apud {

using Path = std::filesystem::path;

/// Owns a file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { reset(); }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = other.release();
    }
    return *this;
  }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() {
    int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void reset();

 private:
  int fd_ = -1;
};

/// Opens a regular file for reading. Never blocks on a FIFO or device: opened with O_NONBLOCK and
/// refused after fstat unless regular. With `follow_links` false a symbolic link is refused.
FileDescriptor open_regular(const Path& path, bool follow_links = true);

/// Sequential reader of a regular file.
class FileReader {
 public:
  explicit FileReader(const Path& path);
  /// Bytes read into `out`, 0 at the end of the file.
  size_t read(char* out, size_t size);
  uint64_t size() const { return size_; }

 private:
  Path path_;
  FileDescriptor fd_;
  uint64_t size_ = 0;
};

/// A whole regular file mapped read-only. The map stays valid when the object is moved. A file that
/// is cut while mapped raises SIGBUS in readers: model files are replaced by rename, never in
/// place.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const Path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  const Path& path() const { return path_; }

 private:
  Path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Content of a regular file; more than `limit` bytes is an error (kBadData).
std::string read_file(const Path& path, uint64_t limit = 1ull << 30);
/// As read_file, but absent when the file does not exist.
std::optional<std::string> read_file_if_exists(const Path& path, uint64_t limit = 1ull << 30);

/// Writes all of it, however often that is interrupted. Throws kIo, naming `name`.
void write_whole(int fd, std::string_view bytes, const std::string& name);

/// Replaces `path` as a whole: temporary file in the same folder (O_EXCL, `mode`), written,
/// fsynced, renamed, folder fsynced. On any failure the old file stays and the temporary one is
/// gone.
void write_file_atomic(const Path& path, std::string_view content, unsigned mode = 0600);

/// As write_file_atomic, in pieces. Not committed = removed by the destructor.
class AtomicFileWriter {
 public:
  explicit AtomicFileWriter(const Path& path, unsigned mode = 0600);
  ~AtomicFileWriter();
  AtomicFileWriter(const AtomicFileWriter&) = delete;
  AtomicFileWriter& operator=(const AtomicFileWriter&) = delete;
  void write(std::string_view data);
  /// fsync, rename, fsync of the folder. Afterwards only destruction is allowed.
  void commit();

 private:
  Path path_;
  Path temporary_;
  FileDescriptor fd_;
};

/// Advisory lock of a whole file between processes (OFD lock), released by the destructor or by the
/// kernel when the process dies. The holder's pid is written into the file.
class FileLock {
 public:
  /// Tries once; absent when another process (or another FileLock of this one) holds it.
  static std::optional<FileLock> try_acquire(const Path& path);
  /// Pid of the holder as written in the file, if readable.
  static std::optional<int> holder(const Path& path);

 private:
  FileDescriptor fd_;
};

/// Creates the folder and its parents with mode 0700 where missing.
void make_private_dir(const Path& path);
/// Bytes free for this user on the file system that holds `path` (or its nearest existing parent).
uint64_t free_space(const Path& path);

/// $XDG_DATA_HOME/apud and its siblings; throws kConfig when neither the variable nor HOME is set.
/// Relative values are ignored, as the specification says.
Path data_dir();
Path config_dir();
Path cache_dir();
Path state_dir();

}  // namespace apud
