#include "app/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/file.h"
#include "base/utf8.h"

namespace apud {

void occupy_closed_descriptors() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest number that is free. Opened the wrong way round.
    if (::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
  }
}

TerminalState inspect_terminal() {
  TerminalState state;
  state.stdin_tty = ::isatty(STDIN_FILENO) == 1;
  state.stdout_tty = ::isatty(STDOUT_FILENO) == 1;
  state.stderr_tty = ::isatty(STDERR_FILENO) == 1;
  const char* no_colour = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  state.dumb = !term || !*term || std::strcmp(term, "dumb") == 0;
  state.colour = !(no_colour && *no_colour) && !state.dumb;
  struct winsize size {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20)
    state.columns = size.ws_col;
  return state;
}

void Terminal::out(std::string_view bytes) {
  buffer_.append(bytes);
  if (buffer_.size() > (1 << 16)) flush();
}

void Terminal::out_text(std::string_view untrusted) { out(printable(untrusted)); }

void Terminal::flush() {
  if (buffer_.empty()) return;
  if (progress_shown_ && state_.stdout_tty) progress("", true);
  std::string bytes;
  bytes.swap(buffer_);
  broken_ = true;
  // EPIPE arrives only where SIGPIPE is ignored.
  write_whole(STDOUT_FILENO, bytes, "standard output");
  broken_ = false;
}

void Terminal::error(std::string_view line) {
  if (progress_shown_) progress("", true);
  std::string text = printable(line) + "\n";
  // A closed stderr must not hide the exit code that follows.
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

void Terminal::note(std::string_view line) {
  if (!quiet_) error(line);
}

void Terminal::warn(std::string_view line) {
  if (!quiet_) error("warning: " + std::string(line));
}

void Terminal::dim(std::string_view line) {
  if (quiet_ || !state_.stderr_tty) return;
  if (progress_shown_) progress("", true);
  std::string text = printable(line, true);
  if (state_.colour) text = "\x1b[2m" + text + "\x1b[0m";
  text += '\n';
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

void Terminal::reasoning(std::string_view untrusted) {
  if (quiet_) return;
  if (progress_shown_) progress("", true);
  std::string text = printable(untrusted);
  if (state_.colour && state_.stderr_tty) text = "\x1b[2m" + text + "\x1b[0m";
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

void Terminal::progress(std::string_view line, bool force) {
  if (!state_.stderr_tty || quiet_ || state_.dumb) return;
  auto now = std::chrono::steady_clock::now();
  if (!force && progress_shown_ && now - last_progress_ < std::chrono::milliseconds(100)) return;
  if (line.empty() && !progress_shown_) return;
  last_progress_ = now;
  // NO_COLOR: who wants no escape sequences still wants to know how far it is.
  std::string text = state_.colour
                         ? "\r\x1b[K"
                         : "\r" + std::string(static_cast<size_t>(progress_width_), ' ') + "\r";
  std::string shown = printable(line, true);
  while (display_width(shown) >= state_.columns) {
    do {
      shown.pop_back();
    } while (!shown.empty() && (static_cast<unsigned char>(shown.back()) & 0xC0) == 0x80);
    size_t tail = utf8_incomplete_tail(shown);
    shown.erase(shown.size() - tail);
  }
  text += shown;
  progress_width_ = display_width(shown);
  progress_shown_ = !line.empty();
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

}  // namespace apud
