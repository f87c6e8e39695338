#include "app/signals.h"

#include <signal.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace apud {

namespace {

CancelFlag g_cancel;
std::atomic<int> g_last{0};
std::atomic<int> g_ending{0};
std::atomic<long> g_last_interrupt_ms{-10000};
struct termios g_modes;
std::atomic<bool> g_have_modes{false};

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
}

}  // namespace

void install_signal_handlers() {
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

void remember_terminal_modes() {
  if (::tcgetattr(STDIN_FILENO, &g_modes) == 0) g_have_modes.store(true);
}

}  // namespace apud
