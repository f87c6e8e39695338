#include "base/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/error.h"
#include "base/sandbox.h"

namespace apud {

namespace {

constexpr size_t kDiagnosticBytes = 4096;
constexpr const char* kInChild = "APUD_CHILD=1";

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

// The answer of a framed exchange: its length, then its bytes.
constexpr size_t kFrameBytes = sizeof(uint64_t);

uint64_t frame_length(const std::string& received) {
  uint64_t length = 0;
  std::memcpy(&length, received.data(), kFrameBytes);
  return length;
}

// Sends what the socket takes now.
void send_some(int socket, std::string_view& left) {
  while (!left.empty()) {
    ssize_t n = ::send(socket, left.data(), left.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) {
      left.remove_prefix(static_cast<size_t>(n));
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else {
      if (errno != EAGAIN) left = {};  // it has ended: the loop sees that
      return;
    }
  }
}

}  // namespace

ChildProcess::ChildProcess(Start start) : start_(std::move(start)) {
  APUD_CHECK(std::getenv("APUD_CHILD") == nullptr, "a child may not start children");
  FileDescriptor out_write, err_write;
  make_pipe(output_, out_write);
  make_pipe(errors_, err_write);
  std::vector<std::string> environment = child_environment();
  std::vector<char*> argv_pointers = pointers(start_.argv), env_pointers = pointers(environment);
  std::vector<sock_filter> filter = seccomp_program(false);
  FileDescriptor landlock;
  if (!start_.readable.empty()) landlock = landlock_domain(start_.readable);

  Plan plan{};
  plan.program = start_.program.c_str();
  plan.argv = argv_pointers.data();
  plan.environment = env_pointers.data();
  plan.input = start_.input_fd;
  plan.output = out_write.get();
  plan.errors = err_write.get();
  plan.memory = {start_.memory_bytes, start_.memory_bytes};
  // The soft limit sends SIGXCPU, the hard one a second later SIGKILL.
  plan.cpu = {static_cast<rlim_t>(start_.cpu_seconds), static_cast<rlim_t>(start_.cpu_seconds + 1)};
  plan.limit_memory = !(start_.own_binary && kSanitized);
  plan.filter = filter.data();
  plan.filter_length = static_cast<unsigned short>(filter.size());
  plan.landlock = landlock.get();
  pid_ = spawn(plan);
  if (pid_ < 0) {
    reaped_ = true;
    throw io_error("cannot start", start_.program.string(), errno);
  }
  pidfd_ = FileDescriptor(static_cast<int>(::syscall(434 /* pidfd_open */, pid_, 0)));
  if (plan.failure != 0) {
    finish();
    throw io_error("cannot start", start_.program.string(), plan.failure);
  }
}

bool ChildProcess::exited() const {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == pid_;
}

void ChildProcess::finish() {
  if (reaped_) return;
  ::kill(-pid_, SIGKILL);
  ::kill(pid_, SIGKILL);
  while (::wait4(pid_, &status_, 0, &usage_) < 0 && errno == EINTR) {
  }
  reaped_ = true;
}

double ChildProcess::cpu_seconds() const {
  clockid_t clock;
  timespec used{};
  if (::clock_getcpuclockid(pid_, &clock) != 0 || ::clock_gettime(clock, &used) != 0) return 0;
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

ChildResult ChildProcess::converse(Exchange exchange, const ChildLimits& limits,
                                   const CancelFlag* cancel) {
  ChildResult result;
  auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                     std::chrono::duration<double>(limits.wall_seconds));
  bool out_open = true, err_open = true, over = false, ignored = false;
  const size_t cap = limits.output_bytes + (exchange.framed ? kFrameBytes : 0);
  const double cpu_before = exchange.framed ? cpu_seconds() : 0;
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
    if (exchange.framed && cpu_seconds() - cpu_before > limits.cpu_seconds) {
      result.end = ChildEnd::kTime;
      break;
    }
    pollfd fds[4] = {{out_open ? output_.get() : -1, POLLIN, 0},
                     {err_open ? errors_.get() : -1, POLLIN, 0},
                     {pidfd_.get(), POLLIN, 0},
                     {exchange.send.empty() ? -1 : exchange.socket, POLLOUT, 0}};
    int wait_ms = static_cast<int>(std::min<long long>(left, pidfd_.get() < 0 ? 10 : 50));
    ::poll(fds, 4, wait_ms);
    if (!exchange.send.empty()) send_some(exchange.socket, exchange.send);
    // Looked at before the last drain, so that nothing written before the exit is lost.
    exited = this->exited();
    if (out_open) out_open = drain(output_.get(), result.output, cap, over);
    if (exchange.framed && result.output.size() >= kFrameBytes) {
      const uint64_t length = frame_length(result.output);
      over = over || length > limits.output_bytes;
      if (!over && result.output.size() >= kFrameBytes + length) {
        result.output.erase(0, kFrameBytes);
        // What it says beyond its answer would be taken for the next one.
        if (result.output.size() == length) return result;
        result.output.resize(length);
        over = true;
      }
    }
    if (over) {
      result.end = ChildEnd::kOutput;
      break;
    }
    if (err_open) {
      err_open = drain(errors_.get(), result.diagnostics, kDiagnosticBytes, ignored);
      if (ignored) {  // keep the pipe from filling up: read on, keep nothing
        std::string rest;
        bool more = false;
        while (err_open && drain(errors_.get(), rest, 1u << 20, more) && more) {
          rest.clear();
          more = false;
        }
        ignored = false;
      }
    }
  }
  finish();
  if (result.end == ChildEnd::kOk) {
    judge(limits, result);
    // Ended in order, but without the answer.
    if (exchange.framed && result.end == ChildEnd::kOk) result.end = ChildEnd::kExit;
  } else {
    result.code = SIGKILL;
  }
  return result;
}

void ChildProcess::judge(const ChildLimits& limits, ChildResult& result) const {
  bool near_limit = static_cast<uint64_t>(usage_.ru_maxrss) * 1024 > limits.memory_bytes / 10 * 6;
  if (WIFSIGNALED(status_)) {
    result.code = WTERMSIG(status_);
    bool cpu = result.code == SIGXCPU ||
               (result.code == SIGKILL &&
                usage_.ru_utime.tv_sec + usage_.ru_stime.tv_sec >= limits.cpu_seconds);
    result.end = cpu ? ChildEnd::kTime : near_limit ? ChildEnd::kMemory : ChildEnd::kSignal;
  } else if ((result.code = WEXITSTATUS(status_)) != 0) {
    bool memory = (start_.own_binary && result.code == kExitMemory) || near_limit;
    result.end = memory ? ChildEnd::kMemory : ChildEnd::kExit;
  }
}

}  // namespace apud
