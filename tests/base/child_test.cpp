#include "base/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
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
  for (volatile long i = 0;; i = i + 1) {
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
