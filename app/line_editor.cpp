#include "app/line_editor.h"

#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cwchar>
#include <utility>

#include "app/signals.h"
#include "app/terminal.h"
#include "base/ascii.h"
#include "base/utf8.h"

namespace apud {

namespace {

constexpr const char* kPasteOn = "\x1b[?2004h";
constexpr const char* kPasteOff = "\x1b[?2004l";
constexpr size_t kMaxInput = 1 << 20;
constexpr char kCtrlD = 4;
constexpr wchar_t kRedraw = 0x1F;  // Ctrl-_, bound to drawing the line anew

std::wstring widen(const std::string& text) {
  std::wstring out;
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    out += static_cast<wchar_t>(c.code);
    pos += c.size;
  }
  return out;
}

std::string narrow(const wchar_t* text, size_t size) {
  std::string out;
  for (size_t i = 0; i < size; ++i) utf8_append(out, static_cast<char32_t>(text[i]));
  return out;
}

void emit(const char* bytes) {
  if (::write(STDERR_FILENO, bytes, std::char_traits<char>::length(bytes)) < 0) return;
}

}  // namespace

struct LineEditor::Impl {
  bool terminal = false;
  bool dumb = inspect_terminal().dumb;  // would show the sequences for pasting
  Path history_path;
  EditLine* editor = nullptr;
  HistoryW* history = nullptr;
  HistEventW event{};
  std::wstring prompt;
  std::string pending;  // bytes of plain input not yet used
  bool at_end = false;
  bool interrupted = false;
  std::wstring drawn;        // the line when it was looked at last
  bool typed_ahead = false;  // input was there before the terminal left its line mode

  /// Own reader: libedit's swallows the first interrupted read, so that Ctrl-C would need two
  /// presses.
  static int get_char(EditLine* editor, wchar_t* out) {
    void* data = nullptr;
    el_wget(editor, EL_CLIENTDATA, &data);
    Impl& self = *static_cast<Impl*>(data);
    if (self.draw_anew()) {
      *out = kRedraw;
      return 1;
    }
    std::string bytes;
    for (;;) {
      if (!wait_readable(STDIN_FILENO)) {
        self.interrupted = true;
        return -1;
      }
      char byte;
      ssize_t n = ::read(STDIN_FILENO, &byte, 1);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return 0;
      // Ctrl-D typed while the terminal was in line mode comes as a NUL once it is not.
      if (std::exchange(self.typed_ahead, false) && byte == 0) byte = kCtrlD;
      bytes += byte;
      if (utf8_incomplete_tail(bytes) == 0) {
        *out = static_cast<wchar_t>(utf8_decode(bytes, 0).code);
        return 1;
      }
    }
  }

  /// libedit moves what follows the cursor cell by cell and so cuts wide characters at the edge of
  /// the screen in two: a line of them that was edited inside is drawn once more when no key waits.
  bool draw_anew() {
    const LineInfoW* line = el_wline(editor);
    std::wstring now(line->buffer, line->lastchar);
    if (now == drawn) return false;
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    if (::poll(&input, 1, 0) > 0) return false;
    drawn = std::move(now);
    return !dumb && line->cursor < line->lastchar &&
           std::any_of(drawn.begin(), drawn.end(), [](wchar_t c) { return c >= 0x1100; });
  }

  static wchar_t* get_prompt(EditLine* editor) {
    void* data = nullptr;
    el_wget(editor, EL_CLIENTDATA, &data);
    return static_cast<Impl*>(data)->prompt.data();
  }

  /// Bound to ESC[200~: everything up to ESC[201~ is text, newlines too.
  static unsigned char paste(EditLine* editor, int) {
    static const std::wstring kEndMark = L"\x1b[201~";
    std::wstring text;
    wchar_t c;
    while (text.size() < kMaxInput && el_wgetc(editor, &c) == 1) {
      text += c == L'\r' ? L'\n' : c;
      if (text.size() >= kEndMark.size() &&
          text.compare(text.size() - kEndMark.size(), kEndMark.size(), kEndMark) == 0) {
        text.erase(text.size() - kEndMark.size());
        break;
      }
    }
    // Controls of pasted text would act on the editor's own screen.
    std::wstring clean;
    for (wchar_t w : text) {
      if (w == L'\n' || w == L'\t' || (w >= 0x20 && w != 0x7F && !(w >= 0x80 && w < 0xA0)))
        clean += w;
    }
    el_winsertstr(editor, clean.c_str());
    return CC_REFRESH;
  }

  std::optional<std::string> plain_line() {
    for (;;) {
      size_t newline = pending.find('\n');
      if (newline != std::string::npos) {
        std::string line = pending.substr(0, newline);
        pending.erase(0, newline + 1);
        return line;
      }
      if (at_end) {
        if (pending.empty()) return std::nullopt;
        std::string line;
        line.swap(pending);
        return line;
      }
      if (!wait_readable(STDIN_FILENO)) {
        interrupted = true;
        return std::nullopt;
      }
      char buffer[4096];
      ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        at_end = true;
      } else {
        pending.append(buffer, static_cast<size_t>(n));
      }
    }
  }

  std::optional<std::string> one_line(const std::string& text) {
    if (!terminal) return plain_line();
    prompt = widen(text);
    // Before the prompt: libedit does it after, and what is typed in between would be the
    // terminal's. Whether anything was typed is asked after that: what comes between the question
    // and the change of modes would be taken for a key.
    el_wset(editor, EL_PREP_TERM, 1);
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    typed_ahead = ::poll(&input, 1, 0) > 0;
    if (!dumb) emit(kPasteOn);
    int count = 0;
    const wchar_t* line = el_wgets(editor, &count);
    if (!dumb) emit(kPasteOff);
    if (!line || count <= 0) return std::nullopt;
    std::string out = narrow(line, static_cast<size_t>(count));
    if (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
  }
};

LineEditor::LineEditor(bool terminal, const Path& history) : impl_(std::make_unique<Impl>()) {
  impl_->terminal = terminal;
  impl_->history_path = history;
  if (!terminal) return;
  // libedit measures characters by the locale; text is UTF-8 whatever LANG says.
  if (!::setlocale(LC_CTYPE, "")) ::setlocale(LC_CTYPE, "C.UTF-8");
  if (MB_CUR_MAX == 1) ::setlocale(LC_CTYPE, "C.UTF-8");
  remember_terminal_modes();
  // The prompt and its echo go to stderr: stdout carries answers only.
  impl_->editor = el_init("apud", stdin, stderr, stderr);
  if (!impl_->editor) {
    impl_->terminal = false;
    return;
  }
  impl_->history = history_winit();
  history_w(impl_->history, &impl_->event, H_SETSIZE, 1000);
  history_w(impl_->history, &impl_->event, H_SETUNIQUE, 1);
  el_wset(impl_->editor, EL_CLIENTDATA, impl_.get());
  el_wset(impl_->editor, EL_GETCFN, &Impl::get_char);
  el_wset(impl_->editor, EL_PROMPT, &Impl::get_prompt);
  el_wset(impl_->editor, EL_EDITOR, L"emacs");
  el_wset(impl_->editor, EL_SIGNAL, 0);
  el_wset(impl_->editor, EL_HIST, history_w, impl_->history);
  el_wset(impl_->editor, EL_ADDFN, L"apud-paste", L"insert a bracketed paste", &Impl::paste);
  el_wset(impl_->editor, EL_BIND, L"\\e[200~", L"apud-paste", nullptr);
  el_wset(impl_->editor, EL_BIND, L"^R", L"em-inc-search-prev", nullptr);
  el_wset(impl_->editor, EL_BIND, L"^_", L"ed-redisplay", nullptr);
  if (!history.empty()) history_w(impl_->history, &impl_->event, H_LOAD, history.c_str());
}

LineEditor::~LineEditor() {
  if (impl_->editor) el_end(impl_->editor);
  if (impl_->history) history_wend(impl_->history);
}

LineEditor::Input LineEditor::read(const std::string& prompt) {
  impl_->interrupted = false;
  std::string text;
  bool block = false;
  for (bool first = true;; first = false) {
    std::optional<std::string> line = impl_->one_line(first ? prompt : "... ");
    if (!line) {
      if (ending_signal() == 0 && impl_->interrupted) return {Input::kInterrupted, {}};
      if (text.empty()) return {Input::kEnd, {}};
      break;
    }
    if (first && line->rfind("\"\"\"", 0) == 0) {
      block = true;
      *line = line->substr(3);
      if (line->empty()) continue;
    }
    if (block) {
      size_t close = line->find("\"\"\"");
      text += line->substr(0, close);
      if (close != std::string::npos) break;
      text += '\n';
    } else if (!line->empty() && line->back() == '\\') {
      text += line->substr(0, line->size() - 1) + "\n";
    } else {
      text += *line;
      break;
    }
    if (text.size() > kMaxInput) break;
  }
  text = utf8_repair(text);
  if (impl_->history && !is_blank(text)) {
    history_w(impl_->history, &impl_->event, H_ENTER, widen(text).c_str());
    if (!impl_->history_path.empty()) {
      history_w(impl_->history, &impl_->event, H_SAVE, impl_->history_path.c_str());
    }
  }
  return {Input::kText, text};
}

}  // namespace apud
