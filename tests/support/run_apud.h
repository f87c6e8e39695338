// Runs the real binary in a home of its own, for end-to-end tests.
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
#include "tests/support/temp_dir.h"

namespace apud::test {

struct RunResult {
  int code = -1;       // exit code, or 128 + signal
  std::string out;
  std::string err;
  double seconds = 0;
};

/// A home folder with nothing in it; models come from where the tests find them.
class Home {
 public:
  Home() {
    environment_["HOME"] = dir_.path().string();
    environment_["PATH"] = std::getenv("PATH") ? std::getenv("PATH") : "/usr/bin:/bin";
    environment_["APUD_MODELS"] = models_dir().string();
    environment_["LC_ALL"] = "C.UTF-8";
    environment_["TERM"] = "dumb";
  }
  const std::filesystem::path& path() const { return dir_.path(); }
  std::map<std::string, std::string>& environment() { return environment_; }

  std::filesystem::path write(const std::string& name, const std::string& content) {
    std::filesystem::path file = dir_.path() / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
    return file;
  }

  /// Runs `apud ARGS…` with `input` on stdin (a pipe). `during`, when given, gets the pid once the
  /// process runs and is called every 10 ms until it returns false.
  RunResult run(const std::vector<std::string>& args, const std::string& input = "",
                const std::function<bool(pid_t, const RunResult&)>& during = {}) {
    int in[2], out[2], err[2];
    if (::pipe2(in, O_CLOEXEC) || ::pipe2(out, O_CLOEXEC) || ::pipe2(err, O_CLOEXEC)) return {};
    auto start = std::chrono::steady_clock::now();
    pid_t pid = ::fork();
    if (pid == 0) {
      ::dup2(in[0], 0), ::dup2(out[1], 1), ::dup2(err[1], 2);
      std::vector<std::string> env;
      for (const auto& [key, value] : environment_) env.push_back(key + "=" + value);
      std::vector<char*> envp, argv;
      for (std::string& one : env) envp.push_back(one.data());
      envp.push_back(nullptr);
      std::string binary = APUD_BINARY;
      argv.push_back(binary.data());
      std::vector<std::string> copy = args;
      for (std::string& one : copy) argv.push_back(one.data());
      argv.push_back(nullptr);
      if (::chdir(dir_.path().c_str()) != 0) ::_exit(126);
      ::execve(binary.c_str(), argv.data(), envp.data());
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
      struct pollfd fds[3] = {{open[0] ? out[0] : -1, POLLIN, 0}, {open[1] ? err[0] : -1, POLLIN, 0}, {input_fd, POLLOUT, 0}};
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
    }
    if (input_fd >= 0) ::close(input_fd);
    ::close(out[0]), ::close(err[0]);
    int status = 0;
    ::waitpid(pid, &status, 0);
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

 private:
  TempDir dir_;
  std::map<std::string, std::string> environment_;
};

}  // namespace apud::test
