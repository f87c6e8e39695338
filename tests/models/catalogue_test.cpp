#include "models/catalogue.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/hash.h"
#include "models/hub/hub.h"
#include "tests/support/corpus.h"
#include "tests/support/models.h"
#include "tests/support/paths.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::error_of;

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
  // General instruct models of every family, from 0.5B to 14B, and both e5 embedders.
  for (const char* id :
       {"qwen2.5:0.5b", "qwen2.5:14b", "qwen3:0.6b", "qwen3:14b", "llama3.2:1b", "llama3.1:8b",
        "gemma3:1b", "gemma3:12b", "mistral:7b", "smollm2:1.7b", "e5-small-q4", "e5-small"})
    EXPECT_NE(catalogue.find(id), nullptr) << id;
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
architecture = "llama"
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
  std::string command = "python3 " + test::source_dir() + "/scripts/make-random-model " +
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
  // Held, so that nothing is fetched where the check of the licence fails to stop it.
  auto lock = FileLock::try_acquire(models_dir() / (".pull-" + entry.target + ".lock"));
  ASSERT_TRUE(lock);
  for (const char* accepted : {"", "MIT"}) {
    auto error = error_of([&] { pull_model(entry, accepted, nullptr, nullptr); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::kUsage);
    EXPECT_NE(error->advice().find("--accept-licence gemma"), std::string::npos);
  }
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

}  // namespace
}  // namespace apud
