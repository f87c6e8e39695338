#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "tests/support/temp_dir.h"

namespace apud {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunCallsEveryWorkerOnce) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> calls(static_cast<size_t>(GetParam()));
  for (int round = 0; round < 2000; ++round) {
    pool.run([&](int worker) { calls[static_cast<size_t>(worker)].fetch_add(1); });
    for (auto& c : calls) ASSERT_EQ(c.load(), round + 1);  // all done when run() returns
  }
}

TEST_P(ThreadPoolTest, WorkersWakeAfterSleeping) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> calls{0};
    pool.run([&](int) { calls.fetch_add(1); });
    ASSERT_EQ(calls.load(), GetParam());
  }
}

TEST_P(ThreadPoolTest, ParallelForCoversEachIndexOnceAtMultiplesOfGrain) {
  ThreadPool pool(GetParam());
  for (int64_t count : {0, 1, 7, 64, 1000, 10001}) {
    for (int64_t grain : {1, 3, 64}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
      std::atomic<bool> aligned{true};
      pool.parallel_for(count, grain, [&](int64_t begin, int64_t end) {
        if (begin % grain != 0 || (end % grain != 0 && end != count)) aligned = false;
        for (int64_t i = begin; i < end; ++i) hits[static_cast<size_t>(i)].fetch_add(1);
      });
      EXPECT_TRUE(aligned);
      for (auto& h : hits) ASSERT_EQ(h.load(), 1) << count << " " << grain;
    }
  }
}

TEST_P(ThreadPoolTest, BarrierSeparatesStages) {
  ThreadPool pool(GetParam());
  const int stages = 3000;
  std::vector<std::atomic<int>> arrived(stages);
  std::atomic<int> early{0};
  pool.run([&](int) {
    for (int s = 0; s < stages; ++s) {
      arrived[static_cast<size_t>(s)].fetch_add(1);
      pool.barrier();
      if (arrived[static_cast<size_t>(s)].load() != GetParam()) early.fetch_add(1);
    }
  });
  EXPECT_EQ(early.load(), 0);
}

TEST_P(ThreadPoolTest, IdleWorkersUseNoCpu) {
  ThreadPool pool(GetParam());
  pool.run([](int) {});
  auto cpu = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e3 +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e3;
  };
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  double before = cpu();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(cpu() - before, 30) << "milliseconds of CPU while idle";
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 5));

TEST(UsableCpus, RespectsTheAffinityMask) {
  EXPECT_GE(usable_cpus(), 1);
  std::thread([] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(usable_cpus(), 1);
  }).join();
}

TEST(UsableCpus, TheTightestQuotaOfTheGroupsAboveCounts) {
  test::TempDir dir;
  auto cpus = [&](const std::string& own) {
    return cgroup_cpus(dir.write("own", own).string(), dir.path().string());
  };
  EXPECT_EQ(cpus("0::/\n"), 0) << "no file, no limit";
  dir.write("cpu.max", "max 100000\n");
  EXPECT_EQ(cpus("0::/\n"), 0);
  dir.write("a/cpu.max", "250000 100000\n");
  dir.write("a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(cpus("0::/a/b\n"), 3) << "of its parent, two and a half rounded up";
  dir.write("a/b/cpu.max", "20000 100000\n");
  EXPECT_EQ(cpus("0::/a/b\n"), 1) << "a fifth is one";
  EXPECT_EQ(cpus("0::/not/mounted\n"), 0);
  dir.write("cpu.max", "400000 100000\n");
  EXPECT_EQ(cpus("0::/not/mounted\n"), 4) << "in a container only the mount's root is ours";
  // v1: the controller's own mount, whatever else the process is in.
  dir.write("cpu,cpuacct/x/cpu.cfs_quota_us", "150000\n");
  dir.write("cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cpus("5:memory:/x\n4:cpu,cpuacct:/x\n"), 2);
  dir.write("cpu,cpuacct/x/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(cpus("4:cpu,cpuacct:/x\n"), 0);
}

}  // namespace
}  // namespace apud
