#include "base/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "base/error.h"

namespace apud {
namespace {

std::string echo(std::string_view input) { return "<" + std::string(input) + ">"; }
std::string eat_memory(std::string_view) {
  std::string all;
  for (int i = 0; i < 64; ++i) all += std::string(64u << 20, static_cast<char>('a' + i % 26));
  return std::to_string(all.size());
}
std::string spin(std::string_view) {
  for (volatile long i = 0;;) {
    long next = i + 1;
    i = next;
  }
  return {};
}
std::string crash(std::string_view) {
  ::signal(SIGSEGV, SIG_DFL);
  ::raise(SIGSEGV);
  return {};
}
std::string flood(std::string_view) { return std::string(8u << 20, 'x'); }
std::string escape(std::string_view) {
  std::string out;
  out += ::open("/etc/passwd", O_RDONLY) < 0 ? "no-file " : "FILE ";
  out += ::socket(AF_INET, SOCK_STREAM, 0) < 0 ? "no-socket " : "SOCKET ";
  pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  out += pid < 0 ? "no-fork " : "FORK ";
  out += std::getenv("APUD_TEST_CANARY") ? "ENVIRONMENT" : "no-environment";
  return out;
}
std::string own_pid(std::string_view) { return std::to_string(::getpid()); }
std::string talk_too_much(std::string_view input) {
  // The frame of an answer to an input that was not given yet.
  uint64_t size = 5;
  std::string extra(reinterpret_cast<const char*>(&size), sizeof size);
  extra += "false";
  std::string own(reinterpret_cast<const char*>(&size), sizeof size);
  own += "first" + extra;
  if (::write(1, own.data(), own.size()) < 0) return {};
  return std::string(input);
}
std::string leave(std::string_view) { ::_exit(0); }
/// Does what its input names.
std::string obey(std::string_view input) {
  if (input == "crash") return crash(input);
  if (input == "eat") return eat_memory(input);
  if (input == "spin") return spin(input);
  if (input == "flood") return flood(input);
  if (input == "throw") throw std::runtime_error("as asked");
  if (input == "leave") return leave(input);
  if (input == "escape") return escape(input);
  if (input == "talk") return talk_too_much(input);
  if (input.starts_with("echo")) return std::string(input.substr(4));
  return own_pid(input);
}
const ChildEntry kObey("test-obey", &obey);
const ChildEntry kEcho("test-echo", &echo);
const ChildEntry kEat("test-eat", &eat_memory);
const ChildEntry kSpin("test-spin", &spin);
const ChildEntry kCrash("test-crash", &crash);
const ChildEntry kFlood("test-flood", &flood);
const ChildEntry kEscape("test-escape", &escape);

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

TEST(Child, ReturnsOutput) {
  std::string input(3u << 20, 'q');
  ChildResult result = run_in_child("test-echo", input, {});
  ASSERT_EQ(result.end, ChildEnd::kOk) << result.diagnostics;
  EXPECT_EQ(result.output, "<" + input + ">");
}

TEST(Child, MemoryLimit) {
  if (kSanitized) GTEST_SKIP() << "address sanitizer needs the address space";
  ChildLimits limits;
  limits.memory_bytes = 512u << 20;
  ChildResult result = run_in_child("test-eat", "", limits);
  EXPECT_EQ(result.end, ChildEnd::kMemory);
}

TEST(Child, WallAndCpuLimits) {
  ChildLimits limits;
  limits.wall_seconds = 0.3;
  auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(run_in_child("test-spin", "", limits).end, ChildEnd::kTime);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
  limits.wall_seconds = 30;
  limits.cpu_seconds = 1;
  EXPECT_EQ(run_in_child("test-spin", "", limits).end, ChildEnd::kTime);
}

TEST(Child, OutputLimitSignalAndCancel) {
  ChildLimits limits;
  limits.output_bytes = 1u << 20;
  ChildResult flooded = run_in_child("test-flood", "", limits);
  EXPECT_EQ(flooded.end, ChildEnd::kOutput);
  EXPECT_EQ(flooded.output.size(), 1u << 20);
  ChildResult crashed = run_in_child("test-crash", "", {});
  EXPECT_EQ(crashed.end, ChildEnd::kSignal);
  EXPECT_EQ(crashed.code, SIGSEGV);
  CancelFlag cancel;
  std::thread raiser([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    cancel.raise();
  });
  EXPECT_EQ(run_in_child("test-spin", "", {}, &cancel).end, ChildEnd::kCancelled);
  raiser.join();
}

TEST(Child, CannotReachFilesNetworkProcessesOrEnvironment) {
  if (kSanitized) GTEST_SKIP() << "a sanitized child is not sealed: its runtime opens files";
  ::setenv("APUD_TEST_CANARY", "1", 1);
  ChildResult result = run_in_child("test-escape", "", {});
  ASSERT_EQ(result.end, ChildEnd::kOk) << result.diagnostics;
  EXPECT_EQ(result.output, "no-file no-socket no-fork no-environment");
}

// --- One child for many inputs -------------------------------------------------------------------

std::string obeyed(const std::string& input, const ChildLimits& limits = {}) {
  ChildResult result = run_in_child("test-obey", input, limits);
  EXPECT_EQ(result.end, ChildEnd::kOk) << input << ": " << describe(result, limits);
  return result.output;
}

TEST(ChildReuse, OneChildServesManyInputsUpToItsNumberAndBytes) {
  std::string alone = obeyed("pid");
  EXPECT_NE(obeyed("pid"), alone) << "without it every input has a process of its own";
  std::set<std::string> pids;
  {
    ChildReuse reuse;
    for (int i = 0; i < 64; ++i) pids.insert(obeyed("pid"));
    EXPECT_EQ(pids.size(), 1u);
    EXPECT_EQ(pids.count(obeyed("pid")), 0u) << "the 65th has another";
    std::string before = obeyed("pid");
    {
      ChildReuse inner;
      EXPECT_EQ(obeyed("pid"), before);
    }
    EXPECT_EQ(obeyed("pid"), before) << "an inner one changes nothing";
    std::string large(5u << 20, 'x');
    EXPECT_EQ(obeyed("echo" + large), large);
    EXPECT_NE(obeyed("pid"), before) << "nor does it serve on behind a large input";
    EXPECT_EQ(obeyed("echo"), "") << "an empty answer is one";
  }
  EXPECT_NE(obeyed("pid"), obeyed("pid"));
}

TEST(ChildReuse, WhatEndsAChildCostsOnlyItsInput) {
  ChildReuse reuse;
  ChildLimits limits;
  limits.memory_bytes = 512u << 20;
  limits.output_bytes = 1u << 20;
  limits.wall_seconds = 0.5;
  auto end = [&](const std::string& input) {
    ChildResult result = run_in_child("test-obey", input, limits);
    std::string after = obeyed("pid", limits);
    EXPECT_EQ(obeyed("pid", limits), after) << "and the next ones share a child again";
    EXPECT_EQ(obeyed("echoabc", limits), "abc") << "behind " << input;
    return result.end;
  };
  std::string before = obeyed("pid", limits);
  EXPECT_EQ(end("crash"), ChildEnd::kSignal);
  EXPECT_NE(obeyed("pid", limits), before);
  EXPECT_EQ(end("spin"), ChildEnd::kTime);
  EXPECT_EQ(end("flood"), ChildEnd::kOutput);
  EXPECT_EQ(end("throw"), ChildEnd::kExit);
  EXPECT_EQ(end("leave"), ChildEnd::kExit) << "an end without an answer is none";
  // The true answer never comes: what stands behind the first frame is not given to another input.
  EXPECT_EQ(end("talk"), ChildEnd::kOutput);
  limits.wall_seconds = 30;
  if (!kSanitized) {
    EXPECT_EQ(end("eat"), ChildEnd::kMemory);
  }
}

TEST(ChildReuse, EachInputHasItsOwnTime) {
  ChildReuse reuse;
  ChildLimits limits;
  limits.wall_seconds = 30;
  limits.cpu_seconds = 1;
  std::string before = obeyed("pid", limits);
  auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(run_in_child("test-obey", "spin", limits).end, ChildEnd::kTime);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  CancelFlag cancel;
  std::thread raiser([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    cancel.raise();
  });
  EXPECT_EQ(run_in_child("test-obey", "spin", limits, &cancel).end, ChildEnd::kCancelled);
  raiser.join();
  EXPECT_NE(obeyed("pid", limits), before);
}

TEST(ChildReuse, IsSealedFromTheFirstInputOn) {
  if (kSanitized) GTEST_SKIP() << "a sanitized child is not sealed: its runtime opens files";
  ::setenv("APUD_TEST_CANARY", "1", 1);
  ChildReuse reuse;
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(obeyed("escape"), "no-file no-socket no-fork no-environment");
}

TEST(ChildReuse, ThreadsHaveTheirOwnAndLeaveNoProcess) {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::set<std::string> pids;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      ChildReuse reuse;
      std::string mine = obeyed("pid");
      for (int i = 0; i < 20; ++i) EXPECT_EQ(obeyed("pid"), mine);
      std::lock_guard hold(mutex);
      pids.insert(mine);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(pids.size(), 4u);
  for (const std::string& pid : pids) EXPECT_NE(::kill(std::stoi(pid), 0), 0) << pid;
}

TEST(Child, ProgramsAreLimitedToo) {
  auto shell = find_program("sh");
  ASSERT_TRUE(shell);
  FileDescriptor input = memory_file("hello");
  ChildResult cat =
      run_program(*shell, {"-c", "read x; echo $x; echo oops >&2; exit 3"}, input.get(), {});
  EXPECT_EQ(cat.end, ChildEnd::kExit);
  EXPECT_EQ(cat.code, 3);
  EXPECT_EQ(cat.output, "hello\n");
  EXPECT_EQ(cat.diagnostics, "oops\n");
  // No new processes: the shell cannot even start `true`.
  ChildResult fork =
      run_program(*shell, {"-c", "/bin/true | /bin/true; echo survived"}, input.get(), {});
  EXPECT_EQ(fork.output.find("survived"), std::string::npos) << fork.output;
  EXPECT_THROW(run_program("/nonexistent/program", {}, input.get(), {}), Error);
  EXPECT_FALSE(find_program("no-such-program-of-apud"));
}

TEST(Child, ManyThreads) {
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) {
        std::string input = std::to_string(t * 100 + i);
        good += run_in_child("test-echo", input, {}).output == "<" + input + ">";
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 20);
}

}  // namespace
}  // namespace apud
