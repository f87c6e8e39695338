#include "base/thread_pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"

namespace apud {
namespace {

void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A counter that threads wait on: a short spin, because stages of a decode step are microseconds
// apart, then sleep in the kernel, because an idle tool must not burn a core.
class Gate {
 public:
  uint32_t value() const { return word_.load(std::memory_order_acquire); }

  // Returns when the counter differs from `old`.
  void wait(uint32_t old, std::chrono::microseconds spin) {
    auto deadline = std::chrono::steady_clock::now() + spin;
    do {
      for (int i = 0; i < 64; ++i) {
        if (value() != old) return;
        cpu_relax();
      }
    } while (std::chrono::steady_clock::now() < deadline);
    // Announce the sleep before the kernel looks at the word: advance() either sees the sleeper or
    // has changed the word already, in which case the kernel returns at once.
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (word_.load(std::memory_order_seq_cst) == old) {
      syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word_), FUTEX_WAIT_PRIVATE, old, nullptr,
              nullptr, 0);
    }
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

  void advance() {
    word_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr,
              nullptr, 0);
    }
  }

 private:
  alignas(64) std::atomic<uint32_t> word_{0};
  alignas(64) std::atomic<int> sleepers_{0};
};

// Idle workers give up early; inside a job the next event is near, so waiting there lasts longer.
constexpr std::chrono::microseconds kIdleSpin{20};
constexpr std::chrono::microseconds kJobSpin{50};

// CPUs of a quota file pair, rounded up; 0 when there is no limit.
int quota_cpus(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return 0;
  return std::max(1, static_cast<int>(std::ceil(quota / period - 1e-9)));
}

int smallest(int a, int b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

// Limit of one cgroup v2 folder ("max 100000" or "150000 100000").
int read_cpu_max(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max") return 0;
  return quota_cpus(std::strtod(quota.c_str(), nullptr), period);
}

int read_cfs(const std::string& folder) {
  double quota = 0, period = 0;
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us"),
      period_file(folder + "/cpu.cfs_period_us");
  if (!(quota_file >> quota) || !(period_file >> period)) return 0;
  return quota_cpus(quota, period);
}

// The limit of a cgroup is that of its tightest ancestor. In a container the path may be that of
// the host while the mount shows only our own part: the root of the mount is always looked at.
int tightest(const std::string& mount, std::string path, int (*read)(const std::string&)) {
  int limit = read(mount);
  while (!path.empty() && path != "/") {
    limit = smallest(limit, read(mount + path));
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
  return limit;
}

}  // namespace

int cgroup_cpus(const std::string& own, const std::string& mounts) {
  std::ifstream file(own);
  std::string line;
  int limit = 0;
  while (std::getline(file, line)) {
    size_t first = line.find(':');
    size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = line.substr(first + 1, second - first - 1),
                path = line.substr(second + 1);
    if (controllers.empty()) {
      limit = smallest(limit, tightest(mounts, path, read_cpu_max));
      continue;
    }
    std::stringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
      if (name != "cpu") continue;
      limit = smallest(limit, tightest(mounts + "/cpu", path, read_cfs));
      limit = smallest(limit, tightest(mounts + "/" + controllers, path, read_cfs));
    }
  }
  return limit;
}

int usable_cpus() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
  // The fixed cpu_set_t ends at 1,024 CPUs; larger machines need a set of their own size.
  for (int cpus = 1024; cpus <= 1 << 16; cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (set == nullptr) break;
    size_t size = CPU_ALLOC_SIZE(cpus);
    bool known = sched_getaffinity(0, size, set) == 0;
    if (known) count = CPU_COUNT_S(size, set);
    CPU_FREE(set);
    if (known) break;
  }
  count = std::max(1, count);
  int limit = cgroup_cpus();
  return limit > 0 ? std::min(count, limit) : count;
}

struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  Gate start;         // advanced once a job, and once at the end
  Gate done;          // advanced by the last worker of a job
  Gate barrier_gate;  // advanced by the last one to arrive
  alignas(64) std::atomic<int> pending{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int64_t> next{0};  // of parallel_for
  const std::function<void(int)>* job = nullptr;
  bool stop = false;

  void work(int worker) {
    uint32_t seen = 0;
    for (;;) {
      start.wait(seen, kIdleSpin);
      ++seen;
      if (stop) return;
      (*job)(worker);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) done.advance();
    }
  }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), impl_(std::make_unique<Impl>()) {
  APUD_CHECK(threads >= 1, "a pool has at least its caller");
  for (int i = 1; i < threads; ++i) impl_->workers.emplace_back([this, i] { impl_->work(i); });
}

ThreadPool::~ThreadPool() {
  impl_->stop = true;
  impl_->start.advance();
  for (auto& worker : impl_->workers) worker.join();
}

void ThreadPool::run(const std::function<void(int)>& job) {
  if (threads_ == 1) {
    job(0);
    return;
  }
  impl_->job = &job;
  impl_->pending.store(threads_ - 1, std::memory_order_relaxed);
  uint32_t before = impl_->done.value();
  impl_->start.advance();
  job(0);
  impl_->done.wait(before, kJobSpin);
}

void ThreadPool::parallel_for(int64_t count, int64_t grain,
                              const std::function<void(int64_t, int64_t)>& body) {
  APUD_CHECK(grain >= 1, "grain is positive");
  if (count <= 0) return;
  if (threads_ == 1 || count <= grain) {
    body(0, count);
    return;
  }
  // Few hand-outs per thread keep the counter cold, several keep the threads level.
  int64_t pieces = (count + grain - 1) / grain;
  int64_t take = std::max<int64_t>(1, pieces / (threads_ * 8)) * grain;
  impl_->next.store(0, std::memory_order_relaxed);
  run([&](int) {
    for (;;) {
      int64_t begin = impl_->next.fetch_add(take, std::memory_order_relaxed);
      if (begin >= count) return;
      body(begin, std::min(count, begin + take));
    }
  });
}

void ThreadPool::barrier() {
  if (threads_ == 1) return;
  uint32_t before = impl_->barrier_gate.value();
  if (impl_->arrived.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
    impl_->arrived.store(0, std::memory_order_relaxed);
    impl_->barrier_gate.advance();
  } else {
    impl_->barrier_gate.wait(before, kJobSpin);
  }
}

}  // namespace apud
