#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace apud {

void FileDescriptor::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

FileDescriptor open_regular(const Path& path, bool follow_links) {
  int flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (follow_links ? 0 : O_NOFOLLOW);
  FileDescriptor fd(::open(path.c_str(), flags));
  if (!fd.valid()) throw io_error("cannot open", path.string(), errno);
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) throw io_error("cannot stat", path.string(), errno);
  if (!S_ISREG(st.st_mode)) {
    throw Error(ErrorKind::kBadData, "not a regular file: " + path.string());
  }
  return fd;
}

FileReader::FileReader(const Path& path) : path_(path), fd_(open_regular(path)) {
  struct stat st {};
  if (::fstat(fd_.get(), &st) != 0) throw io_error("cannot stat", path.string(), errno);
  size_ = static_cast<uint64_t>(st.st_size);
}

size_t FileReader::read(char* out, size_t size) {
  size_t done = 0;
  while (done < size) {
    ssize_t n = ::read(fd_.get(), out + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw io_error("cannot read", path_.string(), errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

MappedFile::MappedFile(const Path& path) : path_(path) {
  FileDescriptor fd = open_regular(path);
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) throw io_error("cannot stat", path.string(), errno);
  size_ = static_cast<size_t>(st.st_size);
  if (size_ == 0) return;
  void* map = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (map == MAP_FAILED) throw io_error("cannot map", path.string(), errno);
  data_ = static_cast<const std::byte*>(map);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(other.data_), size_(other.size_) {
  other.data_ = nullptr;
  other.size_ = 0;
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
    path_ = std::move(other.path_);
    data_ = other.data_;
    size_ = other.size_;
    other.data_ = nullptr;
    other.size_ = 0;
  }
  return *this;
}

std::string read_file(const Path& path, uint64_t limit) {
  FileReader reader(path);
  if (reader.size() > limit) {
    throw Error(ErrorKind::kBadData, path.string() + ": " + std::to_string(reader.size()) +
                                         " bytes, at most " + std::to_string(limit) + " expected");
  }
  // One byte more than stat said, so that growth is seen (files of /proc say 0).
  std::string out;
  size_t chunk = static_cast<size_t>(reader.size()) + 1;
  for (;;) {
    size_t old = out.size();
    out.resize(old + chunk);
    size_t n = reader.read(out.data() + old, chunk);
    out.resize(old + n);
    if (n < chunk) return out;
    if (out.size() > limit) {
      throw Error(ErrorKind::kBadData,
                  path.string() + ": more than " + std::to_string(limit) + " bytes");
    }
    chunk = 1 << 16;
  }
}

std::optional<std::string> read_file_if_exists(const Path& path, uint64_t limit) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0 && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
  return read_file(path, limit);
}

void write_whole(int fd, std::string_view bytes, const std::string& name) {
  while (!bytes.empty()) {
    ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw io_error("cannot write", name, errno);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

AtomicFileWriter::AtomicFileWriter(const Path& path, unsigned mode) : path_(path) {
  static std::atomic<unsigned> counter{0};
  temporary_ = path.parent_path() / ("." + path.filename().string() + ".tmp" +
                                     std::to_string(::getpid()) + "." + std::to_string(counter++));
  fd_ = FileDescriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!fd_.valid()) throw io_error("cannot create", path.string(), errno);
}

AtomicFileWriter::~AtomicFileWriter() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFileWriter::write(std::string_view data) {
  write_whole(fd_.get(), data, path_.string());
}

void AtomicFileWriter::commit() {
  // After a failed fsync the kernel may have dropped the pages: the file counts as lost, no retry.
  if (::fsync(fd_.get()) != 0) throw io_error("cannot sync", path_.string(), errno);
  if (::close(fd_.release()) != 0) throw io_error("cannot close", path_.string(), errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw io_error("cannot rename to", path_.string(), errno);
  }
  temporary_.clear();
  Path folder = path_.parent_path().empty() ? Path(".") : path_.parent_path();
  FileDescriptor dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (dir.valid() && ::fsync(dir.get()) != 0 && errno != EINVAL) {
    throw io_error("cannot sync", folder.string(), errno);
  }
}

void write_file_atomic(const Path& path, std::string_view content, unsigned mode) {
  AtomicFileWriter writer(path, mode);
  writer.write(content);
  writer.commit();
}

std::optional<FileLock> FileLock::try_acquire(const Path& path) {
  FileLock lock;
  lock.fd_ = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.fd_.valid()) throw io_error("cannot open lock file", path.string(), errno);
  struct flock request {};
  request.l_type = F_WRLCK;
  request.l_whence = SEEK_SET;
  if (::fcntl(lock.fd_.get(), F_OFD_SETLK, &request) != 0) {
    if (errno == EAGAIN || errno == EACCES) return std::nullopt;
    throw io_error("cannot lock", path.string(), errno);
  }
  struct stat st {};
  if (::fstat(lock.fd_.get(), &st) != 0) throw io_error("cannot stat", path.string(), errno);
  if (st.st_nlink == 0) return try_acquire(path);  // its holder removed it meanwhile
  std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(lock.fd_.get(), 0) != 0 ||
      ::pwrite(lock.fd_.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    throw io_error("cannot write lock file", path.string(), errno);
  }
  return lock;
}

std::optional<int> FileLock::holder(const Path& path) {
  auto text = read_file_if_exists(path, 64);
  if (!text) return std::nullopt;
  int pid = std::atoi(text->c_str());
  return pid > 0 ? std::optional<int>(pid) : std::nullopt;
}

void make_private_dir(const Path& path) {
  Path partial;
  for (const Path& part : path) {
    partial /= part;
    if (::mkdir(partial.c_str(), 0700) != 0 && errno != EEXIST) {
      struct stat st {};
      int error = errno;
      // A read-only root answers EROFS for folders that exist.
      if (::stat(partial.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) continue;
      throw io_error("cannot create folder", partial.string(), error);
    }
  }
}

uint64_t free_space(const Path& path) {
  Path probe = std::filesystem::absolute(path);
  struct statvfs st {};
  while (::statvfs(probe.c_str(), &st) != 0) {
    if (!probe.has_relative_path())
      throw io_error("cannot stat file system of", path.string(), errno);
    probe = probe.parent_path();
  }
  return static_cast<uint64_t>(st.f_bavail) * st.f_frsize;
}

namespace {
Path xdg(const char* variable, const char* fallback) {
  const char* value = std::getenv(variable);
  if (value && value[0] == '/') return Path(value) / "apud";
  const char* home = std::getenv("HOME");
  if (!home || home[0] != '/') {
    throw Error(ErrorKind::kConfig, std::string("neither ") + variable + " nor HOME names a folder",
                "set HOME");
  }
  return Path(home) / fallback / "apud";
}
}  // namespace

Path data_dir() { return xdg("XDG_DATA_HOME", ".local/share"); }
Path config_dir() { return xdg("XDG_CONFIG_HOME", ".config"); }
Path cache_dir() { return xdg("XDG_CACHE_HOME", ".cache"); }
Path state_dir() { return xdg("XDG_STATE_HOME", ".local/state"); }

}  // namespace apud
