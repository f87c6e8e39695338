// The files of the conversation cache as their users meet them: verbs, damage, a full disk, a
// crash, removal.
#include <sys/mount.h>

#include <regex>

#include "tests/e2e/library.h"

namespace apud::test {
namespace {

class CacheFiles : public LibraryTest {
 protected:
  static std::vector<std::string> ask(const std::string& question,
                                      const std::string& model = model_path(kTinyModel)) {
    return {"ask", "--no-docs", "--json", "-m", model, "--max-tokens", "6", question};
  }
  static Json pages(Home& home, const std::string& key = "") {
    std::vector<std::string> args = {"cache", "show", "--json"};
    if (!key.empty()) args.push_back(key);
    return json_of(home.run(args))["pages"];
  }
  static uint64_t bytes(Home& home) {
    return json_of(home.run({"cache", "list", "--json"}))["bytes"].get<uint64_t>();
  }
};

TEST_F(CacheFiles, VerbsListShowClearAndLimit) {
  APUD_REQUIRE_MODEL(kTinyModel);
  Home home;
  configure(home);
  EXPECT_EQ(json_of(home.run({"cache", "list", "--json"}))["caches"].size(), 0u);
  for (const char* model : {kTinyModel, kChatModel}) {
    RunResult r = home.run(ask("Name a colour.", model_path(model)));
    ASSERT_EQ(r.code, 0) << r;
    EXPECT_FALSE(json_of(r).contains("not_saved")) << r;
  }
  Json list = json_of(home.run({"cache", "list", "--json"}));
  ASSERT_EQ(list["caches"].size(), 2u) << list;
  uint64_t sum = 0;
  for (const Json& cache : list["caches"]) sum += cache["bytes"].get<uint64_t>();
  EXPECT_EQ(sum, list["bytes"].get<uint64_t>());
  std::string key = list["caches"][0]["key"];
  std::string begin = key.substr(0, 10);
  size_t all = pages(home).size();
  Json mine = pages(home, begin);
  EXPECT_EQ(mine.size(), list["caches"][0]["pages"].get<size_t>());
  EXPECT_LT(mine.size(), all);
  for (const Json& page : mine) EXPECT_EQ(page["key"], key);
  for (const char* action : {"show", "clear"}) {
    RunResult unknown = home.run({"cache", action, "nosuch"});
    EXPECT_EQ(unknown.code, 66) << unknown;
  }
  EXPECT_EQ(home.run({"cache", "clear", begin}).code, 0);
  list = json_of(home.run({"cache", "list", "--json"}));
  ASSERT_EQ(list["caches"].size(), 1u) << list;
  EXPECT_NE(list["caches"][0]["key"], key);

  // A limit holds at once, and for whatever is written later.
  for (int i = 0; i < 4; ++i) {
    std::string question = "Question " + std::to_string(i) + ":";
    for (int word = 0; word < 150; ++word) question += " " + std::to_string(word * (i + 3));
    ASSERT_EQ(home.run(ask(question)).code, 0);
  }
  ASSERT_GT(bytes(home), 8'000'000u);
  EXPECT_EQ(home.run({"cache", "limit", "0.008"}).code, 0);
  EXPECT_LE(bytes(home), 8'000'000u);
  for (int i = 0; i < 2; ++i) {
    std::string question = "Again " + std::to_string(i) + ":";
    for (int word = 0; word < 150; ++word) question += " " + std::to_string(word * (i + 30));
    ASSERT_EQ(home.run(ask(question)).code, 0);
    EXPECT_LE(bytes(home), 8'000'000u);
    EXPECT_GT(bytes(home), 1'000'000u);
  }
  EXPECT_EQ(home.run({"cache", "clear"}).code, 0);
  EXPECT_EQ(bytes(home), 0u);
  EXPECT_EQ(home.run({"cache", "limit", "many"}).code, 2);
}

TEST_F(CacheFiles, DamageIsCountedAndComputedAgain) {
  APUD_REQUIRE_MODEL(kTinyModel);
  Home home;
  configure(home);
  std::string question = "Count:";
  for (int i = 0; i < 120; ++i) question += " " + std::to_string(i * 37);
  Json first = json_of(home.run(ask(question)));
  Json again = json_of(home.run(ask(question)));
  EXPECT_GT(again["usage"]["cached_disk"].get<int>(), 300) << again["usage"];
  EXPECT_FALSE(again.contains("ignored_files"));
  EXPECT_EQ(again["answer"], first["answer"]);
  // The middle of every page, and the head of the first.
  RunResult damage = home.shell(
      "for f in .cache/apud/kv/*/*.kv; do printf 'XYZ' | dd of=\"$f\" bs=1 seek=2000 conv=notrunc "
      "2>/dev/null; done; ls .cache/apud/kv/*/*.kv | wc -l");
  EXPECT_GE(std::stoi(damage.out), 4) << damage;
  Json damaged = json_of(home.run(ask(question)));
  EXPECT_EQ(damaged["usage"]["cached"], 0) << damaged["usage"];
  EXPECT_GE(damaged["ignored_files"].get<int>(), 1);
  EXPECT_EQ(damaged["answer"], first["answer"]);
  std::vector<std::string> verbose = {
      "ask", "--no-docs", "-v", "-m", model_path(kTinyModel), "--max-tokens", "6", question};
  ASSERT_EQ(home.run(verbose).code, 0);  // written again
  home.shell("for f in .cache/apud/kv/*/*-0-64.kv; do truncate -s 100 \"$f\"; done");
  RunResult told = home.run(verbose);
  // One, and what the run before had no time to write again.
  EXPECT_TRUE(std::regex_search(
      told.err, std::regex("[1-9][0-9]* damaged cache files? ignored and computed again")))
      << told;
}

TEST_F(CacheFiles, AFullDiskCostsNoAnswerAndIsSaid) {
  APUD_REQUIRE_MODEL(kTinyModel);
  if (::geteuid() != 0) GTEST_SKIP() << "a small file system needs root";
  Home home;
  configure(home);
  std::string cache = (home.path() / ".cache/apud").string();
  std::filesystem::create_directories(cache);
  if (::mount("tmpfs", cache.c_str(), "tmpfs", 0, "size=256k") != 0)
    GTEST_SKIP() << "root without the right to mount";
  RunResult json = home.run(ask("Name a colour."));
  RunResult text = home.run({"ask", "--no-docs", "-v", "-m", model_path(kTinyModel), "--max-tokens",
                             "6", "Name a colour."});
  ::umount2(cache.c_str(), MNT_DETACH);
  EXPECT_EQ(json.code, 0) << json;
  EXPECT_NE(json_of(json).value("not_saved", ""), "") << json;
  EXPECT_EQ(text.code, 0) << text;
  EXPECT_TRUE(has(text.err, "not saved to the disk cache: ")) << text;
  RunResult room = home.run(ask("Name a colour."));
  EXPECT_FALSE(json_of(room).contains("not_saved")) << room;
  EXPECT_EQ(json_of(room)["answer"], json_of(json)["answer"]);
}

TEST_F(CacheFiles, ABatchAfterACrashRestores) {
  APUD_REQUIRE_MODEL(kTinyModel);
  Home home;
  configure(home);
  std::string shared = "The list:";
  for (int i = 0; i < 100; ++i) shared += " " + std::to_string(i * 91);
  std::string questions;
  for (int i = 0; i < 12; ++i)
    questions +=
        Json{{"id", i}, {"question", shared + ". Which is number " + std::to_string(i) + "?"}}
            .dump() +
        "\n";
  home.write("questions.jsonl", questions);
  std::string batch = "\"$APUD\" batch --no-docs -m " + model_path(kTinyModel) +
                      " --max-tokens 40 -i questions.jsonl -o out.jsonl";
  RunResult crashed =
      home.shell(batch +
                 " & pid=$!; while kill -0 $pid 2>/dev/null; do [ -s out.jsonl ] && [ \"$(wc -l < "
                 "out.jsonl)\" -ge 3 ] && kill -9 $pid; sleep 0.02; done; wait $pid; echo $?");
  EXPECT_EQ(crashed.out, "137\n") << crashed;
  size_t before = json_lines(home.shell("cat out.jsonl").out).size();
  ASSERT_GE(before, 3u);
  ASSERT_LT(before, 12u);
  RunResult resumed = home.shell(batch + " --resume");
  EXPECT_EQ(resumed.code, 0) << resumed;
  std::vector<Json> lines = json_lines(home.shell("cat out.jsonl").out);
  ASSERT_EQ(lines.size(), 12u);
  const Json& usage = lines[before]["usage"];
  EXPECT_GT(usage["cached_disk"].get<int>(), 200) << usage;
  EXPECT_LT(usage["computed"].get<int>(), usage["prompt"].get<int>() / 2) << usage;
}

TEST_F(CacheFiles, PagesLeaveWithTheirDocumentCollectionAndSession) {
  Home home;
  configure(home);
  copy_samples(home);
  ASSERT_EQ(home.run({"ingest", "samples/english"}).code, 0);
  auto tags = [&] {
    std::set<std::string> all;
    for (const Json& page : pages(home)) {
      for (const Json& tag : page["tags"]) {
        std::string text = tag;
        all.insert(text.substr(0, text.find(':')) + ":");
        all.insert(text);
      }
    }
    return all;
  };
  auto ask = [&](const std::string& question) {
    // What the answer says is another matter (a refusal is exit 1).
    RunResult r = home.run({"ask", "--json", "--max-tokens", "6", question});
    EXPECT_LE(r.code, 1) << r;
  };
  ask("What does a late return cost?");
  std::set<std::string> there = tags();
  ASSERT_TRUE(there.contains("doc:"));
  // Every page of a prompt with this document is gone; what is left was made without it.
  ASSERT_EQ(home.run({"doc", "rm", "lending-rules.md"}).code, 0);
  std::set<std::string> gone = there;
  for (const std::string& tag : tags()) gone.erase(tag);
  gone.erase("doc:");
  EXPECT_GE(gone.size(), 1u) << "the removed document's pages are there";
  ask("What does the spring course show in six evenings?");
  ASSERT_TRUE(tags().contains("doc:"));
  ASSERT_EQ(home.run({"coll", "rm", "default"}).code, 0);
  EXPECT_FALSE(tags().contains("doc:"));
  ASSERT_EQ(home.run({"chat", "-s", "one", "--no-docs", "--max-tokens", "4", "-t", "0"},
                     "The first chat says something here.\n")
                .code,
            0);
  ASSERT_EQ(home.run({"chat", "-s", "two", "--no-docs", "--max-tokens", "4", "-t", "0"},
                     "Another chat has other words.\n")
                .code,
            0);
  Json sessions = json_of(home.run({"session", "list", "--json"}))["sessions"];
  ASSERT_EQ(sessions.size(), 2u);
  std::string one, two;
  for (const Json& s : sessions) (s["name"] == "one" ? one : two) = s["id"].get<std::string>();
  ASSERT_TRUE(tags().contains("session:" + one));
  ASSERT_EQ(home.run({"session", "rm", "one"}).code, 0);
  EXPECT_FALSE(tags().contains("session:" + one));
  EXPECT_TRUE(tags().contains("session:" + two));
}

}  // namespace
}  // namespace apud::test
