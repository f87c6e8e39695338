// A limited child process and what is said to and heard from it. Private to base (child.h).
//
// Ownership: whatever path destroys a ChildProcess, its whole group is dead and reaped.
// Threads: one thread at a time; the kernel kills the child when the thread that made it ends.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/child.h"
#include "base/file.h"

namespace apud {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;  // shadow memory needs terabytes of address space
#else
inline constexpr bool kSanitized = false;
#endif

constexpr int kExitMemory = 71;  // of our own children: std::bad_alloc
constexpr int kExitFailed = 72;  // of our own children: an exception

class ChildProcess {
 public:
  struct Start {
    Path program;
    std::vector<std::string> argv;
    int input_fd = -1;           // its standard input
    bool own_binary = false;     // a function of ours
    std::vector<Path> readable;  // by Landlock; empty: it seals itself
    uint64_t memory_bytes = 0;   // address space
    int cpu_seconds = 0;         // of its whole life
  };
  /// Throws kIo when the process cannot be started.
  explicit ChildProcess(Start start);
  ~ChildProcess() { finish(); }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// What is exchanged: `send` goes to its standard input, which must be a socket then; with
  /// `framed` the exchange is over after one answer of its length (8 bytes) and as many bytes, and
  /// the process lives on; else it lasts to the end of the process.
  struct Exchange {
    int socket = -1;
    std::string_view send;
    bool framed = false;
  };
  /// Within the limits; the memory limit is the process's own. Anything but a framed kOk leaves a
  /// process that has ended.
  ChildResult converse(Exchange exchange, const ChildLimits& limits, const CancelFlag* cancel);

 private:
  bool exited() const;
  /// Kills the group, stragglers of a leader that has exited included (its pid stays ours until it
  /// is reaped), and reaps.
  void finish();
  double cpu_seconds() const;
  void judge(const ChildLimits& limits, ChildResult& result) const;

  Start start_;
  pid_t pid_ = -1;
  FileDescriptor pidfd_, output_, errors_;
  bool reaped_ = false;
  int status_ = 0;
  rusage usage_{};
};

}  // namespace apud
