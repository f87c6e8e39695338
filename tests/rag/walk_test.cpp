#include "rag/walk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <map>

#include "base/error.h"
#include "rag/ignore_rules.h"
#include "rag/loader.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::TempDir;

struct Walked {
  std::vector<std::string> files;  // relative to the root
  std::map<std::string, WalkSkip> skips;
};

Walked run(const Path& root, const WalkOptions& options = {}) {
  Walked out;
  WalkCallbacks callbacks;
  callbacks.file = [&](WalkEntry&& e) {
    out.files.push_back(e.path.lexically_relative(root).string());
  };
  callbacks.skipped = [&](const Path& p, WalkSkip why) {
    out.skips[p.lexically_relative(root).string()] = why;
  };
  EXPECT_TRUE(walk(root, options, callbacks));
  return out;
}
using Files = std::vector<std::string>;

TEST(IgnoreRules, GitignoreSyntax) {
  struct Case {
    const char* pattern;
    const char* path;
    bool folder;
    int expected;  // 1 ignored, 0 re-included, -1 nothing said
  };
  const Case cases[] = {
      {"*.o", "a.o", false, 1},
      {"*.o", "x/y/a.o", false, 1},
      {"*.o", "a.os", false, -1},
      {"/a", "a", false, 1},
      {"/a", "b/a", false, -1},
      {"a/b", "a/b", false, 1},
      {"a/b", "x/a/b", false, -1},
      {"a/", "a", false, -1},
      {"a/", "x/a", true, 1},
      {"**/foo", "foo", false, 1},
      {"**/foo", "a/b/foo", false, 1},
      {"**/foo/bar", "x/foo/bar", false, 1},
      {"foo/**", "foo/a/b", false, 1},
      {"foo/**", "foo", true, -1},
      {"a/**/b", "a/b", false, 1},
      {"a/**/b", "a/x/y/b", false, 1},
      {"a/**/b", "a/x/y/c", false, -1},
      {"a*c", "a/c", false, -1},
      {"a/*", "a/b", false, 1},
      {"a/*", "a/b/c", false, -1},
      {"?.txt", "a.txt", false, 1},
      {"?.txt", "ab.txt", false, -1},
      {"[a-c].x", "b.x", false, 1},
      {"[!a-c].x", "b.x", false, -1},
      {"[^a-c].x", "d.x", false, 1},
      {"[[:digit:]]", "7", false, 1},
      {"[]-]", "]", false, 1},
      {"\\#x", "#x", false, 1},
      {"\\!x", "!x", false, 1},
      {"#x", "#x", false, -1},
      {"!keep", "keep", false, 0},
      {"sp\\ ", "sp ", false, 1},
      {"sp  ", "sp", false, 1},
      {"a\\*b", "a*b", false, 1},
      {"a\\*b", "axb", false, -1},
      {"cr\r", "cr", false, 1},
      {"", "x", false, -1},
      {"/", "x", true, -1},
      {"**", "x/y", false, 1},
      {"a[b", "a[b", false, 1},
      {"\xE4\xB8\xAD*", "\xE4\xB8\xAD\xE6\x96\x87.md", false, 1},
  };
  for (const Case& c : cases) {
    IgnoreRules rules{std::string_view(c.pattern)};
    auto verdict = rules.decide(c.path, c.folder);
    EXPECT_EQ(verdict ? int(*verdict) : -1, c.expected) << c.pattern << " against " << c.path;
  }
  IgnoreRules last_wins("*.log\n!keep.log\n");
  EXPECT_EQ(last_wins.decide("keep.log", false), false);
  EXPECT_EQ(last_wins.decide("x.log", false), true);
}

TEST(IgnoreRules, HostilePatternsAreNotExponential) {
  auto begin = std::chrono::steady_clock::now();
  std::string stars, name(4000, 'a'), deep, path;
  for (int i = 0; i < 200; ++i) stars += "*a";
  stars += "b";
  EXPECT_FALSE(glob_match(stars, name));
  for (int i = 0; i < 100; ++i) deep += "**/a/";
  deep += "b";
  for (int i = 0; i < 2000; ++i) path += "a/";
  EXPECT_FALSE(IgnoreRules(deep).decide(path + "c", false).has_value());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST(Walk, IgnoreFilesHiddenAndOrder) {
  TempDir dir;
  dir.write("b.txt", "x");
  dir.write("a/z.txt", "x");
  dir.write("a/skip.log", "x");
  dir.write("a/keep.log", "x");
  dir.write("a/.gitignore", "!keep.log\n");
  dir.write(".gitignore", "*.log\n/build/\nsub/*.tmp\n");
  dir.write("build/out.txt", "x");
  dir.write("a/build/in.txt", "x");
  dir.write("sub/t.tmp", "x");
  dir.write("sub/deep/t.tmp", "x");
  dir.write(".hidden/h.txt", "x");
  dir.write(".ignore", "c.txt\n");
  dir.write("c.txt", "x");
  dir.write(".git/config", "x");
  Walked w = run(dir.path());
  EXPECT_EQ(w.files, (Files{"a/build/in.txt", "a/keep.log", "a/z.txt", "b.txt", "sub/deep/t.tmp"}));
  EXPECT_EQ(w.skips.at("build"), WalkSkip::kIgnored);
  EXPECT_EQ(w.skips.at("c.txt"), WalkSkip::kIgnored);
  EXPECT_EQ(w.skips.at(".hidden"), WalkSkip::kHidden);
  WalkOptions all;
  all.hidden = all.no_ignore = true;
  w = run(dir.path(), all);
  EXPECT_EQ(w.files.size(), 13u);  // everything but .git
  EXPECT_EQ(w.skips.size(), 1u);
  // .ignore beats .gitignore, also from outside.
  dir.write(".ignore", "a/keep.log\n");
  EXPECT_EQ(run(dir.path()).skips.at("a/keep.log"), WalkSkip::kIgnored);
  // From inside a repository the ignore files above the root count.
  w = run(dir / "a");
  EXPECT_EQ(w.skips.at("skip.log"), WalkSkip::kIgnored);
}

TEST(Walk, IncludeExcludeAndSecrets) {
  TempDir dir;
  for (const char* name : {"a.md", "b.txt", "x/c.md", "x/d.txt", "node_modules/e.md", "id_ed25519",
                           "id_rsa.pub", "server.pem", "vault.kdbx", "prod.env", "credentials.json",
                           "x/id_card.md", ".env", ".netrc", "id_work"}) {
    dir.write(name, "x");
  }
  Walked w = run(dir.path());
  EXPECT_EQ(w.files,
            (Files{"a.md", "b.txt", "node_modules/e.md", "x/c.md", "x/d.txt", "x/id_card.md"}));
  int secrets = 0;
  for (auto& [path, why] : w.skips) secrets += why == WalkSkip::kSecret;
  EXPECT_EQ(secrets, 9);
  WalkOptions options;
  options.include = {"*.md"};
  options.exclude = {"node_modules"};
  w = run(dir.path(), options);
  EXPECT_EQ(w.files, (Files{"a.md", "x/c.md", "x/id_card.md"}));
  EXPECT_EQ(w.skips.at("node_modules"), WalkSkip::kExcluded);
  options.include = {"x/**"};
  EXPECT_EQ(run(dir.path(), options).files, (Files{"x/c.md", "x/d.txt", "x/id_card.md"}));
  // Hidden files taken on request are still no secrets.
  options = {};
  options.hidden = true;
  EXPECT_EQ(run(dir.path(), options).skips.at(".env"), WalkSkip::kSecret);
  // A file named as root is taken although hidden or ignored; a secret is not.
  dir.write(".notes", "x");
  EXPECT_EQ(run(dir / ".notes").files.size(), 1u);
  EXPECT_EQ(run(dir / ".env").files.size(), 0u);
  EXPECT_THROW(run(dir / "absent"), Error);
}

// The hostile tree: nothing is followed, nothing special opened, nothing hangs.
TEST(Walk, HostileTree) {
  TempDir dir;
  dir.write("ok.txt", "fine");
  ASSERT_EQ(::mkfifo((dir / "pipe.txt").c_str(), 0600), 0);
  int sock = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s", (dir / "sock.txt").c_str());
  ASSERT_EQ(::bind(sock, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::symlink("/etc/passwd", (dir / "outside.txt").c_str()), 0);
  ASSERT_EQ(::symlink(".", (dir / "loop").c_str()), 0);
  ASSERT_EQ(::symlink("..", (dir / "up").c_str()), 0);
  ASSERT_EQ(::symlink("nowhere", (dir / "dangling.txt").c_str()), 0);
  ASSERT_EQ(::symlink("self", (dir / "self").c_str()), 0);
  std::filesystem::create_directory(dir / "folder.txt");
  dir.write("new\nline \x1b[31m.txt", "x");
  dir.write("bad\xFFutf8.txt", "x");
  dir.write("empty.txt", "");
  {
    int fd = ::open((dir / "sparse.txt").c_str(), O_CREAT | O_WRONLY, 0600);
    ASSERT_EQ(::ftruncate(fd, 10ll << 30), 0);
    ::close(fd);
  }
  Path deep = dir.path();
  for (int i = 0; i < 200; ++i) deep /= "d";
  std::filesystem::create_directories(deep);
  std::ofstream(deep / "bottom.txt") << "x";
  auto begin = std::chrono::steady_clock::now();
  Walked w = run(dir.path());
  EXPECT_EQ(w.files, (Files{"bad\xFFutf8.txt", "empty.txt", "new\nline \x1b[31m.txt", "ok.txt",
                            "sparse.txt"}));
  EXPECT_EQ(w.skips.at("pipe.txt"), WalkSkip::kSpecial);
  EXPECT_EQ(w.skips.at("sock.txt"), WalkSkip::kSpecial);
  for (const char* link : {"outside.txt", "loop", "up", "dangling.txt", "self"}) {
    EXPECT_EQ(w.skips.at(link), WalkSkip::kLink) << link;
  }
  bool too_deep = false;
  for (auto& [path, why] : w.skips) too_deep |= why == WalkSkip::kTooDeep;
  EXPECT_TRUE(too_deep);
  // Named directly, the loader refuses them as well, without blocking.
  EXPECT_EQ(load_file(dir / "pipe.txt").document.status, LoadStatus::kUnreadable);
  EXPECT_EQ(load_file(dir / "folder.txt").document.status, LoadStatus::kUnreadable);
  EXPECT_EQ(load_file("/dev/zero").document.status, LoadStatus::kUnreadable);
  EXPECT_EQ(load_file(dir / "sparse.txt").document.status, LoadStatus::kTooLarge);
  EXPECT_EQ(load_file(dir / "empty.txt").document.status, LoadStatus::kEmpty);
  EXPECT_EQ(load_file(dir / "absent.txt").document.status, LoadStatus::kUnreadable);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  ::close(sock);
}

TEST(Walk, TenThousandFilesQuickly) {
  TempDir dir;
  for (int i = 0; i < 100; ++i) {
    for (int k = 0; k < 100; ++k)
      dir.write("d" + std::to_string(i) + "/f" + std::to_string(k) + ".md", "");
  }
  dir.write(".gitignore", "*.o\n*.a\nbuild/\n/dist\ndocs/**/tmp\n");
  auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(run(dir.path()).files.size(), 10000u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1000));
}

}  // namespace
}  // namespace apud
