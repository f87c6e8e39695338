#include "app/signals.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace apud {

namespace {

CancelFlag g_cancel;
std::atomic<int> g_last{0};
std::atomic<int> g_ending{0};
std::atomic<long> g_last_interrupt_ms{-10000};
struct termios g_modes;
std::atomic<bool> g_have_modes{false};
// A signal may be handled on any thread, and just before a read begins: a byte in this pipe ends
// the wait for input in both cases.
int g_wake[2] = {-1, -1};

long now_ms() {
  struct timespec now {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void on_signal(int number) {
  if (number == SIGINT) {
    long now = now_ms();
    long before = g_last_interrupt_ms.exchange(now);
    if (g_last.load() == SIGINT && g_cancel.raised() && now - before < 2000) {
      if (g_have_modes.load()) ::tcsetattr(STDIN_FILENO, TCSANOW, &g_modes);
      ::_exit(130);
    }
  } else {
    g_ending.store(number);
  }
  g_last.store(number);
  g_cancel.raise();
  if (g_wake[1] >= 0) {
    int saved = errno;
    if (::write(g_wake[1], "", 1) < 0) {
      // Full: a wake-up is waiting already.
    }
    errno = saved;
  }
}

}  // namespace

void install_signal_handlers() {
  if (::pipe2(g_wake, O_CLOEXEC | O_NONBLOCK) != 0) g_wake[0] = g_wake[1] = -1;
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a blocked read returns so that the prompt notices
  for (int number : {SIGINT, SIGTERM, SIGHUP}) {
    // A shell's "&" or nohup leaves these ignored: keep that.
    struct sigaction old {};
    ::sigaction(number, nullptr, &old);
    if (old.sa_handler != SIG_IGN) ::sigaction(number, &action, nullptr);
  }
}

CancelFlag& cancel_flag() { return g_cancel; }
int ending_signal() { return g_ending.load(); }
int last_signal() { return g_last.load(); }

void begin_interruptible() {
  if (g_ending.load() != 0) return;
  g_last.store(0);
  g_cancel.clear();
}

bool wait_readable(int fd) {
  for (;;) {
    if (g_cancel.raised()) {
      char bytes[64];
      while (g_wake[0] >= 0 && ::read(g_wake[0], bytes, sizeof bytes) > 0) continue;
      return false;
    }
    struct pollfd fds[2] = {{fd, POLLIN, 0}, {g_wake[0], POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return true;  // the read will tell
    if (fds[1].revents != 0 && !g_cancel.raised()) {
      // Left over from a signal that begin_interruptible() forgot.
      char bytes[64];
      while (::read(g_wake[0], bytes, sizeof bytes) > 0) continue;
    }
    if (fds[0].revents != 0 && !g_cancel.raised()) return true;
  }
}

void remember_terminal_modes() {
  if (::tcgetattr(STDIN_FILENO, &g_modes) == 0) g_have_modes.store(true);
}

}  // namespace apud
