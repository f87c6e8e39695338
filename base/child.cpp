#include "base/child.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

#include "base/check.h"
#include "base/child_process.h"
#include "base/error.h"
#include "base/sandbox.h"

namespace apud {

namespace {

bool g_child_main_called = false;

std::map<std::string, ChildFunction, std::less<>>& registry() {
  static auto* entries = new std::map<std::string, ChildFunction, std::less<>>;
  return *entries;
}

}  // namespace

std::string describe(const ChildResult& result, const ChildLimits& limits) {
  char text[96];
  switch (result.end) {
    case ChildEnd::kOk:
      return "finished";
    case ChildEnd::kExit:
      std::snprintf(text, sizeof text, "failed with status %d", result.code);
      break;
    case ChildEnd::kSignal:
      std::snprintf(text, sizeof text, "died of signal %d", result.code);
      break;
    case ChildEnd::kTime:
      std::snprintf(text, sizeof text, "stopped at its time limit (%d s of CPU, %.0f s in all)",
                    limits.cpu_seconds, limits.wall_seconds);
      break;
    case ChildEnd::kMemory:
      std::snprintf(text, sizeof text, "stopped at its memory limit of %llu MiB",
                    static_cast<unsigned long long>(limits.memory_bytes >> 20));
      break;
    case ChildEnd::kOutput:
      std::snprintf(text, sizeof text, "stopped after %llu MiB of output",
                    static_cast<unsigned long long>(limits.output_bytes >> 20));
      break;
    case ChildEnd::kCancelled:
      return "cancelled";
  }
  return text;
}

std::optional<Path> find_program(std::string_view name) {
  const char* search = std::getenv("PATH");
  std::string_view folders = search ? search : "/usr/local/bin:/usr/bin:/bin";
  while (!folders.empty()) {
    size_t colon = folders.find(':');
    std::string_view folder = folders.substr(0, colon);
    folders = colon == std::string_view::npos ? std::string_view{} : folders.substr(colon + 1);
    if (folder.empty() || folder[0] != '/') continue;  // never a program of the current folder
    Path candidate = Path(folder) / name;
    struct stat st {};
    if (::stat(candidate.c_str(), &st) == 0 && S_ISREG(st.st_mode) &&
        ::access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
  }
  return std::nullopt;
}

ChildResult run_program(const Path& program, const std::vector<std::string>& arguments,
                        int input_fd, const ChildLimits& limits, const CancelFlag* cancel) {
  std::vector<std::string> argv = {program.filename().string()};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  Path folder = program.parent_path();
  std::error_code ignored;
  Path real = std::filesystem::canonical(program, ignored);  // programs are often links
  std::vector<Path> readable = {"/usr",
                                "/lib",
                                "/lib64",
                                "/etc/ld.so.cache",
                                "/nix/store",
                                folder,
                                folder.parent_path() / "lib",
                                folder.parent_path() / "share",
                                ignored ? program : real};
  ChildProcess child({program, std::move(argv), input_fd, false, std::move(readable),
                      limits.memory_bytes, limits.cpu_seconds});
  return child.converse({}, limits, cancel);
}

FileDescriptor memory_file(std::string_view content) {
  FileDescriptor fd(
      static_cast<int>(::syscall(SYS_memfd_create, "apud-child-input", 1u /* CLOEXEC */)));
  if (!fd.valid()) throw io_error("cannot create", "a memory file", errno);
  for (size_t done = 0; done < content.size();) {
    ssize_t n = ::write(fd.get(), content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw io_error("cannot write", "a memory file", errno);
    done += static_cast<size_t>(n);
  }
  ::lseek(fd.get(), 0, SEEK_SET);
  return fd;
}

ChildEntry::ChildEntry(const char* name, ChildFunction function) {
  APUD_CHECK(registry().emplace(name, function).second, "two child functions of one name");
}

// --- Functions of this binary --------------------------------------------------------------------

// A child that serves one function, and what it has served.
struct ChildReuse::Serving {
  std::string name;
  uint64_t memory_bytes = 0;
  FileDescriptor socket;
  std::unique_ptr<ChildProcess> process;
  int inputs = 0;
  size_t bytes = 0;
};

namespace {

constexpr int kMostInputs = 64;          // of one child
constexpr size_t kMostBytes = 4u << 20;  // of input: memory that it does not give back is bounded
constexpr const char* kServing = "--serve";

thread_local ChildReuse* t_reuse = nullptr;

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

std::string frame(uint64_t length) {
  return std::string(reinterpret_cast<const char*>(&length), sizeof length);
}

}  // namespace

ChildReuse::ChildReuse() {
  if (!t_reuse) t_reuse = this;
}
ChildReuse::~ChildReuse() {
  if (t_reuse == this) t_reuse = nullptr;
}

ChildResult ChildReuse::run(const char* name, std::string_view input, const ChildLimits& limits,
                            const CancelFlag* cancel) {
  if (serving_ && (serving_->name != name || serving_->memory_bytes != limits.memory_bytes))
    serving_.reset();
  if (!serving_) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      throw io_error("cannot create", "a socket", errno);
    FileDescriptor theirs(ends[1]);
    auto fresh = std::make_unique<Serving>();
    fresh->name = name;
    fresh->memory_bytes = limits.memory_bytes;
    fresh->socket = FileDescriptor(ends[0]);
    // Each input has limits of its own (converse); this one is for a child whose parent is gone.
    fresh->process =
        std::make_unique<ChildProcess>(ChildProcess::Start{"/proc/self/exe",
                                                           {"apud", "--child", name, kServing},
                                                           theirs.get(),
                                                           true,
                                                           {},
                                                           limits.memory_bytes,
                                                           (limits.cpu_seconds + 1) * kMostInputs});
    serving_ = std::move(fresh);
  }
  Serving& serving = *serving_;
  ++serving.inputs;
  serving.bytes += input.size();
  std::string message = frame(input.size());
  message += input;
  ChildResult result =
      serving.process->converse({serving.socket.get(), message, true}, limits, cancel);
  if (result.end != ChildEnd::kOk || serving.inputs >= kMostInputs || serving.bytes >= kMostBytes)
    serving_.reset();
  return result;
}

ChildResult run_in_child(const char* name, std::string_view input, const ChildLimits& limits,
                         const CancelFlag* cancel) {
  APUD_CHECK(g_child_main_called, "main() must begin with child_main()");
  APUD_CHECK(registry().count(name) == 1, "unknown child function");
  if (t_reuse) return t_reuse->run(name, input, limits, cancel);
  FileDescriptor in = memory_file(input);
  // The child seals itself once its libraries are loaded (child_main).
  ChildProcess child({"/proc/self/exe",
                      {"apud", "--child", name},
                      in.get(),
                      true,
                      {},
                      limits.memory_bytes,
                      limits.cpu_seconds});
  return child.converse({}, limits, cancel);
}

namespace {

void seal() {
  FileDescriptor landlock = landlock_domain({});
  std::vector<sock_filter> filter = seccomp_program(!kSanitized);
  apply_sandbox(filter.data(), static_cast<unsigned short>(filter.size()), landlock.get());
}

std::string read_to_end() {
  std::string input;
  char buffer[65536];
  for (ssize_t n; (n = ::read(0, buffer, sizeof buffer)) > 0;)
    input.append(buffer, static_cast<size_t>(n));
  return input;
}

// False at the end of the stream.
bool read_exactly(char* to, size_t size) {
  while (size > 0) {
    ssize_t n = ::read(0, to, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    to += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

// `again`: inputs with their lengths in front, one after the other, and so the answers.
int serve(ChildFunction function, bool again) {
  try {
    if (!again) {
      std::string input = read_to_end();
      seal();
      return write_all(1, function(input)) ? 0 : kExitFailed;
    }
    seal();
    uint64_t length = 0;
    while (read_exactly(reinterpret_cast<char*>(&length), sizeof length)) {
      std::string input(length, '\0');
      if (!read_exactly(input.data(), length)) return kExitFailed;
      std::string output = function(input);
      if (!write_all(1, frame(output.size())) || !write_all(1, output)) return kExitFailed;
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return kExitMemory;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return kExitFailed;
  }
}

}  // namespace

void child_main(int argc, char** argv) {
  g_child_main_called = true;
  if (argc < 3 || argc > 4 || std::strcmp(argv[1], "--child") != 0) return;
  const bool again = argc == 4 && std::strcmp(argv[3], kServing) == 0;
  if (argc == 4 && !again) return;
  auto found = registry().find(std::string_view(argv[2]));
  // _exit: nothing of this process needs unwinding, and a sealed process cannot run exit handlers
  // that open files.
  ::_exit(found == registry().end() ? 2 : serve(found->second, again));
}

}  // namespace apud
