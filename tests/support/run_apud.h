// Runs the real binary in a home of its own, for end-to-end tests.
//
// Threads: one thread.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/models.h"
#include "tests/support/paths.h"
#include "tests/support/temp_dir.h"

namespace apud::test {

struct RunResult {
  int code = -1;  // exit code, or 128 + signal
  bool timed_out = false;
  std::string out;
  std::string err;
  double seconds = 0;

  std::vector<std::string> lines() const { return split(out); }
  std::vector<std::string> error_lines() const { return split(err); }
  static std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> all;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) all.push_back(line);
    return all;
  }
};

/// A test names what it saw: EXPECT_EQ(r.code, 0) << r;
inline std::ostream& operator<<(std::ostream& out, const RunResult& r) {
  return out << "\nexit " << r.code << (r.timed_out ? " (killed: too slow)" : "") << " after "
             << r.seconds << " s\n--- stdout\n"
             << r.out << "--- stderr\n"
             << r.err << "---\n";
}

/// A home folder with nothing in it; models come from where the tests find them.
class Home {
 public:
  Home() {
    environment_["HOME"] = dir_.path().string();
    environment_["PATH"] = std::getenv("PATH") ? std::getenv("PATH") : "/usr/bin:/bin";
    environment_["APUD_MODELS"] = models_dir().string();
    environment_["APUD"] = apud_binary();
    environment_["LC_ALL"] = "C.UTF-8";
    environment_["TERM"] = "dumb";
  }
  const std::filesystem::path& path() const { return dir_.path(); }
  std::map<std::string, std::string>& environment() { return environment_; }
  /// A run that takes longer is killed and marked.
  void set_time_limit(double seconds) { time_limit_ = seconds; }

  std::filesystem::path write(const std::string& name, const std::string& content) {
    return dir_.write(name, content);
  }

  using During = std::function<bool(pid_t, const RunResult&)>;

  /// Runs `apud ARGS…` with `input` on stdin (a pipe). `during`, when given, gets the pid once the
  /// process runs and is called at least every 10 ms until it returns false.
  RunResult run(const std::vector<std::string>& args, const std::string& input = "",
                const During& during = {}) {
    std::vector<std::string> argv = args;
    argv.insert(argv.begin(), apud_binary());
    return execute(argv, input, during);
  }

  /// Runs a shell script in which $APUD is the binary.
  RunResult shell(const std::string& script, const std::string& input = "") {
    return execute({"/bin/bash", "-c", script}, input, {});
  }

 private:
  RunResult execute(std::vector<std::string> words, const std::string& input,
                    const During& during) {
    int in[2], out[2], err[2];
    if (::pipe2(in, O_CLOEXEC) || ::pipe2(out, O_CLOEXEC) || ::pipe2(err, O_CLOEXEC)) return {};
    auto start = std::chrono::steady_clock::now();
    auto elapsed = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    std::vector<std::string> env;
    for (const auto& [key, value] : environment_) env.push_back(key + "=" + value);
    std::vector<char*> envp, argv;
    for (std::string& one : env) envp.push_back(one.data());
    envp.push_back(nullptr);
    for (std::string& one : words) argv.push_back(one.data());
    argv.push_back(nullptr);
    pid_t pid = ::fork();
    if (pid == 0) {
      ::setpgid(0, 0);  // what a shell started ends with it
      ::dup2(in[0], 0), ::dup2(out[1], 1), ::dup2(err[1], 2);
      // Who started the tests may ignore them ("&", nohup), and apud keeps that.
      for (int number : {SIGPIPE, SIGINT, SIGTERM, SIGHUP}) ::signal(number, SIG_DFL);
      if (::chdir(dir_.path().c_str()) != 0) ::_exit(126);
      ::execve(argv[0], argv.data(), envp.data());
      ::_exit(127);
    }
    ::close(in[0]), ::close(out[1]), ::close(err[1]);
    ::signal(SIGPIPE, SIG_IGN);
    RunResult result;
    std::string rest = input;
    bool watching = static_cast<bool>(during);
    bool open[2] = {true, true};
    ::fcntl(in[1], F_SETFL, O_NONBLOCK);
    int input_fd = in[1];
    if (rest.empty()) ::close(input_fd), input_fd = -1;
    while (open[0] || open[1]) {
      struct pollfd fds[3] = {{open[0] ? out[0] : -1, POLLIN, 0},
                              {open[1] ? err[0] : -1, POLLIN, 0},
                              {input_fd, POLLOUT, 0}};
      ::poll(fds, 3, watching ? 10 : 1000);
      if (input_fd >= 0 && fds[2].revents) {
        ssize_t n = ::write(input_fd, rest.data(), rest.size());
        if (n > 0) rest.erase(0, static_cast<size_t>(n));
        if (n < 0 || rest.empty()) ::close(input_fd), input_fd = -1;
      }
      for (int i = 0; i < 2; ++i) {
        if (!fds[i].revents) continue;
        char buffer[65536];
        ssize_t n = ::read(fds[i].fd, buffer, sizeof buffer);
        if (n <= 0) {
          open[i] = false;
        } else {
          (i == 0 ? result.out : result.err).append(buffer, static_cast<size_t>(n));
        }
      }
      if (watching) watching = during(pid, result);
      if (!result.timed_out && elapsed() > time_limit_) {
        result.timed_out = true;
        ::kill(-pid, SIGKILL);
      }
    }
    if (input_fd >= 0) ::close(input_fd);
    ::close(out[0]), ::close(err[0]);
    int status = 0;
    ::waitpid(pid, &status, 0);
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.seconds = elapsed();
    return result;
  }

  TempDir dir_;
  std::map<std::string, std::string> environment_;
  double time_limit_ = 120;
};

}  // namespace apud::test
