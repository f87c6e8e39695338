// What survives and what must not: ingest killed at any moment, and text that was removed.
#include <signal.h>

#include <random>

#include "tests/e2e/library.h"

namespace apud::test {
namespace {

class Durability : public LibraryTest {
 protected:
  /// Files of two languages, enough for an ingest of a second or two.
  static void write_documents(Home& home, int count) {
    for (int i = 0; i < count; ++i) {
      std::string text = "# Record " + std::to_string(i) + "\n\n";
      for (int j = 0; j < 6; ++j) {
        text += "Entry " + std::to_string(i) + "-" + std::to_string(j) +
                " was written by keeper number " + std::to_string((i * 7 + j) % 13) +
                " about the lamp, the weather and the boats.\n\n第" + std::to_string(i) +
                "号记录第" + std::to_string(j) + "段，内容是灯塔、天气和船只。\n\n";
      }
      home.write("docs/record" + std::to_string(i) + ".md", text);
    }
  }

  /// What a store holds, without times and ids.
  static std::string contents(Home& home) {
    std::vector<std::string> lines;
    Json list = json_of(home.run({"doc", "list", "--json"}));
    for (const Json& d : list["documents"])
      lines.push_back(
          Json{d["path"], d["status"], d["chunks"], d["tokens"], d["size"], d["vanished"]}.dump());
    std::sort(lines.begin(), lines.end());
    std::string out;
    for (const std::string& line : lines) out += line.substr(line.find("docs/")) + "\n";
    Json info = json_of(home.run({"coll", "info", "default", "--json"}));
    return out + Json{info["documents"], info["chunks"], info["tokens"], info["text_bytes"]}.dump();
  }
};

TEST_F(Durability, IngestKilledAnywhereIsCompletedByARerun) {
  constexpr int kDocuments = 16;
  Home whole;
  configure(whole);
  write_documents(whole, kDocuments);
  RunResult unbroken = whole.run({"ingest", "docs"});
  ASSERT_EQ(unbroken.code, 0) << unbroken;
  std::string expected = contents(whole);
  RunResult wanted = whole.run({"search", "--mode", "hybrid", "keeper number 5 lamp", "--json"});

  std::mt19937 random(20261122);
  int killed = 0;
  double seconds =
      unbroken.seconds;  // of a whole run: the first one was slow where caches were cold
  for (int point = 0; point < 20; ++point) {
    Home home;
    configure(home);
    write_documents(home, kDocuments);
    double when = std::uniform_real_distribution<double>(0, seconds)(random);
    auto start = std::chrono::steady_clock::now();
    std::vector<std::string> acknowledged;
    RunResult broken =
        home.run({"ingest", "docs", "--jsonl"}, "", [&](pid_t pid, const RunResult&) {
          if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() <
              when)
            return true;
          ::kill(pid, SIGKILL);
          return false;
        });
    killed += broken.code == 128 + SIGKILL;
    if (broken.code == 0) seconds = std::min(seconds, broken.seconds);
    RunResult again = home.run({"ingest", "docs", "--jsonl"});
    ASSERT_EQ(again.code, 0) << "killed after " << when << " s" << again;
    // What was reported as taken in was committed: the rerun finds it unchanged.
    std::map<std::string, std::string> outcome;
    for (const Json& event : json_lines(again.out)) outcome[event["path"]] = event["outcome"];
    size_t end = broken.out.rfind('\n');
    for (const Json& event :
         json_lines(end == std::string::npos ? "" : broken.out.substr(0, end))) {
      EXPECT_EQ(outcome[event["path"]], "unchanged")
          << event << " was acknowledged before the kill after " << when << " s";
    }
    EXPECT_EQ(contents(home), expected) << "killed after " << when << " s";
    RunResult found = home.run({"search", "--mode", "hybrid", "keeper number 5 lamp", "--json"});
    Json a = json_of(found), b = json_of(wanted);
    ASSERT_EQ(a["results"].size(), b["results"].size());
    for (size_t i = 0; i < a["results"].size(); ++i) {
      EXPECT_EQ(std::filesystem::path(a["results"][i]["path"].get<std::string>()).filename(),
                std::filesystem::path(b["results"][i]["path"].get<std::string>()).filename());
    }
  }
  EXPECT_GE(killed, 10) << "most kills must hit a running ingest";
}

TEST_F(Durability, InterruptDuringIngestIsOrderly) {
  Home home;
  configure(home);
  write_documents(home, 60);
  RunResult r = home.run({"ingest", "docs", "--jsonl"}, "", [&](pid_t pid, const RunResult& now) {
    if (now.out.empty()) return true;
    ::kill(pid, SIGINT);
    return false;
  });
  EXPECT_EQ(r.code, 130) << r;
  size_t done = r.lines().size();
  RunResult again = home.run({"ingest", "docs", "--jsonl"});
  EXPECT_EQ(again.code, 0) << again;
  size_t unchanged = 0;
  for (const Json& event : json_lines(again.out)) unchanged += event["outcome"] == "unchanged";
  EXPECT_GE(unchanged, done);
}

/// Files below HOME that hold `word` in any form that we write: plain, or inside zstd frames.
std::string files_with(Home& home, const std::string& word) {
  RunResult r = home.shell("grep -rlaF '" + word +
                           "' \"$HOME\" --exclude-dir=docs --exclude-dir=samples; exit 0");
  return r.out;
}

TEST_F(Durability, RemovedTextIsGoneFromEveryFile) {
  APUD_REQUIRE_MODEL("qwen2.5-coder-1.5b.gguf");
  const std::string canary = "quillonfeather";
  auto prepare = [&](Home& home) {
    configure(home);
    home.write("docs/secret.md", "# The vault\n\nThe password of the vault is " + canary +
                                     ", and it is changed every spring by the keeper.\n");
    home.write("docs/other.md", "# The garden\n\nThe garden has four apple trees and a well.\n");
    EXPECT_EQ(home.run({"ingest", "docs"}).code, 0);
    // The 0.5B model copies headings instead of answering.
    RunResult asked = home.run({"ask", "-m", (models_dir() / "qwen2.5-coder-1.5b.gguf").string(),
                                "What is the password of the vault?", "--max-tokens", "40"});
    EXPECT_TRUE(has(lower(asked.out), canary)) << asked;
    // The text of a prompt is in its KV pages as token ids: "apud cache" lists pages of the
    // document.
    EXPECT_NE(home.run({"cache", "list"}).out, "");
  };
  auto pages = [](Home& home) {
    int64_t total = 0;
    for (const Json& cache : json_of(home.run({"cache", "list", "--json"}))["caches"])
      total += cache["pages"].get<int64_t>();
    return total;
  };
  {
    Home home;
    prepare(home);
    ASSERT_NE(files_with(home, canary), "")
        << "the trace of the answer holds it: the search can find it";
    RunResult removed = home.run({"doc", "rm", "docs/secret.md"});
    EXPECT_EQ(removed.code, 0) << removed;
    EXPECT_EQ(files_with(home, canary), "");
    EXPECT_EQ(home.run({"search", canary, "--mode", "bm25"}).code, 1);
    RunResult other = home.run({"search", "apple trees", "--mode", "bm25"});
    EXPECT_EQ(other.code, 0) << other;
  }
  {
    Home home;
    prepare(home);
    RunResult removed = home.run({"coll", "rm", "default"});
    EXPECT_EQ(removed.code, 0) << removed;
    EXPECT_EQ(files_with(home, canary), "");
    EXPECT_EQ(home.run({"coll", "list"}).code, 1);
  }
  {
    Home home;
    configure(home);
    RunResult chat =
        home.run({"chat", "-s", "private", "--no-docs", "--max-tokens", "12", "-t", "0"},
                 "Remember the word " + canary + ".\n");
    EXPECT_EQ(chat.code, 0) << chat;
    ASSERT_NE(files_with(home, canary), "");
    RunResult removed = home.run({"session", "rm", "private"});
    EXPECT_EQ(removed.code, 0) << removed;
    EXPECT_EQ(files_with(home, canary), "");
    EXPECT_EQ(pages(home), 0);
  }
}

TEST_F(Durability, RemovalNamesTheSessionsThatQuote) {
  Home home;
  configure(home);
  copy_samples(home);
  ASSERT_EQ(home.run({"ingest", "samples"}).code, 0);
  RunResult chat = home.run({"chat", "-s", "quoting", "-t", "0", "--max-tokens", "40"},
                            "How long may a borrowed telescope be kept?\n");
  ASSERT_EQ(chat.code, 0) << chat;
  RunResult removed = home.run({"doc", "rm", "lending-rules.md"});
  EXPECT_EQ(removed.code, 0) << removed;
  EXPECT_TRUE(has(removed.err, "quoting")) << removed;
}

TEST_F(Durability, ChangedMovedAndVanishedFiles) {
  Home home;
  configure(home);
  copy_samples(home);
  ASSERT_EQ(home.run({"ingest", "samples"}).code, 0);
  std::filesystem::path folder = home.path() / "samples" / "english";
  std::ofstream(folder / "observing-log.txt", std::ios::app)
      << "\n9 April 2026. The marmalade comet was seen by nobody.\n";
  std::filesystem::rename(folder / "course.html", folder / "spring-course.html");
  std::filesystem::remove(folder / "lending-rules.md");
  RunResult r = home.run({"ingest", "samples", "--jsonl"});
  EXPECT_EQ(r.code, 0) << r;
  std::map<std::string, std::string> outcome;
  for (const Json& event : json_lines(r.out))
    outcome[std::filesystem::path(event["path"].get<std::string>()).filename()] = event["outcome"];
  EXPECT_EQ(outcome["observing-log.txt"], "replaced") << r;
  EXPECT_EQ(outcome["spring-course.html"], "moved") << r;
  EXPECT_EQ(outcome["lending-rules.md"], "vanished") << r;
  EXPECT_TRUE(
      has(home.run({"search", "marmalade comet", "--mode", "bm25"}).out, "observing-log.txt"));
  EXPECT_FALSE(has(home.run({"search", "late return", "--mode", "bm25"}).out, "lending-rules.md"))
      << "vanished files are not retrieved";
  RunResult pruned = home.run({"ingest", "samples", "--prune"});
  EXPECT_EQ(pruned.code, 0) << pruned;
  EXPECT_FALSE(has(home.run({"doc", "list"}).out, "lending-rules.md"));
  EXPECT_EQ(home.run({"doc", "list", "lending-rules.md"}).code, 66);
  // More than half of it gone: nothing changes.
  std::filesystem::remove_all(home.path() / "samples" / "中文");
  std::filesystem::remove(folder / "spring-course.html");
  RunResult gone = home.run({"ingest", "samples"});
  EXPECT_EQ(gone.code, 66) << gone;
  EXPECT_EQ(home.run({"search", "粘虫板", "--mode", "bm25"}).code, 0);
}

}  // namespace
}  // namespace apud::test
