// Bad input and bad luck: one clear line, the right exit code, nothing on standard output.
#include <signal.h>
#include <sys/mount.h>

#include "tests/e2e/library.h"

namespace apud::test {
namespace {

/// No model is needed for these.
class Errors : public testing::Test {
 protected:
  /// Exit code, nothing on stdout, exactly one "error:" line (and an indented advice) holding
  /// `words`.
  void refused(const std::vector<std::string>& args, int code,
               const std::vector<std::string>& words, const std::string& input = "") {
    SCOPED_TRACE(testing::PrintToString(args));
    check(home_.run(args, input), code, words);
  }
  static void check(const RunResult& r, int code, const std::vector<std::string>& words) {
    EXPECT_EQ(r.code, code) << r;
    EXPECT_EQ(r.out, "") << r;
    std::vector<std::string> lines = r.error_lines();
    int errors = 0;
    for (const std::string& line : lines) errors += line.starts_with("error: ");
    EXPECT_EQ(errors, 1) << r;
    ASSERT_FALSE(lines.empty()) << r;
    for (const std::string& line : lines)
      EXPECT_TRUE(line.starts_with("error: ") || line.starts_with("  ") ||
                  line.starts_with("warning: "))
          << r;
    EXPECT_LE(lines.size(), 3u) << r;
    for (const std::string& word : words)
      EXPECT_TRUE(has(r.err, word)) << "'" << word << "' is missing" << r;
    expect_no_escape(r);
  }
  void no_models() {
    std::filesystem::create_directories(home_.path() / "empty");
    home_.environment()["APUD_MODELS"] = (home_.path() / "empty").string();
  }
  Home home_;
};

TEST_F(Errors, TheCommandLine) {
  refused({"serach", "x"}, 2, {"serach", "search"});
  refused({}, 2, {"apud --help"});
  refused({"ask", "--nonsense", "x"}, 2, {"--nonsense", "apud ask --help"});
  refused({"ask", "--ctx", "-5", "x"}, 2, {"--ctx"});
  refused({"search", ""}, 2, {"empty query"});
  refused({"search", "   "}, 2, {"empty query"});
  refused({"completion", "tcsh"}, 2, {"tcsh"});
  refused({"coll", "explode"}, 2, {"explode"});
  refused({"batch", "--jobs", "some"}, 2, {"some"}, "x\n");
}

TEST_F(Errors, AnEmptyQuestion) {
  refused({"ask"}, 2, {"no question"});
  refused({"ask", ""}, 2, {"no question"});
  refused({"ask", " \n\t "}, 2, {"no question"});
  refused({"ask", "-"}, 2, {"empty"});
  refused({"ask", "-"}, 2, {"empty"}, " \n\n");
}

TEST_F(Errors, AnEmbeddingModelHasNoBenchOnTheCpu) {
  refused({"bench", "--device", "cpu", "--shape", "e5-small:q4_0"}, 2, {"is an embedding model"});
}

TEST_F(Errors, NoModelYet) {
  no_models();
  refused({"ask", "--no-docs", "Hello?"}, 69, {"no chat model", "apud model pull"});
  refused({"chat"}, 69, {"no chat model", "apud model pull"}, "hello\n");
  refused({"batch"}, 69, {"no chat model"}, "hello\n");
  home_.write("docs/a.txt", "some words\n");
  refused({"ingest", "docs"}, 69, {"e5-small-q4", "apud model pull"});
}

TEST_F(Errors, UnknownNames) {
  refused({"ask", "--no-docs", "-m", "qwen2.5-coder:0.5c", "Hello?"}, 66,
          {"qwen2.5-coder:0.5c", "qwen2.5-coder:0.5b"});
  refused({"model", "pull", "qwen2.5-coder:0.5c"}, 66, {"qwen2.5-coder:0.5b"});
  refused({"model", "info", "/no/such/model.gguf"}, 66, {"/no/such/model.gguf"});
  refused({"session", "show", "nothing"}, 66, {"nothing"});
  refused({"chat", "-c"}, 66, {"no session"});
  refused({"search", "x"}, 66, {"apud ingest"});
  refused({"explain"}, 66, {});
  refused({"coll", "info", "nothing"}, 66, {});
  refused({"config", "set", "evidnce", "1"}, 2, {"evidnce", "evidence"});
  refused({"config", "set", "ctx", "many"}, 2, {"ctx", "many"});
}

TEST_F(Errors, MissingFilesAndFolders) {
  refused({"ingest", "/no/such/folder"}, 66, {"/no/such/folder"});
  refused({"ask", "--no-docs", "-f", "missing.txt", "What?"}, 66, {"missing.txt"});
  refused({"batch", "-i", "missing.jsonl"}, 66, {"missing.jsonl"});
  home_.write("q.jsonl", "x\n");
  refused({"batch", "-i", "q.jsonl", "-o", "/no/such/folder/out.jsonl"}, 66,
          {"/no/such/folder/out.jsonl"});
}

TEST_F(Errors, AFolderInPlaceOfAFile) {
  std::filesystem::create_directories(home_.path() / "folder");
  RunResult r = home_.run({"batch", "-i", "folder"});
  EXPECT_TRUE(r.code == 66 || r.code == 65) << r;
  EXPECT_EQ(r.out, "");
}

TEST_F(Errors, JsonErrorsAreJson) {
  for (const auto& [args, code, name] :
       std::vector<std::tuple<std::vector<std::string>, int, std::string>>{
           {{"ask", "--json", ""}, 2, "usage"},
           {{"search", "--json", "x"}, 66, "no_input"},
           {{"serach", "--json"}, 2, "usage"},
           {{"coll", "info", "--json", "nothing"}, 66, "no_input"}}) {
    SCOPED_TRACE(testing::PrintToString(args));
    RunResult r = home_.run(args);
    EXPECT_EQ(r.code, code) << r;
    Json json = json_of(r);
    EXPECT_EQ(json["schema"], 1);
    EXPECT_EQ(json["error"]["code"], name);
    EXPECT_TRUE(json["error"]["message"].is_string() && json["error"]["advice"].is_string());
    EXPECT_TRUE(has(r.err, "error: ")) << r;
  }
}

TEST_F(Errors, TheConfigurationFile) {
  home_.write(".config/apud/config.toml", "# mine\nevidnce = 100\n");
  refused({"search", "x"}, 78, {"config.toml:2", "evidnce", "evidence"});
  home_.write(".config/apud/config.toml", "ctx = 'lots'\n");
  refused({"search", "x"}, 78, {"config.toml:1", "ctx", "lots"});
  home_.write(".config/apud/config.toml", "ctx = 4096\ndevice = \n");
  refused({"search", "x"}, 78, {"config.toml:2"});
  // It can be mended with apud itself, and help needs no settings.
  home_.write(".config/apud/config.toml", "ctx = 'lots'\nevidence = 300\n");
  RunResult mended = home_.run({"config", "unset", "ctx"});
  EXPECT_EQ(mended.code, 0) << mended;
  EXPECT_EQ(home_.run({"config", "get", "evidence"}).out, "300\n");
  home_.write(".config/apud/config.toml", "ctx = 'lots'\n");
  EXPECT_EQ(home_.run({"--help"}).code, 0);
  EXPECT_EQ(home_.run({"config", "set", "ctx", "1024"}).code, 0);
  EXPECT_EQ(home_.run({"config", "get", "ctx"}).out, "1024\n");
}

TEST_F(Errors, DamagedModels) {
  home_.write("empty.gguf", "");
  refused({"ask", "--no-docs", "-m", "empty.gguf", "Hello?"}, 65, {"empty.gguf"});
  home_.write("text.gguf", "this is no model at all, whatever its name says\n");
  refused({"ask", "--no-docs", "-m", "text.gguf", "Hello?"}, 65, {"text.gguf"});
  home_.write("huge.gguf",
              std::string("GGUF\x03\0\0\0", 8) + std::string(8, '\x7f') + std::string(8, '\x7f'));
  refused({"ask", "--no-docs", "-m", "huge.gguf", "Hello?"}, 65, {"huge.gguf"});
  std::filesystem::path whole = models_dir() / kTinyModel;
  if (!std::filesystem::exists(whole)) GTEST_SKIP() << "model not fetched: " << whole;
  for (size_t keep : {size_t{100}, size_t{100'000}, size_t{50'000'000}}) {
    std::ifstream in(whole, std::ios::binary);
    std::string bytes(keep, '\0');
    in.read(bytes.data(), static_cast<std::streamsize>(keep));
    home_.write("cut.gguf", bytes);
    refused({"ask", "--no-docs", "-m", "cut.gguf", "Hello?"}, 65, {"cut.gguf"});
  }
}

TEST_F(Errors, AFullDiskBehindStandardOutput) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  for (const char* verb : {"--help", "config list", "completion bash", "model list", "doctor"}) {
    RunResult r = home_.shell("\"$APUD\" " + std::string(verb) + " > /dev/full");
    EXPECT_EQ(r.code, 74) << verb << r;
    EXPECT_TRUE(has(r.err, "standard output")) << r;
    EXPECT_TRUE(has(r.err, "No space left")) << r;
  }
}

TEST_F(Errors, AClosedPipeIsQuiet) {
  RunResult r = home_.shell("\"$APUD\" config list | true; echo ${PIPESTATUS[0]}");
  EXPECT_TRUE(r.out == "141\n" || r.out == "0\n") << r;
  EXPECT_EQ(r.err, "") << r;
}

class LibraryErrors : public LibraryTest {
 protected:
  void refused(const std::vector<std::string>& args, int code,
               const std::vector<std::string>& words) {
    RunResult r = run(args);
    EXPECT_EQ(r.code, code) << r;
    EXPECT_EQ(r.out, "") << r;
    EXPECT_TRUE(r.err.starts_with("error: ")) << r;
    for (const std::string& word : words) EXPECT_TRUE(has(r.err, word)) << word << r;
  }
};

TEST_F(LibraryErrors, UnknownCollectionsNameTheNearest) {
  refused({"ask", "-k", "defualt", "What?"}, 66, {"defualt", "default"});
  refused({"search", "-k", "defualt", "What?"}, 66, {"defualt", "default"});
  refused({"coll", "rm", "defualt"}, 66, {"defualt"});
  refused({"doc", "show", "no-such-file.txt"}, 66, {"no-such-file.txt"});
  refused({"ask", "--ctx", "99999999", "What?"}, 2, {"--ctx"});
  refused({"ask", "--ctx", "1000000", "What?"}, 2, {"1000000"});
}

TEST_F(LibraryErrors, AFullDiskBehindAnAnswer) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  RunResult r = home().shell("\"$APUD\" ask --no-docs --max-tokens 8 'Say hello.' > /dev/full");
  EXPECT_EQ(r.code, 74) << r;
  RunResult search = home().shell("\"$APUD\" search telescope > /dev/full");
  EXPECT_EQ(search.code, 74) << search;
  RunResult batch =
      home().shell("echo hello | \"$APUD\" batch --no-docs --max-tokens 4 > /dev/full");
  EXPECT_EQ(batch.code, 74) << batch;
}

TEST_F(LibraryErrors, HostileFileNamesAreShownNotObeyed) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  Home home;
  home.write(".config/apud/config.toml", "model = '" + model_path(kDefaultModel) + "'\n");
  home.write("docs/plain.md", "# Fruit\n\nThe quince is yellow.\n");
  home.write("docs/evil\x1b]52;c;cm0=\x07\x1b[2J name.md",
             "# Trees\n\nThe larch loses its needles.\n");
  RunResult ingest = home.run({"ingest", "docs", "-v"});
  EXPECT_EQ(ingest.code, 0) << ingest;
  expect_no_escape(ingest);
  EXPECT_TRUE(has(ingest.err, "\\x1b")) << "the name is shown" << ingest;
  for (const std::vector<std::string>& args :
       std::vector<std::vector<std::string>>{{"search", "larch needles"},
                                             {"search", "-l", "larch needles"},
                                             {"search", "-v", "larch needles"},
                                             {"doc", "list"},
                                             {"ask", "Which tree loses its needles?"},
                                             {"ask", "--json", "Which tree loses its needles?"},
                                             {"search", "--json", "larch"},
                                             {"ingest", "docs", "--jsonl", "-v"},
                                             {"ask", "-f", "no\x1b[31m", "x"}}) {
    RunResult r = home.run(args);
    EXPECT_TRUE(r.code == 0 || r.code == 66) << r;
    expect_no_escape(r);
    EXPECT_EQ(r.out.find('\x07'), std::string::npos) << r;
  }
}

TEST_F(LibraryErrors, AScanIsNamed) {
  if (home().shell("command -v pdftotext").code != 0) GTEST_SKIP() << "no pdftotext here";
  Home home;
  home.write("docs/plain.md", "# Fruit\n\nThe quince is yellow.\n");
  home.write("docs/scan.pdf",
             "%PDF-1.1\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
             "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
             "3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\n"
             "trailer<</Root 1 0 R>>\n");
  RunResult r = home.run({"ingest", "docs"});
  EXPECT_EQ(r.code, 0) << r;
  EXPECT_TRUE(has(r.err, "no text on any page, nothing to find in one file: scan.pdf")) << r;
  EXPECT_EQ(home.run({"ingest", "docs", "--fail-on", "no-text"}).code, 65);
}

/// A mount that ends with the scope. Permissions do not hold root back, so a folder that cannot be
/// written is one that is mounted so.
class Mounted {
 public:
  static std::unique_ptr<Mounted> small_disk(const std::filesystem::path& folder,
                                             const std::string& size) {
    std::filesystem::create_directories(folder);
    return make(folder, ::mount("tmpfs", folder.c_str(), "tmpfs", 0, ("size=" + size).c_str()));
  }
  static std::unique_ptr<Mounted> read_only(const std::filesystem::path& folder) {
    auto it = make(folder, ::mount(folder.c_str(), folder.c_str(), nullptr, MS_BIND, nullptr));
    int flags = MS_BIND | MS_REMOUNT | MS_RDONLY;
    if (it && ::mount(nullptr, folder.c_str(), nullptr, flags, nullptr) != 0) it.reset();
    return it;
  }
  ~Mounted() { ::umount2(folder_.c_str(), MNT_DETACH); }

 private:
  explicit Mounted(std::filesystem::path folder) : folder_(std::move(folder)) {}
  /// Absent without the right to mount.
  static std::unique_ptr<Mounted> make(const std::filesystem::path& folder, int result) {
    return std::unique_ptr<Mounted>(result == 0 ? new Mounted(folder) : nullptr);
  }
  std::filesystem::path folder_;
};

class Disks : public LibraryErrors {
 protected:
  void SetUp() override {
    LibraryErrors::SetUp();
    if (IsSkipped()) return;
    home_.write(".config/apud/config.toml", "model = '" + model_path(kTinyModel) + "'\n");
    copy_samples(home_);
    home_.write("more/larch.md", "The larch loses its needles.\n");
  }
  /// What needs no room goes on; a chat says that it is not kept, an answer that it cannot be
  /// explained.
  void answers_unkept(const std::string& why) {
    RunResult search = home_.run({"search", "--mode", "bm25", "telescope"});
    EXPECT_EQ(search.code, 0) << search;
    EXPECT_TRUE(has(search.out, "lending-rules.md")) << search;
    RunResult ask = home_.run({"ask", "--max-tokens", "4", "How long may a telescope be kept?"});
    EXPECT_EQ(ask.code, 0) << ask;
    EXPECT_TRUE(has(ask.err, "warning: not kept") && has(ask.err, why)) << ask;
    RunResult chat = home_.run({"chat", "--no-docs", "--max-tokens", "4"}, "Hello.\nAgain.\n");
    EXPECT_EQ(chat.code, 74) << chat;
    EXPECT_GE(chat.lines().size(), 2u) << "both turns are answered" << chat;
    EXPECT_TRUE(has(chat.err, "warning: this chat is not saved") && has(chat.err, why)) << chat;
  }
  void ingest_refused(const std::vector<std::string>& words) {
    RunResult r = home_.run({"ingest", "more"});
    EXPECT_EQ(r.code, 74) << r;
    EXPECT_EQ(r.out, "") << r;
    EXPECT_TRUE(r.err.starts_with("error: ")) << r;
    for (const std::string& word : words) EXPECT_TRUE(has(r.err, word)) << word << r;
  }
  std::filesystem::path data() { return home_.path() / ".local/share/apud"; }
  Home home_;
};

TEST_F(Disks, AReadOnlyDataFolder) {
  ASSERT_EQ(home_.run({"ingest", "samples"}).code, 0);
  {
    auto mounted = Mounted::read_only(data());
    if (!mounted) GTEST_SKIP() << "without the right to mount";
    answers_unkept("Read-only file system");
    ingest_refused({"Read-only file system"});
    RunResult named = home_.run({"chat", "--no-docs", "--max-tokens", "4", "-s", "x"}, "Hello.\n");
    EXPECT_TRUE(has(named.err, "warning: this chat is not saved")) << named;
    EXPECT_EQ(named.lines().empty(), false) << "and answered" << named;
    RunResult doctor = home_.run({"doctor"});
    EXPECT_EQ(doctor.code, 69) << doctor;
    EXPECT_TRUE(has(doctor.out, "share/apud (cannot be written)")) << doctor;
  }
  EXPECT_FALSE(has(home_.run({"doctor"}).out, "cannot be written"));
  {
    // Killed in the middle: what was acknowledged is still in the log alone.
    Home killed;
    for (int i = 0; i < 100; ++i)
      killed.write("docs/" + std::to_string(i) + ".txt", "Page " + std::to_string(i) + ".\n");
    RunResult r =
        killed.run({"ingest", "docs", "--jsonl"}, "", [](pid_t pid, const RunResult& now) {
          if (now.out.empty()) return true;
          ::kill(pid, SIGKILL);
          return false;
        });
    ASSERT_EQ(r.code, 128 + SIGKILL) << r;
    auto mounted = Mounted::read_only(killed.path() / ".local/share/apud");
    RunResult list = killed.run({"doc", "list"});
    EXPECT_GE(list.lines().size(), r.lines().size()) << r << list;
  }
  // Removing writes the log back into the store, which then stands alone, as a copied one does.
  ASSERT_EQ(home_.run({"doc", "rm", "course.html"}).code, 0);
  for (const char* beside : {"-wal", "-shm"})
    std::filesystem::remove(data().string() + "/apud.db" + beside);
  {
    auto mounted = Mounted::read_only(data());
    ASSERT_TRUE(mounted);
    answers_unkept("Read-only file system");
    ingest_refused({"Read-only file system"});
  }
  EXPECT_EQ(home_.run({"ingest", "more"}).code, 0);
}

TEST_F(Disks, AFullDisk) {
  {
    auto tiny = Mounted::small_disk(data(), "64k");
    if (!tiny) GTEST_SKIP() << "without the right to mount";
    ingest_refused({"database or disk is full", "free space"});
  }
  auto disk = Mounted::small_disk(data(), "66m");
  ASSERT_EQ(home_.run({"ingest", "samples"}).code, 0);
  home_.shell("head -c 80m /dev/zero > " + data().string() + "/ballast");
  ingest_refused({"0 MB free", "XDG_DATA_HOME"});
  answers_unkept("");
  // With room again, the same command goes through, and what was there is there.
  std::filesystem::remove(data() / "ballast");
  EXPECT_EQ(home_.run({"ingest", "more"}).code, 0);
  EXPECT_EQ(json_of(home_.run({"doc", "list", "--json"}))["documents"].size(), 7u);
}

TEST_F(LibraryErrors, ADamagedStoreIsRefusedWithAdvice) {
  Home home;
  configure(home);
  copy_samples(home);
  ASSERT_EQ(home.run({"ingest", "samples"}).code, 0);
  RunResult found =
      home.shell("find .local/share/apud -name '*.db' -o -name '*.sqlite*' | head -1");
  ASSERT_FALSE(found.lines().empty()) << found;
  std::string path = found.lines().front();
  // Without its log the file stands alone, and its beginning is overwritten.
  home.shell("rm -f '" + path + "-wal' '" + path +
             "-shm'; printf 'this is not a database' | dd of='" + path +
             "' conv=notrunc 2>/dev/null");
  RunResult r = home.run({"search", "telescope"});
  EXPECT_EQ(r.code, 65) << r;
  EXPECT_EQ(r.out, "") << r;
  EXPECT_TRUE(r.err.starts_with("error: ")) << r;
}

}  // namespace
}  // namespace apud::test
