#include "models/catalogue.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "models/hub/hub.h"
#include "tests/support/models.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

/// Runs `body` and returns what it threw.
std::optional<Error> error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e;
  }
  return std::nullopt;
}

/// Own data folder and models folder for the time of a test.
class Catalogues : public testing::Test {
 protected:
  void SetUp() override {
    setenv("XDG_DATA_HOME", dir_.path().c_str(), 1);
    setenv("APUD_MODELS", (dir_.path() / "models").c_str(), 1);
    std::filesystem::create_directories(dir_.path() / "models");
  }
  void TearDown() override {
    unsetenv("XDG_DATA_HOME");
    unsetenv("APUD_MODELS");
    unsetenv("APUD_HUB_HOST");
  }
  test::TempDir dir_;
};

TEST_F(Catalogues, TheBuiltInListIsWhole) {
  const Catalogue& catalogue = Catalogue::builtin();
  ASSERT_GT(catalogue.entries().size(), 15u);
  const CatalogueEntry* entry = catalogue.find("qwen2.5-coder:1.5b");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->kind, "chat");
  EXPECT_EQ(entry->bytes(), 1117320768u);
  EXPECT_EQ(entry->files.at(0).sha256.size(), 64u);
  EXPECT_EQ(entry->registry, "qwen2.5-coder:1.5b");
  EXPECT_EQ(entry->hub_file, "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf");
  EXPECT_FALSE(entry->needs_acceptance);
  const CatalogueEntry* gemma = catalogue.find("embeddinggemma:300m");
  ASSERT_NE(gemma, nullptr);
  EXPECT_TRUE(gemma->folder && gemma->needs_acceptance);
  EXPECT_EQ(gemma->files.size(), 15u);
  EXPECT_TRUE(catalogue.find("gemma3:270m")->base);
  EXPECT_EQ(catalogue.find("no such model"), nullptr);
  for (const CatalogueEntry& each : catalogue.entries()) {
    EXPECT_GT(each.bytes(), 1000000u) << each.id;
    EXPECT_TRUE(!each.hub_repo.empty() || !each.registry.empty()) << each.id;
  }
}

TEST_F(Catalogues, NearestNames) {
  auto near = Catalogue::builtin().nearest("qwen2.5-coder:1.5");
  ASSERT_FALSE(near.empty());
  EXPECT_EQ(near[0], "qwen2.5-coder:1.5b");
  EXPECT_LE(near.size(), 3u);
  EXPECT_EQ(Catalogue::builtin().nearest("minilm").at(0), "minilm:l6");
  EXPECT_TRUE(Catalogue::builtin().nearest(std::string(100000, 'x')).empty());
}

// N2: a path that leads elsewhere or a malformed hash is refused before anything is created.
TEST_F(Catalogues, HostileEntriesAreRefused) {
  const std::string good = R"(schema = 1
hub_host = "h"
[[model]]
id = "m"
kind = "chat"
format = "gguf"
path = "m.gguf"
bytes = 5
sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
licence = "MIT"
parameters = 1
context = 1
[[model.sources]]
type = "hub"
repo = "a/b"
revision = "main"
file = "f.gguf"
)";
  EXPECT_EQ(Catalogue::parse(good).entries().size(), 1u);
  auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    auto error = error_of([&] { Catalogue::parse(text); });
    EXPECT_TRUE(error && error->kind() == ErrorKind::kBadData) << to;
    return error ? std::string(error->what()) : std::string();
  };
  with("\"m.gguf\"", "\"../m.gguf\"");
  with("\"m.gguf\"", "\"/etc/passwd\"");
  with("\"m.gguf\"", "\"a/b.gguf\"");
  with("\"m.gguf\"", "\".hidden\"");
  with("\"f.gguf\"", "\"../f.gguf\"");
  with("\"f.gguf\"", "\"x/../f.gguf\"");
  with("\"a/b\"", "\"a/b?x=y\"");
  with("aaaaaaaa", "AAAAAAAA");
  with("aaaaaaaa", "aaaa");
  with("bytes = 5", "bytes = -5");
  with("kind = \"chat\"", "kind = \"virus\"");
  with("\"hub\"", "\"ftp\"");
  EXPECT_NE(with("licence = \"MIT\"", "").find("licence"), std::string::npos);
}

TEST_F(Catalogues, FindAddRemove) {
  auto missing = error_of([] { find_model("minilm:l6"); });
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->kind(), ErrorKind::kNoInput);
  EXPECT_NE(missing->advice().find("apud model pull minilm:l6"), std::string::npos);
  auto unknown = error_of([] { find_model("minilm:l7"); });
  ASSERT_TRUE(unknown);
  EXPECT_NE(unknown->advice().find("minilm:l6"), std::string::npos);
  EXPECT_TRUE(installed_models().empty());

  Path file = dir_.path() / "mine.gguf";
  std::string command = std::string("python3 ") + APUD_SOURCE_DIR + "/scripts/make-random-model " +
                        file.string() + " --shape tiny-qwen2 2>/dev/null";
  ASSERT_EQ(std::system(command.c_str()), 0);
  InstalledModel added = add_model("mine", file);
  EXPECT_EQ(added.kind, "chat");
  EXPECT_EQ(find_model("mine").path, file);
  EXPECT_EQ(find_model(file.string()).bytes, std::filesystem::file_size(file));
  ASSERT_EQ(installed_models().size(), 1u);
  EXPECT_EQ(installed_models()[0].id, "mine");
  EXPECT_EQ(error_of([&] { add_model("minilm:l6", file); })->kind(), ErrorKind::kUsage);
  EXPECT_EQ(error_of([&] { add_model("a b", file); })->kind(), ErrorKind::kUsage);
  EXPECT_EQ(error_of([&] { add_model("x", dir_.path() / "no"); })->kind(), ErrorKind::kNoInput);
  std::ofstream(dir_.path() / "bad.gguf") << "GGUFnonsense";
  EXPECT_EQ(error_of([&] { add_model("x", dir_.path() / "bad.gguf"); })->kind(),
            ErrorKind::kBadData);
  EXPECT_EQ(remove_model("mine"), 0u);
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_TRUE(installed_models().empty());
  EXPECT_EQ(error_of([] { remove_model("mine"); })->kind(), ErrorKind::kNoInput);
}

TEST_F(Catalogues, AnInstalledFileNeedsItsSize) {
  const CatalogueEntry& entry = *Catalogue::builtin().find("smollm2:135m");
  Path path = dir_.path() / "models" / entry.target;
  std::ofstream(path) << "short";
  EXPECT_TRUE(installed_models().empty());
  std::filesystem::resize_file(path, entry.bytes());
  ASSERT_EQ(installed_models().size(), 1u);
  EXPECT_EQ(find_model("smollm2:135m").path, path);
  EXPECT_EQ(remove_model("smollm2:135m"), entry.bytes());
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(Catalogues, LicencesMustBeAccepted) {
  const CatalogueEntry& entry = *Catalogue::builtin().find("embeddinggemma:300m");
  auto error = error_of([&] { pull_model(entry, "", nullptr, nullptr); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kUsage);
  EXPECT_NE(error->advice().find("--accept-licence gemma"), std::string::npos);
}

TEST_F(Catalogues, OneProcessPullsAModel) {
  const CatalogueEntry& entry = *Catalogue::builtin().find("smollm2:135m");
  auto lock = FileLock::try_acquire(models_dir() / (".pull-" + entry.target + ".lock"));
  ASSERT_TRUE(lock);
  auto error = error_of([&] { pull_model(entry, "", nullptr, nullptr); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kBusy);
}

TEST_F(Catalogues, AnUnreachableHubWithoutOtherSourceSaysSo) {
  setenv("APUD_HUB_HOST", "127.0.0.1:1", 1);
  const CatalogueEntry& entry = *Catalogue::builtin().find("e5-small");
  ASSERT_TRUE(entry.registry.empty());
  EXPECT_FALSE(hub_reachable());
  auto error = error_of([&] { pull_model(entry, "", nullptr, nullptr); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kUnavailable);
  EXPECT_NE(std::string(error->what()).find("127.0.0.1:1"), std::string::npos) << error->what();
  EXPECT_TRUE(installed_models().empty());
}

/// An HTTP server on this machine: one connection at a time, one answer a connection.
class Server {
 public:
  using Answer = std::function<std::string(const std::string& request)>;
  explicit Server(Answer answer) : answer_(std::move(answer)) {
    socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(socket_, 8), 0);
    ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~Server() {
    ::shutdown(socket_, SHUT_RDWR);
    thread_.join();
    ::close(socket_);
  }
  HubOptions options() const { return {"http://127.0.0.1:" + std::to_string(port_), "", true}; }

 private:
  void serve() {
    for (;;) {
      int client = ::accept(socket_, nullptr, nullptr);
      if (client < 0) return;
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        ssize_t n = ::recv(client, buffer, sizeof buffer, 0);
        if (n <= 0) break;
        request.append(buffer, static_cast<size_t>(n));
      }
      std::string reply = answer_(request);
      ::send(client, reply.data(), reply.size(), MSG_NOSIGNAL);
      ::close(client);
    }
  }
  Answer answer_;
  int socket_ = -1;
  int port_ = 0;
  std::thread thread_;
};

std::string reply(const std::string& status, const std::string& headers, const std::string& body) {
  return "HTTP/1.1 " + status + "\r\nConnection: close\r\n" + headers +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

class Downloads : public testing::Test {
 protected:
  static std::string content() {
    std::string text;
    for (int i = 0; i < 5000; ++i) text += "line " + std::to_string(i) + "\n";
    return text;
  }
  RemoteFile remote(const Server& server) const {
    return {server.options().base_url + "/f", content_.size(), sha256_hex(content_)};
  }
  std::string downloaded() const { return read_file_if_exists(part_).value_or("(absent)"); }
  std::optional<Error> download(const Server& server) {
    return error_of(
        [&] { hub_download(server.options(), remote(server), part_, nullptr, nullptr); });
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
  RemoteFile file = hub_stat(server.options(), "a/b", "main", "f");
  EXPECT_EQ(file.bytes, 123u);
  EXPECT_EQ(file.sha256, hash);
  EXPECT_EQ(error_of([&] { hub_stat(server.options(), "a/b", "main", "none"); })->kind(),
            ErrorKind::kUnavailable);
  // An empty file behind the redirect is no file.
  EXPECT_EQ(error_of([&] { hub_stat(server.options(), "a/b", "main", "moved"); })->kind(),
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
  Server server([&](const std::string&) {
    return reply("302 Found", "Location: file:///etc/hostname\r\n", "");
  });
  auto error = download(server);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kBadData) << error->what();
  // And outside tests only https is spoken at all.
  HubOptions strict = server.options();
  strict.allow_http = false;
  EXPECT_TRUE(error_of([&] { hub_download(strict, remote(server), part_, nullptr, nullptr); }));
}

TEST_F(Downloads, CancelStopsAndKeepsThePart) {
  Server server([&](const std::string&) { return reply("200 OK", "", content_); });
  CancelFlag cancel;
  cancel.raise();
  auto error =
      error_of([&] { hub_download(server.options(), remote(server), part_, nullptr, &cancel); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kIo);
}

}  // namespace
}  // namespace apud
