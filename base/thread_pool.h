// Thread pool for the CPU executor and for ingest. Workers sleep when idle (no spinning beyond a
// few microseconds after the last job) and the calling thread takes part in the work.
//
// Threads: one job at a time; run() may be called from one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace apud {

/// Number of CPUs this process may really use: affinity mask and cgroup quota (v1 and v2)
/// respected, at least 1.
int usable_cpus();
/// The tightest quota of the process's cgroups (v1 and v2) in CPUs, rounded up; 0: no limit. `own`
/// lists the groups, `mounts` holds their folders; others than the kernel's are for tests.
int cgroup_cpus(const std::string& own = "/proc/self/cgroup",
                const std::string& mounts = "/sys/fs/cgroup");

class ThreadPool {
 public:
  /// `threads` counts the caller, so 1 starts no worker. REQUIRES: threads >= 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }
  /// Calls job(worker) once on every worker 0..threads-1 and returns when all are done. The caller
  /// is worker 0. `job` must not throw.
  void run(const std::function<void(int worker)>& job);
  /// Calls body(begin, end) over [0, count) cut in pieces of at least `grain`, handed out
  /// dynamically. The cut positions are multiples of `grain`, whatever the number of threads.
  void parallel_for(int64_t count, int64_t grain,
                    const std::function<void(int64_t, int64_t)>& body);
  /// Barrier for all workers inside one run(): returns when every worker has called it.
  void barrier();

 private:
  struct Impl;
  int threads_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace apud
