#include "base/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

#include "base/check.h"
#include "base/error.h"
#include "base/sandbox.h"

namespace apud {

namespace {

constexpr size_t kDiagnosticBytes = 4096;
constexpr int kExitMemory = 71;  // of our own children: std::bad_alloc
constexpr int kExitFailed = 72;  // of our own children: an exception
constexpr const char* kInChild = "APUD_CHILD=1";

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // shadow memory needs terabytes of address space
#else
constexpr bool kSanitized = false;
#endif

bool g_child_main_called = false;

std::map<std::string, ChildFunction, std::less<>>& registry() {
  static auto* entries = new std::map<std::string, ChildFunction, std::less<>>;
  return *entries;
}

// Everything that the child does before exec, prepared by the parent: between vfork and exec the
// child shares our memory and may only make system calls.
struct Plan {
  const char* program;
  char* const* argv;
  char* const* environment;
  int input, output, errors;
  rlimit memory, cpu;
  bool limit_memory;
  const sock_filter* filter;
  unsigned short filter_length;
  int landlock;
  sigset_t old_mask;
  volatile int failure = 0;  // errno of exec, written by the child
};

[[noreturn]] __attribute__((noinline)) void exec_child(Plan& plan) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(plan.input, 0);
  ::dup2(plan.output, 1);
  ::dup2(plan.errors, 2);
  // Landlock's descriptor is still needed, so close at exec.
  if (::syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */) != 0) {
    for (int fd = 3; fd < 4096; ++fd) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  const rlimit none{0, 0}, files{64, 64};
  ::setrlimit(RLIMIT_CORE, &none);
  ::setrlimit(RLIMIT_FSIZE, &none);
  ::setrlimit(RLIMIT_NOFILE, &files);
  ::setrlimit(RLIMIT_CPU, &plan.cpu);
  if (plan.limit_memory) ::setrlimit(RLIMIT_AS, &plan.memory);
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal < 65; ++signal) ::sigaction(signal, &standard, nullptr);
  apply_sandbox(plan.filter, plan.filter_length, plan.landlock);
  ::sigprocmask(SIG_SETMASK, &plan.old_mask, nullptr);
  ::execve(plan.program, plan.argv, plan.environment);
  plan.failure = errno;
  ::_exit(127);
}

__attribute__((noinline)) pid_t spawn(Plan& plan) {
  // No handler of ours may run in the child while it shares our memory.
  sigset_t all;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &plan.old_mask);
  pid_t pid = ::vfork();
  if (pid == 0) exec_child(plan);
  int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &plan.old_mask, nullptr);
  errno = error;
  return pid;
}

std::vector<std::string> child_environment() {
  std::vector<std::string> environment = {"LC_ALL=C.UTF-8", "HOME=/nonexistent",
                                          "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1", kInChild};
  for (const char* name : {"LD_LIBRARY_PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"}) {
    if (const char* value = std::getenv(name))
      environment.push_back(std::string(name) + "=" + value);
  }
  return environment;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

// A pipe whose read end does not block; neither end survives exec.
void make_pipe(FileDescriptor& read_end, FileDescriptor& write_end) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) throw io_error("cannot create", "a pipe", errno);
  read_end = FileDescriptor(fds[0]);
  write_end = FileDescriptor(fds[1]);
  ::fcntl(fds[0], F_SETFL, O_NONBLOCK);
  ::fcntl(fds[1], 1031 /* F_SETPIPE_SZ */, 1 << 20);
}

using Clock = std::chrono::steady_clock;

// A running child; whatever path leaves the scope, its group is dead and it is reaped.
class Running {
 public:
  explicit Running(pid_t pid) : pid_(pid) {
    pidfd_ = FileDescriptor(static_cast<int>(::syscall(434 /* pidfd_open */, pid, 0)));
  }
  ~Running() { finish(); }
  int pidfd() const { return pidfd_.get(); }
  bool exited() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == pid_;
  }
  // Kills the group, stragglers of a leader that has exited included (its pid stays ours until it
  // is reaped), and reaps.
  void finish() {
    if (reaped_) return;
    ::kill(-pid_, SIGKILL);
    ::kill(pid_, SIGKILL);
    while (::wait4(pid_, &status, 0, &usage) < 0 && errno == EINTR) {
    }
    reaped_ = true;
  }
  int status = 0;
  rusage usage{};

 private:
  pid_t pid_;
  FileDescriptor pidfd_;
  bool reaped_ = false;
};

// Appends what is there to read. False at the end of the stream.
bool drain(int fd, std::string& out, size_t cap, bool& over) {
  char buffer[65536];
  for (;;) {
    ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n > 0) {
      size_t room = cap - std::min(cap, out.size());
      out.append(buffer, std::min(room, static_cast<size_t>(n)));
      if (static_cast<size_t>(n) > room) {
        over = true;
        return true;
      }
      continue;
    }
    if (n == 0) return false;
    if (errno == EINTR) continue;
    return errno == EAGAIN;
  }
}

ChildResult run(const Path& program, std::vector<std::string> argv, int input_fd, bool own_binary,
                const std::vector<Path>& readable, const ChildLimits& limits,
                const CancelFlag* cancel) {
  APUD_CHECK(std::getenv("APUD_CHILD") == nullptr, "a child may not start children");
  FileDescriptor out_read, out_write, err_read, err_write;
  make_pipe(out_read, out_write);
  make_pipe(err_read, err_write);
  std::vector<std::string> environment = child_environment();
  std::vector<char*> argv_pointers = pointers(argv), env_pointers = pointers(environment);
  std::vector<sock_filter> filter = seccomp_program(false);
  FileDescriptor landlock;
  if (!readable.empty()) landlock = landlock_domain(readable);

  Plan plan{};
  plan.program = program.c_str();
  plan.argv = argv_pointers.data();
  plan.environment = env_pointers.data();
  plan.input = input_fd;
  plan.output = out_write.get();
  plan.errors = err_write.get();
  plan.memory = {limits.memory_bytes, limits.memory_bytes};
  // The soft limit sends SIGXCPU, the hard one a second later SIGKILL.
  plan.cpu = {static_cast<rlim_t>(limits.cpu_seconds), static_cast<rlim_t>(limits.cpu_seconds + 1)};
  plan.limit_memory = !(own_binary && kSanitized);
  plan.filter = filter.data();
  plan.filter_length = static_cast<unsigned short>(filter.size());
  plan.landlock = landlock.get();
  pid_t pid = spawn(plan);
  if (pid < 0) throw io_error("cannot start", program.string(), errno);
  Running child(pid);
  out_write.reset();
  err_write.reset();
  if (plan.failure != 0) throw io_error("cannot start", program.string(), plan.failure);

  ChildResult result;
  auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                     std::chrono::duration<double>(limits.wall_seconds));
  bool out_open = true, err_open = true, over = false, ignored = false;
  for (bool exited = false; !exited;) {
    auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) {
      result.end = ChildEnd::kTime;
      break;
    }
    if (cancel && cancel->raised()) {
      result.end = ChildEnd::kCancelled;
      break;
    }
    pollfd fds[3] = {{out_open ? out_read.get() : -1, POLLIN, 0},
                     {err_open ? err_read.get() : -1, POLLIN, 0},
                     {child.pidfd(), POLLIN, 0}};
    int wait_ms = static_cast<int>(std::min<long long>(left, child.pidfd() < 0 ? 10 : 50));
    ::poll(fds, 3, wait_ms);
    // Looked at before the last drain, so that nothing written before the exit is lost.
    exited = child.exited();
    if (out_open) out_open = drain(out_read.get(), result.output, limits.output_bytes, over);
    if (over) {
      result.end = ChildEnd::kOutput;
      break;
    }
    if (err_open) {
      err_open = drain(err_read.get(), result.diagnostics, kDiagnosticBytes, ignored);
      if (ignored) {  // keep the pipe from filling up: read on, keep nothing
        std::string rest;
        bool more = false;
        while (err_open && drain(err_read.get(), rest, 1u << 20, more) && more) {
          rest.clear();
          more = false;
        }
        ignored = false;
      }
    }
  }
  if (result.end != ChildEnd::kOk) {
    child.finish();
    result.code = SIGKILL;
    return result;
  }
  child.finish();
  bool near_limit =
      static_cast<uint64_t>(child.usage.ru_maxrss) * 1024 > limits.memory_bytes / 10 * 6;
  if (WIFSIGNALED(child.status)) {
    result.code = WTERMSIG(child.status);
    bool cpu = result.code == SIGXCPU ||
               (result.code == SIGKILL &&
                child.usage.ru_utime.tv_sec + child.usage.ru_stime.tv_sec >= limits.cpu_seconds);
    result.end = cpu ? ChildEnd::kTime : near_limit ? ChildEnd::kMemory : ChildEnd::kSignal;
  } else if ((result.code = WEXITSTATUS(child.status)) != 0) {
    bool memory = (own_binary && result.code == kExitMemory) || near_limit;
    result.end = memory ? ChildEnd::kMemory : ChildEnd::kExit;
  }
  return result;
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
  return run(program, std::move(argv), input_fd, false, readable, limits, cancel);
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

ChildResult run_in_child(const char* name, std::string_view input, const ChildLimits& limits,
                         const CancelFlag* cancel) {
  APUD_CHECK(g_child_main_called, "main() must begin with child_main()");
  APUD_CHECK(registry().count(name) == 1, "unknown child function");
  FileDescriptor in = memory_file(input);
  // The child seals itself once its libraries are loaded (child_main).
  return run("/proc/self/exe", {"apud", "--child", name}, in.get(), true, {}, limits, cancel);
}

namespace {

int serve(ChildFunction function) {
  try {
    std::string input;
    char buffer[65536];
    for (ssize_t n; (n = ::read(0, buffer, sizeof buffer)) > 0;) {
      input.append(buffer, static_cast<size_t>(n));
    }
    FileDescriptor landlock = landlock_domain({});
    std::vector<sock_filter> filter = seccomp_program(!kSanitized);
    apply_sandbox(filter.data(), static_cast<unsigned short>(filter.size()), landlock.get());
    std::string output = function(input);
    for (size_t done = 0; done < output.size();) {
      ssize_t n = ::write(1, output.data() + done, output.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return kExitFailed;
      done += static_cast<size_t>(n);
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
  if (argc != 3 || std::strcmp(argv[1], "--child") != 0) return;
  auto found = registry().find(std::string_view(argv[2]));
  // _exit: nothing of this process needs unwinding, and a sealed process cannot run exit handlers
  // that open files.
  ::_exit(found == registry().end() ? 2 : serve(found->second));
}

}  // namespace apud
