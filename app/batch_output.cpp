#include "app/batch_output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "app/batch_input.h"
#include "app/signals.h"

namespace apud {

namespace {

/// A line that `apud batch` wrote.
bool is_answer(const ordered_json& json) {
  return json.is_object() && json.contains("index") && json["index"].is_number_integer();
}

/// A file system without locks is written without one.
void lock(int fd, const std::string& path) {
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  throw Error(ErrorKind::kBusy, path + " is being written by another apud batch",
              "wait for it, or choose another -o");
}

}  // namespace

std::string item_key(const ordered_json& id, int64_t index) {
  return id.is_null() ? fmt::format("#{}", index) : dump_json(id);
}

void BatchOutput::open(int input, bool resume) {
  if (path_ == "-") return;
  struct stat from = {}, to = {};
  if (::fstat(input, &from) == 0 && ::stat(path_.c_str(), &to) == 0 && S_ISREG(from.st_mode) &&
      from.st_dev == to.st_dev && from.st_ino == to.st_ino) {
    throw Error(ErrorKind::kUsage, path_ + " is the file of the questions", "choose another -o");
  }
  file_ = FileDescriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  if (!file_.valid() || ::fstat(file_.get(), &to) != 0)
    throw io_error("cannot write", path_, errno);
  if (!S_ISREG(to.st_mode)) return;
  lock(file_.get(), path_);
  if (!resume && ::ftruncate(file_.get(), 0) != 0) throw io_error("cannot write", path_, errno);
}

std::map<std::string, int64_t> BatchOutput::answered() {
  std::map<std::string, int64_t> keys;
  FileDescriptor in(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  off_t good = 0;
  bool failures = false;
  if (in.valid()) {
    LineReader reader(in.get(), path_);
    int64_t number = 0;
    while (auto line = reader.next()) {
      ++number;
      ordered_json json = parse_json(*line);
      bool whole = is_answer(json);
      // The beginning of an answer; any other text is somebody's.
      if (!whole && reader.torn() && line->starts_with("{")) break;
      if (!whole) {
        throw Error(ErrorKind::kBadData,
                    fmt::format("{}:{}: not an answer line of apud batch", path_, number),
                    "choose another -o file");
      }
      good += static_cast<off_t>(line->size()) + 1;
      if (reader.torn()) --good;
      if (json.contains("error"))
        failures = true;
      else
        ++keys[item_key(json.value("id", ordered_json()), json["index"].get<int64_t>())];
    }
    // What was not read yet must not be taken for what is torn.
    if (cancel_flag().raised()) throw Interrupted();
  }
  if (failures) {
    drop_failures(good);
    return keys;
  }
  if (::ftruncate(file_.get(), good) != 0 || ::lseek(file_.get(), 0, SEEK_END) < 0)
    throw io_error("cannot continue", path_, errno);
  if (good > 0) {
    char last = 0;
    if (::pread(in.get(), &last, 1, good - 1) == 1 && last != '\n') write_line("");
  }
  return keys;
}

/// Replaces the output file by one of its answers alone, and goes on in that.
void BatchOutput::drop_failures(off_t whole) {
  const Path path = std::filesystem::canonical(path_);
  Path fresh_path = path;
  fresh_path += fmt::format(".tmp-{}", ::getpid());
  FileDescriptor in(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st {};
  if (!in.valid() || ::fstat(in.get(), &st) != 0)
    throw io_error("cannot read", path.string(), errno);
  FileDescriptor fresh(
      ::open(fresh_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, st.st_mode & 0777));
  if (!fresh.valid()) throw io_error("cannot write", fresh_path.string(), errno);
  try {
    LineReader reader(in.get(), path.string());
    for (off_t at = 0; at < whole;) {
      auto line = reader.next();
      if (!line) throw Interrupted();
      at += static_cast<off_t>(line->size()) + 1;
      if (!parse_json(*line).contains("error"))
        write_whole(fresh.get(), *line + "\n", fresh_path.string());
    }
    lock(fresh.get(), path_);
    if (::fsync(fresh.get()) != 0 || ::rename(fresh_path.c_str(), path.c_str()) != 0)
      throw io_error("cannot continue", path.string(), errno);
  } catch (...) {
    ::unlink(fresh_path.c_str());
    throw;
  }
  replaced_ = std::exchange(file_, std::move(fresh));
}

void BatchOutput::write_line(const std::string& line) {
  if (file_.valid()) return write_whole(file_.get(), line + "\n", path_);
  terminal_.out(line + "\n");
  terminal_.flush();
}

}  // namespace apud
