// kill -9, a full disk and a failing one at every kind of write of the disk tier: the answer never
// suffers, a file under its final name is whole, and the next process uses or replaces what is
// there. Faults come from strace's injection.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <map>
#include <sstream>

#include "engine/disk_cache.h"
#include "engine/impl/kv_file.h"
#include "kernels/program.h"
#include "tests/support/paths.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

struct Outcome {
  int status = 0;  // exit code, or 128 + signal
  std::string answer;
  int cached = 0;
  std::string problem;  // why nothing was saved
};

class KvCrash : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("strace -qq -o /dev/null true 2>/dev/null") != 0) {
      GTEST_SKIP() << "strace cannot trace here (not installed, or ptrace is forbidden)";
    }
    unbroken_ = run("", 700);
    ASSERT_EQ(unbroken_.status, 0);
    ASSERT_EQ(unbroken_.problem, "");
    whole_ = files();
    ASSERT_GE(whole_, 11);
  }

  Outcome run(const std::string& inject, int tokens, const char* more = "") {
    std::string trace;
    if (!inject.empty()) {
      trace = "strace -f -qq -o /dev/null -e trace=" + inject.substr(0, inject.find(':')) +
              " -e inject=" + inject + " ";
    }
    std::string command = trace + test::tests_folder() + "/kv_crash_driver " + cache().string() +
                          " " + std::to_string(tokens) + " " + more + " >" +
                          (dir_ / "out").string() + " 2>" + (dir_ / "err").string();
    int raw = std::system(command.c_str());
    Outcome outcome;
    outcome.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
    std::istringstream lines(read_file(dir_ / "out"));
    std::getline(lines, outcome.answer);
    std::getline(lines, outcome.problem);
    if (size_t at = outcome.answer.find("cached "); at != std::string::npos) {
      outcome.cached = std::atoi(outcome.answer.c_str() + at + 7);
      outcome.answer.resize(at);
    }
    return outcome;
  }

  /// How often a thread makes these calls in an unbroken run.
  int count_calls(const std::string& calls) {
    forget();
    std::string command = "strace -f -qq -e trace=" + calls + " -o " + (dir_ / "trace").string() +
                          " " + test::tests_folder() + "/kv_crash_driver " + cache().string() +
                          " 700 >/dev/null 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0);
    std::map<std::string, int> by_thread;
    std::istringstream lines(read_file(dir_ / "trace"));
    int most = 0;
    for (std::string line; std::getline(lines, line);)
      most = std::max(most, ++by_thread[line.substr(0, line.find(' '))]);
    return most;
  }

  Path cache() const { return dir_ / "kv"; }
  void forget() const { std::filesystem::remove_all(cache()); }

  /// Page files; each must be whole.
  int files() const {
    int n = 0;
    for (const Path& key : list_kv_keys(cache())) {
      for (const KvFileEntry& entry : list_kv_files(key)) {
        std::vector<std::byte> payload(kKvPageTokens * sizeof(uint64_t));
        EXPECT_TRUE(read_kv_file(entry.path, payload))
            << "a torn file under its name: " << entry.path;
        ++n;
      }
    }
    return n;
  }
  int temporaries() const {
    int n = 0;
    for (const Path& key : list_kv_keys(cache())) {
      for (const auto& entry : std::filesystem::directory_iterator(key))
        n += entry.path().filename().string().starts_with(".tmp");
    }
    return n;
  }

  /// The next processes answer rightly, and leave the cache whole.
  void expect_recovered() {
    files();
    Outcome next = run("", 700);
    ASSERT_EQ(next.status, 0);
    ASSERT_EQ(next.answer, unbroken_.answer);
    EXPECT_EQ(next.problem, "");
    int there = files();
    EXPECT_GE(there, whole_);
    EXPECT_LE(there, whole_ + 1);  // the shorter prompt's last page ends in another answer
    EXPECT_EQ(temporaries(), 0) << "remains of the killed writer";
    EXPECT_EQ(run("", 700).cached, 699);
  }

  test::TempDir dir_;
  Outcome unbroken_;
  int whole_ = 0;
};

TEST_F(KvCrash, KilledAtAnyWrite) {
  int points = 0, killed = 0, partial = 0, remains = 0;
  for (const std::string calls : {"write", "rename", "openat", "close", "unlink,mkdir,fsync"}) {
    int n = count_calls(calls);
    ASSERT_GT(n, 0) << calls;
    int step = std::max(1, n / 16);
    for (int when = 1; when <= n; when += step) {
      // Into an empty folder, and over a cache that holds the beginning.
      for (int before : {0, 200}) {
        forget();
        if (before > 0) {
          ASSERT_EQ(run("", before).status, 0);
        }
        int had = before > 0 ? files() : 0;
        Outcome broken = run(calls + ":signal=KILL:when=" + std::to_string(when), 700);
        SCOPED_TRACE(calls + " " + std::to_string(when) + " over " + std::to_string(before));
        ++points;
        killed += broken.status != 0;
        int left = files();
        partial += left > had && left < whole_;
        remains += temporaries();
        expect_recovered();
        if (HasFatalFailure()) return;
      }
    }
  }
  EXPECT_GE(points, 80);
  EXPECT_GE(killed, points / 2);
  EXPECT_GE(partial, 10);
  EXPECT_GE(remains, 5) << "no fault struck inside a write";
  std::printf("%d points, %d killed, %d between pages, %d left a temporary file\n", points, killed,
              partial, remains);
}

TEST_F(KvCrash, AFullOrFailingDiskCostsNoAnswerAndIsSaid) {
  int said = 0, points = 0;
  for (const char* error : {"ENOSPC", "EIO", "EDQUOT"}) {
    for (const std::string calls : {"write", "rename"}) {
      int n = count_calls(calls);
      for (int when = 1; when <= n; when += std::max(1, n / 5)) {
        forget();
        Outcome broken =
            run(calls + ":error=" + error + ":when=" + std::to_string(when) + "+", 700);
        SCOPED_TRACE(calls + " " + error + " " + std::to_string(when));
        ++points;
        ASSERT_EQ(broken.status, 0);
        ASSERT_EQ(broken.answer, unbroken_.answer);
        said += !broken.problem.empty();
        expect_recovered();
        if (HasFatalFailure()) return;
      }
    }
  }
  EXPECT_GE(said, points - 4) << "of " << points;  // the last writes are of no page
}

/// A disk that takes 100 ms for each write: 12 pages of three writes would take 3.6 s. Who waits
/// for the shell waits for the page being written at most.
TEST_F(KvCrash, LeavingDoesNotWaitForASlowDisk) {
  forget();
  Outcome left = run("write:delay_enter=100000", 700, "leave");
  ASSERT_EQ(left.status, 0);
  int ms = std::atoi(left.answer.c_str());
  EXPECT_LT(ms, 1000) << left.answer;
  EXPECT_LT(files(), whole_ / 2) << "the disk was not slow";
  expect_recovered();
}

}  // namespace
}  // namespace apud
