// The conversation cache as its users see it: pinned documents, receipts, evidence, the folder.
#include <sys/stat.h>

#include "tests/e2e/library.h"

namespace apud::test {
namespace {

class Cache : public LibraryTest {
 protected:
  /// A home of its own in which two documents were ingested.
  static void two_documents(Home& home) {
    configure(home);
    copy_samples(home);
    ASSERT_EQ(home.run({"ingest", "samples/english"}).code, 0);
  }
};

std::vector<std::string> ask(const std::string& question) {
  return {"ask", "--json", "--evidence", "300", "--max-tokens", "16", question};
}

/// What the engine read and reused for an answer.
Json usage(const RunResult& r) { return json_of(r)["usage"]; }

/// All of a prompt up to the first word of the user.
std::string opening(Home& home, const std::string& question) {
  RunResult r = home.run({"ask", "--show-prompt", "--evidence", "300", question});
  size_t user = r.out.find("<|im_start|>user\n");
  EXPECT_NE(user, std::string::npos) << r;
  return r.out.substr(0, user);
}

TEST_F(Cache, APinnedDocumentIsReadOnce) {
  Home home;
  two_documents(home);
  RunResult none = home.run({"pin"});
  EXPECT_EQ(none.code, 1) << none;
  RunResult unpinned = home.run(ask("What does a late return cost?"));
  RunResult pinned = home.run({"pin", "lending-rules.md"});
  ASSERT_EQ(pinned.code, 0) << pinned;
  Json list = json_of(home.run({"pin", "--json"}));
  ASSERT_EQ(list["pins"].size(), 1u);
  std::string mark = "[" + std::to_string(list["pins"][0]["id"].get<int>()) + "] lending-rules.md";

  // The same tokens begin every conversation; the document is not packed again behind them.
  std::string first = opening(home, "What does a late return cost?");
  EXPECT_TRUE(has(first, mark)) << first;
  EXPECT_EQ(first, opening(home, "Who cleans the mirrors?"));
  RunResult whole = home.run({"ask", "--show-prompt", "What does a late return cost?"});
  std::string rest = whole.out.substr(first.size());
  EXPECT_FALSE(has(rest, "] lending-rules.md")) << whole;

  // Only what comes after the pin is computed, in a new process, for a new question.
  RunResult one = home.run(ask("What does a late return cost?"));
  Json used = usage(one);
  int pin = used["cached"].get<int>();
  EXPECT_GT(pin, 300) << one;
  EXPECT_EQ(used["cached_disk"], pin) << one;
  RunResult two = home.run(ask("Who cleans the mirrors of the telescopes?"));
  EXPECT_GE(usage(two)["cached"].get<int>(), pin) << two;

  // As from a fresh prefill.
  home.environment()["XDG_CACHE_HOME"] = (home.path() / "other-cache").string();
  RunResult fresh = home.run(ask("What does a late return cost?"));
  EXPECT_EQ(usage(fresh)["cached"], 0) << fresh;
  EXPECT_EQ(usage(fresh)["prompt"], used["prompt"]) << fresh;
  EXPECT_EQ(json_of(fresh)["answer"], json_of(one)["answer"]);
  home.environment().erase("XDG_CACHE_HOME");

  RunResult removed = home.run({"pin", "--rm", "lending-rules.md"});
  EXPECT_EQ(removed.code, 0) << removed;
  EXPECT_FALSE(has(opening(home, "What does a late return cost?"), mark));
  EXPECT_EQ(usage(home.run(ask("What does a late return cost?")))["prompt"],
            usage(unpinned)["prompt"]);
}

TEST_F(Cache, IngestPinsAndRemovalUnpins) {
  Home home;
  configure(home);
  copy_samples(home);
  RunResult r = home.run({"ingest", "--pin", "samples/english/lending-rules.md"});
  ASSERT_EQ(r.code, 0) << r;
  EXPECT_TRUE(has(r.err, "1 pinned document of default")) << r;
  EXPECT_EQ(json_of(home.run({"pin", "--json"}))["pins"].size(), 1u);
  // What would not fit half the window is not pinned, and nothing of it.
  std::string chapter;
  for (int i = 0; i < 600; ++i) chapter += "Line " + std::to_string(i) + " of a long chapter.\n";
  home.write("long.txt", chapter);
  ASSERT_EQ(home.run({"ingest", "long.txt"}).code, 0);
  RunResult refused = home.run({"pin", "long.txt"});
  EXPECT_EQ(refused.code, 2) << refused;
  EXPECT_TRUE(has(refused.err, "long.txt") && has(refused.err, "tokens")) << refused;
  EXPECT_EQ(json_of(home.run({"pin", "--json"}))["pins"].size(), 1u);
  EXPECT_EQ(home.run({"pin", "nowhere.md"}).code, 66);
  EXPECT_EQ(home.run({"doc", "rm", "lending-rules.md"}).code, 0);
  EXPECT_EQ(home.run({"pin"}).code, 1);
}

TEST_F(Cache, APinOutlivesAChangeOfItsDocument) {
  Home home;
  configure(home);
  home.write("docs/rules.md", "# Rules\n\nThe gate opens at nine.\n");
  ASSERT_EQ(home.run({"ingest", "--pin", "docs"}).code, 0);
  Json before = json_of(home.run({"pin", "--json"}));
  home.write("docs/rules.md", "# Rules\n\nThe gate opens at eleven.\n");
  ASSERT_EQ(home.run({"ingest", "docs"}).code, 0);
  EXPECT_EQ(json_of(home.run({"pin", "--json"}))["pins"][0]["id"], before["pins"][0]["id"]);
  EXPECT_TRUE(has(opening(home, "When does the gate open?"), "eleven"));
}

TEST_F(Cache, ReceiptsNameTiersInChatAndAreKept) {
  RunResult r = run({"chat", "-s", "receipts", "-v", "-t", "0", "--no-docs", "--max-tokens", "12"},
                    "Name a colour.\nAnother one.\n/stats\n");
  ASSERT_EQ(r.code, 0) << r;
  EXPECT_TRUE(std::regex_search(r.err, std::regex("reused [0-9,]+: device [0-9,]+"))) << r;
  EXPECT_TRUE(has(r.err, "first token ")) << r;
  EXPECT_TRUE(has(r.err, "ms a token")) << r;
  RunResult again =
      run({"chat", "-c", "-v", "-t", "0", "--no-docs", "--max-tokens", "12"}, "And one more.\n");
  ASSERT_EQ(again.code, 0) << again;
  EXPECT_TRUE(std::regex_search(again.err, std::regex("reused [0-9,]+: disk [0-9,]+"))) << again;
  // The system prompt changes: the receipt says where, what and why.
  RunResult changed = run({"chat", "-c", "-v", "-t", "0", "--no-docs", "--max-tokens", "12"},
                          "/system You are a poet.\nAnd a last one.\n");
  EXPECT_TRUE(
      std::regex_search(changed.err, std::regex("reuse ended at token [0-9]+: the system prompt "
                                                "changed \\(was \".*\", is \".*poet")))
      << changed;
  RunResult show = run({"session", "show", "receipts"});
  EXPECT_TRUE(std::regex_search(show.out, std::regex("> prompt [0-9,]+ tokens: reused "
                                                     "[0-9,]+: device")))
      << show;
  EXPECT_TRUE(has(show.out, "> reuse ended at token")) << show;
  EXPECT_FALSE(has(run({"session", "export", "receipts"}).out, "> prompt")) << "an export is text";
}

TEST_F(Cache, ASavedChatShowsWhatItsReaderSaw) {
  RunResult chat = run({"chat", "-s", "shown", "-t", "0", "--max-tokens", "40"},
                       "Who cleans the mirrors?\nWhat does a late return cost?\n");
  ASSERT_EQ(chat.code, 0) << chat;
  EXPECT_TRUE(has(chat.out, "[1] samples/english/lending-rules.md:")) << chat;
  std::string seen;
  std::istringstream lines(chat.out);
  RunResult show = run({"session", "show", "shown"}), text = run({"session", "export", "shown"});
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(has(show.out, line + "\n")) << line << show;
    EXPECT_TRUE(has(text.out, line + "\n")) << line << text;
  }
}

TEST_F(Cache, MemoryRecallsEarlierChatsAndForgetsRemovedOnes) {
  Home home;
  configure(home);
  auto chat = [&](const std::vector<std::string>& more, const std::string& input) {
    std::vector<std::string> args = {"chat", "--no-docs", "-t", "0", "--max-tokens", "24"};
    args.insert(args.end(), more.begin(), more.end());
    return home.run(args, input);
  };
  ASSERT_EQ(chat({"-s", "garden"},
                 "My tomato seedlings stand in the greenhouse in row seven. "
                 "Remember that.\n")
                .code,
            0);
  ASSERT_EQ(chat({"-s", "boat"}, "The rowing boat is called Kittiwake. Say it back.\n").code, 0);
  RunResult related =
      chat({"-s", "new", "--memory"}, "Where in the greenhouse do the tomato seedlings stand?\n");
  EXPECT_EQ(related.code, 0) << related;
  auto evidence = [&](const std::string& name) {
    Json session = json_of(home.run({"session", "export", name, "--format", "json"}));
    return session["conversation"]["turns"][0]["evidence"].get<std::string>();
  };
  EXPECT_TRUE(has(evidence("new"), "[1] chat garden") && has(evidence("new"), "row seven"))
      << evidence("new");
  EXPECT_FALSE(has(evidence("new"), "Kittiwake"));
  // Nothing for what no chat was about, and nothing without the option.
  ASSERT_EQ(chat({"-s", "other", "--memory"}, "What is the capital of Norway?\n").code, 0);
  EXPECT_EQ(evidence("other"), "");
  ASSERT_EQ(chat({"-s", "plain"}, "Where do the tomato seedlings stand?\n").code, 0);
  EXPECT_EQ(evidence("plain"), "");
  // A removed chat is not remembered, nor is any byte of it left.
  for (const char* name : {"garden", "new", "plain", "other"})
    EXPECT_EQ(home.run({"session", "rm", name}).code, 0);
  ASSERT_EQ(chat({"-s", "after", "--memory"}, "Where do the tomato seedlings stand?\n").code, 0);
  EXPECT_EQ(evidence("after"), "");
  EXPECT_EQ(home.run({"session", "rm", "after"}).code, 0);
  RunResult left = home.shell("grep -rlE 'row seven' \"$HOME\" | wc -l");
  EXPECT_EQ(left.out, "0\n") << left;
}

TEST_F(Cache, AFullWindowIsRefinedOnceAndSaid) {
  // Twelve questions in a window that holds three or four: rebuilds are rare, and said.
  std::string questions =
      "How long may a borrowed telescope be kept?\nWhat does a late return cost?\n"
      "Who cleans the mirrors?\nWhich evening of the course is about the moon?\n"
      "What was wrong with the power plug?\nWhat must be returned with the telescope?\n"
      "Where does the course meet?\nHow is a booking cancelled?\n"
      "Which eyepieces can be borrowed?\nHow long may a borrowed telescope be kept?\n";
  RunResult r = run({"chat", "-s", "full", "-v", "-t", "0", "--ctx", "1100", "--evidence", "2000",
                     "--max-tokens", "40"},
                    questions);
  ASSERT_EQ(r.code, 0) << r;
  Json session = json_of(run({"session", "export", "full", "--format", "json"}));
  const Json& turns = session["conversation"]["turns"];
  ASSERT_EQ(turns.size(), 20u) << r;
  int rebuilt = 0;
  for (size_t i = 1; i < turns.size(); i += 2) {
    const Json& data = turns[i]["data"];
    if (!data["usage"].contains("prompt") || data["usage"]["prompt"] == 0) continue;  // refused
    EXPECT_LE(data["usage"]["prompt"].get<int>(), 1100 - 40) << data["usage"];
    if (!data.contains("refined")) continue;
    ++rebuilt;
    EXPECT_LT(data["refined"]["tokens_after"], data["refined"]["tokens_before"]) << data;
    EXPECT_EQ(data["cache_break"]["cause"], "evidence") << data["cache_break"];
  }
  EXPECT_GE(rebuilt, 1) << r;
  EXPECT_LE(rebuilt, 4) << r;
  EXPECT_TRUE(std::regex_search(r.err, std::regex("evidence refined from [0-9,]+ to [0-9,]+ "
                                                  "tokens; (condensed|left): \\[[0-9]+\\]")))
      << r;
  // The ledger tells what stands and what left.
  RunResult evidence = run({"chat", "-s", "full", "--ctx", "1100"}, "/evidence\n");
  EXPECT_TRUE(has(evidence.err, "left the prompt")) << evidence;
  EXPECT_TRUE(std::regex_search(evidence.err, std::regex("\\[1\\] .* turn 1 "))) << evidence;
}

}  // namespace
}  // namespace apud::test
