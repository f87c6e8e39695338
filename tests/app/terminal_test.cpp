#include "app/terminal.h"

#include <gtest/gtest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <functional>

#include "base/utf8.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

/// What `action` writes to descriptor `fd` (1 or 2).
std::string captured(int fd, const std::function<void()>& action) {
  test::TempDir dir;
  std::string path = (dir / "out").string();
  int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  int saved = ::dup(fd);
  ::dup2(file, fd);
  action();
  ::dup2(saved, fd);
  ::close(saved);
  std::string out(static_cast<size_t>(::lseek(file, 0, SEEK_END)), '\0');
  EXPECT_EQ(::pread(file, out.data(), out.size(), 0), static_cast<ssize_t>(out.size()));
  ::close(file);
  return out;
}

/// True when a byte sequence in `text` could act on a terminal: C0 other than newline and tab, DEL,
/// C1 (as scalar values or as stray bytes), bidi controls, tag characters.
bool acts(const std::string& text) {
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    if (!c.valid) return true;
    if ((c.code < 0x20 && c.code != '\n' && c.code != '\t') || (c.code >= 0x7F && c.code < 0xA0))
      return true;
    if ((c.code >= 0x202A && c.code <= 0x202E) || (c.code >= 0x2066 && c.code <= 0x2069))
      return true;
    if (c.code >= 0xE0000 && c.code <= 0xE007F) return true;
    pos += c.size;
  }
  return false;
}

const std::vector<std::string>& attacks() {
  static const std::vector<std::string> all = {"\x1b]52;c;cm0gLXJmIC8K\x07",
                                               "\x1b]0;title\x07",
                                               "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
                                               "\x1bP1$r\x1b\\",
                                               "\x1b_apc\x1b\\",
                                               "\x1b[2J\x1b[H",
                                               "\x1b[6n",
                                               "\x1b]unterminated",
                                               "\x1b"
                                               "c",
                                               "\x9b"
                                               "2J",
                                               "\xc2\x9b"
                                               "2J",
                                               "\xc2\x9d"
                                               "52;c;x\xc2\x9c",
                                               "\xe2\x80\xae"
                                               "drawkcab",
                                               "\xe2\x81\xa6iso",
                                               "\xf3\xa0\x80\xa0\xf3\xa0\x80\xa1",
                                               "\r\x1b[Aover",
                                               "\x08\x08\x08",
                                               "\x7f",
                                               std::string("\x00\x01", 2),
                                               "\xed\xa0\x80",
                                               "\xf4\x90\x80\x80",
                                               "\xff"};
  return all;
}

TEST(Terminal, NothingUntrustedReachesTheScreenRaw) {
  TerminalState tty{true, true, true, true, 80};
  for (const std::string& attack : attacks()) {
    for (size_t split = 0; split <= attack.size(); ++split) {
      std::string text = "a" + attack + "b";
      EXPECT_FALSE(acts(captured(1,
                                 [&] {
                                   Terminal terminal(tty);
                                   // Pieces of an answer arrive as valid UTF-8 and may break
                                   // anywhere else.
                                   terminal.out_text(text.substr(0, split + 1));
                                   terminal.out_text(text.substr(split + 1));
                                   terminal.flush();
                                 })))
          << testing::PrintToString(attack) << " split at " << split;
    }
    EXPECT_FALSE(acts(captured(2, [&] {
      Terminal terminal(tty);
      terminal.error(attack), terminal.note(attack), terminal.warn(attack);
    }))) << testing::PrintToString(attack);
    // Our own dim on and off are all the escapes there are.
    std::string dim = captured(2, [&] { Terminal(tty).dim(attack); });
    ASSERT_TRUE(dim.starts_with("\x1b[2m") && dim.ends_with("\x1b[0m\n"))
        << testing::PrintToString(dim);
    EXPECT_FALSE(acts(dim.substr(4, dim.size() - 9))) << testing::PrintToString(attack);
    std::string line = captured(2, [&] { Terminal(tty).progress(attack, true); });
    ASSERT_TRUE(line.starts_with("\r\x1b[K")) << testing::PrintToString(line);
    EXPECT_FALSE(acts(line.substr(4))) << testing::PrintToString(attack);
  }
}

TEST(Terminal, TheAttackTableActs) {
  for (const std::string& attack : attacks())
    EXPECT_TRUE(acts(attack)) << testing::PrintToString(attack);
}

TEST(Terminal, NoEscapeWithoutColour) {
  for (TerminalState state : {TerminalState{true, true, true, false, 80, true},
                              TerminalState{false, false, false, false, 80, true}}) {
    std::string both = captured(2, [&] {
      Terminal terminal(state);
      terminal.progress("reading", true), terminal.dim("dim"), terminal.note("note"),
          terminal.warn("w"), terminal.error("e");
      terminal.progress("", true);
    });
    EXPECT_EQ(both.find('\x1b'), std::string::npos) << testing::PrintToString(both);
    EXPECT_EQ(both.find('\r'), std::string::npos) << testing::PrintToString(both);
    EXPECT_EQ(both.find("dim") != std::string::npos, state.stderr_tty)
        << "dim lines are for terminals";
  }
}

TEST(Terminal, ProgressWithoutColourClearsWithBlanks) {
  std::string text = captured(2, [] {
    Terminal terminal(TerminalState{true, true, true, false, 80, false});
    terminal.progress("读 9", true);
    terminal.progress("ab", true);
    terminal.note("note");
  });
  EXPECT_EQ(text, "\r\r读 9\r    \rab\r  \rnote\n");
}

TEST(Terminal, QuietSilencesAllButErrors) {
  std::string text = captured(2, [] {
    Terminal terminal(TerminalState{true, true, true, true, 80});
    terminal.set_quiet(true);
    terminal.note("note"), terminal.warn("warn"), terminal.dim("dim"),
        terminal.progress("progress", true), terminal.error("error: x");
  });
  EXPECT_EQ(text, "error: x\n");
}

TEST(Terminal, ProgressNeverWrapsAndCleansUp) {
  for (const std::string& line : {std::string(300, 'x'), [] {
                                    std::string wide;
                                    for (int i = 0; i < 100; ++i) wide += "读";
                                    return wide;
                                  }()}) {
    std::string text = captured(2, [&] {
      Terminal terminal(TerminalState{true, true, true, true, 40});
      terminal.progress(line, true);
    });
    EXPECT_LT(display_width(std::string_view(text).substr(4)), 40);
    EXPECT_TRUE(utf8_valid(text));
  }
  std::string text = captured(2, [] {
    Terminal terminal(TerminalState{true, true, true, true, 80});
    terminal.progress("reading", true);
    terminal.note("note");
  });
  EXPECT_EQ(text, "\r\x1b[Kreading\r\x1b[Knote\n");
}

TEST(Terminal, AFullDiskIsAnError) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  int full = ::open("/dev/full", O_WRONLY);
  int saved = ::dup(1);
  ::dup2(full, 1);
  ErrorKind kind = ErrorKind::kInternal;
  try {
    Terminal terminal(TerminalState{});
    terminal.out("x");
    terminal.flush();
  } catch (const Error& e) {
    kind = e.kind();
  }
  ::dup2(saved, 1);
  ::close(saved), ::close(full);
  EXPECT_EQ(kind, ErrorKind::kIo);
}

}  // namespace
}  // namespace apud
