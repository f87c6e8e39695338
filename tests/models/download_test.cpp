// What a hub may send, and where a download may break (N1, N3): what is not the file never stays.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <fstream>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "models/hub/hub.h"
#include "tests/support/corpus.h"
#include "tests/support/http_server.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::error_of;
using test::reply;
using test::Server;

class Downloads : public testing::Test {
 protected:
  static std::string content() {
    std::string text;
    for (int i = 0; i < 5000; ++i) text += "line " + std::to_string(i) + "\n";
    return text;
  }
  static HubOptions options(const Server& server) { return {server.url(), "", true}; }
  RemoteFile remote(const Server& server) const {
    return {options(server).base_url + "/f", content_.size(), sha256_hex(content_)};
  }
  std::string downloaded() const { return read_file_if_exists(part_).value_or("(absent)"); }
  std::optional<Error> download(const Server& server) {
    return error_of(
        [&] { hub_download(options(server), remote(server), part_, nullptr, nullptr); });
  }
  test::TempDir dir_;
  Path part_ = dir_.path() / "part";
  std::string content_ = content();
};

TEST_F(Downloads, StatReadsTheHubsOwnAnswer) {
  std::string hash = sha256_hex(content_);
  Server server([&](const std::string& request) {
    if (request.starts_with("HEAD /a/b/resolve/main/moved")) {
      return reply("307 Temporary Redirect", "Location: /elsewhere\r\n", "");
    }
    if (request.starts_with("HEAD /elsewhere")) return reply("200 OK", "", "").replace(0, 0, "");
    if (request.starts_with("HEAD /a/b/resolve/main/none")) return reply("404 Not Found", "", "");
    return reply(
        "302 Found",
        "X-Linked-Size: 123\r\nX-Linked-ETag: \"" + hash + "\"\r\nLocation: https://cdn/x\r\n", "");
  });
  RemoteFile file = hub_stat(options(server), "a/b", "main", "f");
  EXPECT_EQ(file.bytes, 123u);
  EXPECT_EQ(file.sha256, hash);
  EXPECT_EQ(error_of([&] { hub_stat(options(server), "a/b", "main", "none"); })->kind(),
            ErrorKind::kUnavailable);
  // An empty file behind the redirect is no file.
  EXPECT_EQ(error_of([&] { hub_stat(options(server), "a/b", "main", "moved"); })->kind(),
            ErrorKind::kUnavailable);
}

TEST_F(Downloads, WholeThenVerified) {
  Server server([&](const std::string&) { return reply("200 OK", "", content_); });
  EXPECT_FALSE(download(server));
  EXPECT_EQ(downloaded(), content_);
  EXPECT_FALSE(download(server));  // complete: no second request changes it
}

TEST_F(Downloads, ABrokenConnectionIsResumed) {
  std::vector<std::string> ranges;
  Server server([&](const std::string& request) {
    size_t at = request.find("Range: bytes=");
    size_t from = at == std::string::npos ? 0 : std::stoul(request.substr(at + 13));
    ranges.push_back(std::to_string(from));
    std::string rest = content_.substr(from);
    std::string head = from ? "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " +
                                  std::to_string(from) + "-" + std::to_string(content_.size() - 1) +
                                  "/" + std::to_string(content_.size()) + "\r\n"
                            : "HTTP/1.1 200 OK\r\n";
    head += "Connection: close\r\nContent-Length: " + std::to_string(rest.size()) + "\r\n\r\n";
    return head + (from ? rest : rest.substr(0, rest.size() / 3));
  });
  auto error = download(server);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kIo);
  EXPECT_EQ(downloaded(), content_.substr(0, content_.size() / 3));
  EXPECT_FALSE(download(server));
  EXPECT_EQ(downloaded(), content_);
  EXPECT_EQ(ranges, (std::vector<std::string>{"0", std::to_string(content_.size() / 3)}));
}

/// Serves ranges of `content`; the first answer is cut after `cut` bytes of it.
Server::Answer serve_cut(const std::string& content, size_t cut) {
  return [&content, cut, first = true](const std::string& request) mutable {
    size_t at = request.find("Range: bytes=");
    size_t from = at == std::string::npos ? 0 : std::stoul(request.substr(at + 13));
    std::string head = from ? "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " +
                                  std::to_string(from) + "-" + std::to_string(content.size() - 1) +
                                  "/" + std::to_string(content.size()) + "\r\n"
                            : "HTTP/1.1 200 OK\r\n";
    head += "Connection: close\r\nContent-Length: " + std::to_string(content.size() - from) +
            "\r\n\r\n";
    std::string body = content.substr(from);
    if (std::exchange(first, false)) body.resize(std::min(body.size(), cut));
    return head + body;
  };
}

TEST_F(Downloads, CutAnywhereItIsResumed) {
  for (size_t k = 0; k < 40; ++k) {
    size_t cut = k < 4 ? k : content_.size() * k / 40;
    std::filesystem::remove(part_);
    Server server(serve_cut(content_, cut));
    auto error = download(server);
    ASSERT_TRUE(error) << cut;
    EXPECT_EQ(error->kind(), ErrorKind::kIo) << cut;
    EXPECT_EQ(downloaded(), content_.substr(0, cut)) << "what came is kept";
    EXPECT_FALSE(download(server)) << cut;
    EXPECT_EQ(downloaded(), content_) << cut;
  }
}

// N3: the disk fills when 1 %, 50 % and 99 % of the file are there.
TEST_F(Downloads, AFullDiskIsSaidAndTheDownloadGoesOnLater) {
  if (::geteuid() != 0) GTEST_SKIP() << "a small file system needs root";
  content_ = std::string(4 << 20, 'm');
  for (size_t i = 0; i < content_.size(); i += 7) content_[i] = static_cast<char>(i >> 8);
  Path disk = dir_.path() / "disk";
  std::filesystem::create_directory(disk);
  for (int percent : {1, 50, 99}) {
    if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=5m") != 0)
      GTEST_SKIP() << "root without the right to mount";
    part_ = disk / "part";
    std::string old = "the model that was there";
    std::ofstream(disk / "old.gguf") << old;
    uint64_t room = content_.size() * static_cast<uint64_t>(percent) / 100;
    uint64_t filler = std::filesystem::space(disk).available - room;
    std::ofstream(disk / "filler") << std::string(filler, 'x');
    Server server(
        [&](const std::string& request) { return serve_cut(content_, content_.size())(request); });
    auto error = download(server);
    EXPECT_TRUE(error) << percent;
    if (error) {
      EXPECT_EQ(error->kind(), ErrorKind::kIo) << error->what();
      EXPECT_NE(std::string(error->what()).find("No space left"), std::string::npos)
          << error->what();
      EXPECT_NE(std::string(error->what()).find(part_.string()), std::string::npos)
          << error->what();
    }
    std::string have = downloaded();
    EXPECT_LT(have.size(), content_.size());
    EXPECT_GE(have.size() + (64 << 10), room);
    EXPECT_TRUE(content_.starts_with(have)) << "what is kept is the file's beginning";
    EXPECT_EQ(read_file_if_exists(disk / "old.gguf").value_or(""), old);
    std::filesystem::remove(disk / "filler");
    EXPECT_FALSE(download(server)) << percent;
    EXPECT_TRUE(downloaded() == content_) << percent;
    ::umount2(disk.c_str(), MNT_DETACH);
  }
}

TEST_F(Downloads, AServerWithoutRangesStartsAgain) {
  Server server([&](const std::string&) { return reply("200 OK", "", content_); });
  std::ofstream(part_) << "something else";
  EXPECT_FALSE(download(server));
  EXPECT_EQ(downloaded(), content_);
}

// N1: what is not the file never stays, so it can never get the model's name.
TEST_F(Downloads, WrongContentIsNeverKept) {
  std::string page = "<html>Log in</html>", other = content_, body, status = "200 OK", headers;
  other[7] ^= 1;
  Server server([&](const std::string&) { return reply(status, headers, body); });
  auto expect_bad = [&](const char* what) {
    auto error = download(server);
    ASSERT_TRUE(error) << what;
    EXPECT_EQ(error->kind(), ErrorKind::kBadData) << what << ": " << error->what();
    EXPECT_EQ(downloaded(), "(absent)") << what;
  };
  body = page;
  expect_bad("login page");
  body = "";
  expect_bad("empty");
  body = content_ + "x";
  expect_bad("too long");
  body = content_.substr(1);
  expect_bad("too short");
  body = other;
  expect_bad("wrong digest");
  // The file changed on the server between two attempts.
  std::ofstream(part_) << std::string(100, 'o');
  status = "206 Partial Content";
  headers = "Content-Range: bytes 100-" + std::to_string(content_.size() - 1) + "/" +
            std::to_string(content_.size()) + "\r\n";
  body = content_.substr(100);
  expect_bad("changed file");
  std::ofstream(part_) << std::string(100, 'o');
  headers = "Content-Range: bytes 0-5/6\r\n";
  expect_bad("another range");
}

TEST_F(Downloads, RedirectsStayOnTheWeb) {
  // The very file that is wanted, so that only the way to it can be refused.
  std::string local = dir_.write("local", content_).string();
  Server server([&](const std::string&) {
    return reply("302 Found", "Location: file://" + local + "\r\n", "");
  });
  auto error = download(server);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kBadData) << error->what();
}

TEST_F(Downloads, OutsideTestsOnlyHttpsIsSpoken) {
  Server server([&](const std::string&) { return reply("200 OK", "", content_); });
  EXPECT_FALSE(download(server)) << "sound but for its scheme";
  std::filesystem::remove(part_);
  HubOptions strict = options(server);
  strict.allow_http = false;
  EXPECT_TRUE(error_of([&] { hub_download(strict, remote(server), part_, nullptr, nullptr); }));
}

TEST_F(Downloads, TheTokenIsSentWhereThereIsOne) {
  std::string asked;
  Server server([&](const std::string& request) {
    asked = request;
    return reply("200 OK", "", content_);
  });
  EXPECT_FALSE(download(server));
  EXPECT_EQ(asked.find("Authorization"), std::string::npos) << asked;
  std::filesystem::remove(part_);
  HubOptions with = options(server);
  with.token = "hf_secret";
  hub_download(with, remote(server), part_, nullptr, nullptr);
  EXPECT_NE(asked.find("Authorization: Bearer hf_secret\r\n"), std::string::npos) << asked;
}

TEST_F(Downloads, CancelStopsAndKeepsThePart) {
  Server server([&](const std::string&) { return reply("200 OK", "", content_); });
  CancelFlag cancel;
  cancel.raise();
  auto error =
      error_of([&] { hub_download(options(server), remote(server), part_, nullptr, &cancel); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kIo);
}

}  // namespace
}  // namespace apud
