// kill -9 and a full disk at every kind of write of an ingest: nothing acknowledged is lost,
// nothing is doubled, and a rerun ends where an unbroken run ends. Faults come from strace's
// injection.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>

#include "base/file.h"
#include "rag/store.h"
#include "tests/support/paths.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

using test::TempHome;

struct Outcome {
  int status = 0;  // exit code, or 128 + signal
  std::vector<std::string> acknowledged;
  std::string error;
};

class CrashTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::system("strace -qq -o /dev/null true 2>/dev/null") != 0) {
      GTEST_SKIP() << "strace cannot trace here (not installed, or ptrace is forbidden)";
    }
    for (int i = 0; i < 12; ++i) {
      std::string text = "# Part " + std::to_string(i) + "\n\n";
      for (int j = 0; j < 40; ++j)
        text += "Sentence " + std::to_string(j) + " of file " + std::to_string(i) + ". ";
      home.write("docs/" + std::to_string(10 + i) + ".md", text + "\n");
    }
  }

  /// Runs the driver, under strace when `inject` is not empty.
  Outcome run(const std::string& inject, const std::string& verb = "") {
    std::string trace =
        inject.empty()
            ? ""
            : "strace -f -qq -o /dev/null -e trace=" + inject.substr(0, inject.find(':')) +
                  " -e inject=" + inject + " ";
    std::string command = trace + test::tests_folder() + "/rag_crash_driver " +
                          (home / "docs").string() + " " + verb + " >" + (home / "out").string() +
                          " 2>" + (home / "err").string();
    int raw = std::system(command.c_str());
    Outcome outcome;
    outcome.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
    std::istringstream lines(read_file(home / "out"));
    for (std::string line; std::getline(lines, line);) outcome.acknowledged.push_back(line);
    outcome.error = read_file(home / "err");
    return outcome;
  }

  void forget() {
    for (const char* folder : {"data", "cache"}) std::filesystem::remove_all(home / folder);
  }

  /// How often the calls occur in an unbroken run, counted over all threads.
  int count_calls(const std::string& calls, const std::string& verb = "") {
    if (verb.empty()) forget();
    std::string command = "strace -f -qq -e trace=" + calls + " -o " + (home / "trace").string() +
                          " " + test::tests_folder() + "/rag_crash_driver " +
                          (home / "docs").string() + " " + verb + " >/dev/null 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0);
    std::string text = read_file(home / "trace");
    std::map<std::string, int> by_thread;
    std::istringstream lines(text);
    int most = 0;
    for (std::string line; std::getline(lines, line);) {
      std::string thread = line.substr(0, line.find(' '));
      most = std::max(most, ++by_thread[thread]);
    }
    return most;  // strace counts `when` in each thread
  }

  /// Everything that retrieval can see, ids apart.
  static std::string contents() {
    Store store;
    EXPECT_EQ(store.check(), std::vector<std::string>());
    auto info = store.find_collection("default");
    if (!info) return "none";
    std::string all;
    std::vector<DocumentInfo> documents = store.documents(info->id);
    std::sort(documents.begin(), documents.end(), [](auto& a, auto& b) { return a.path < b.path; });
    for (const DocumentInfo& d : documents) {
      all += d.path + " " + d.content_hash + "\n" + store.text(d.id).text;
      for (const StoredChunk& c : store.chunks_of(d.id)) {
        all += std::to_string(c.begin) + "-" + std::to_string(c.end) + " ";
        std::vector<std::vector<uint16_t>> rows = store.vectors({&c.id, 1});
        for (uint16_t h : rows[0]) all += std::to_string(h) + ",";
      }
    }
    std::string match = "sentence";
    all += std::to_string(store.keyword_search(info->id, match, 100000).size());
    return all;
  }

  void expect_acknowledged_are_there(const Outcome& outcome) {
    if (outcome.acknowledged.empty()) return;
    Store store;
    CollectionInfo info = store.collection("default");
    for (const std::string& line : outcome.acknowledged) {
      auto d = store.find_document(info.id, line.substr(line.find(' ') + 1));
      ASSERT_TRUE(d) << line;
      EXPECT_GT(d->chunks, 0);
    }
  }

  TempHome home;
};

TEST_F(CrashTest, KilledAtAnyWrite) {
  ASSERT_EQ(run("").status, 0);
  const std::string unbroken = contents();
  int points = 0, killed = 0, partial = 0;
  for (const std::string calls :
       {"pwrite64", "fdatasync,fsync", "write,ftruncate,rename,renameat2"}) {
    int n = count_calls(calls);
    ASSERT_GT(n, 3) << calls;
    int step = std::max(1, n / 24);
    for (int when = 1; when <= n; when += step) {
      forget();
      Outcome broken = run(calls + ":signal=KILL:when=" + std::to_string(when));
      SCOPED_TRACE(calls + " " + std::to_string(when));
      ++points;
      killed += broken.status != 0;
      partial += !broken.acknowledged.empty() && broken.acknowledged.size() < 12;
      expect_acknowledged_are_there(broken);
      ASSERT_EQ(run("").status, 0);
      ASSERT_EQ(contents(), unbroken);
    }
  }
  // The faults really struck, and in the middle of the work.
  EXPECT_GE(points, 50);
  EXPECT_GE(killed, points * 9 / 10);
  EXPECT_GE(partial, 10);
  std::printf("%d points, %d killed, %d in the middle\n", points, killed, partial);
}

TEST_F(CrashTest, FullDiskAtAnyWrite) {
  ASSERT_EQ(run("").status, 0);
  const std::string unbroken = contents();
  int n = count_calls("pwrite64"), failed = 0, points = 0;
  int step = std::max(1, n / 20);
  for (int when = 1; when <= n; when += step) {
    forget();
    Outcome broken = run("pwrite64:error=ENOSPC:when=" + std::to_string(when) + "+");
    SCOPED_TRACE(when);
    ++points;
    if (broken.status != 0) {
      ++failed;
      EXPECT_EQ(broken.status, 74) << broken.error;
      EXPECT_FALSE(broken.error.empty());
    }
    expect_acknowledged_are_there(broken);
    ASSERT_EQ(run("").status, 0);
    ASSERT_EQ(contents(), unbroken);
  }
  EXPECT_GE(failed, points / 2);
  std::printf("%d points, %d failed\n", points, failed);
}

TEST_F(CrashTest, DiskErrorAtAnySync) {
  ASSERT_EQ(run("").status, 0);
  const std::string unbroken = contents();
  int n = count_calls("fdatasync"), failed = 0;
  for (int when = 1; when <= n; when += std::max(1, n / 12)) {
    forget();
    Outcome broken = run("fdatasync:error=EIO:when=" + std::to_string(when));
    SCOPED_TRACE(when);
    failed += broken.status != 0;
    expect_acknowledged_are_there(broken);
    ASSERT_EQ(run("").status, 0);
    ASSERT_EQ(contents(), unbroken);
  }
  EXPECT_GE(failed, 6);
}

TEST_F(CrashTest, ReindexKilledAtAnyWriteLeavesOneGeneration) {
  ASSERT_EQ(run("").status, 0);
  const std::string old = contents();
  auto embedder = [] { return Store().collection("default").embedder.fingerprint; };
  std::filesystem::rename(home / "data", home / "kept");
  auto restore = [&] {
    forget();
    std::filesystem::copy(home / "kept", home / "data", std::filesystem::copy_options::recursive);
  };
  restore();
  ASSERT_EQ(run("", "reindex").status, 0);
  const std::string fresh = contents();
  ASSERT_NE(fresh, old);
  int killed = 0, olds = 0, swapped = 0;
  for (const std::string calls : {"pwrite64", "fdatasync,fsync", "ftruncate,rename,unlink"}) {
    restore();
    int n = count_calls(calls, "reindex");
    int step = std::max(1, n / 16);
    for (int when = 1; when <= n; when += step) {
      restore();
      SCOPED_TRACE(calls + " " + std::to_string(when));
      killed += run(calls + ":signal=KILL:when=" + std::to_string(when), "reindex").status != 0;
      bool after = embedder() == "fake/2";
      (after ? swapped : olds)++;
      ASSERT_EQ(contents(), after ? fresh : old);
      if (after) continue;
      ASSERT_EQ(run("", "reindex").status, 0);  // goes on from what is there
      ASSERT_EQ(contents(), fresh);
    }
  }
  EXPECT_GE(killed, 20);
  EXPECT_GE(olds, 15);
  EXPECT_GE(swapped, 1);
  std::printf("%d killed: %d times the old one, %d times the new one\n", killed, olds, swapped);
}

}  // namespace
}  // namespace apud
