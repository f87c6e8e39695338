// What the verbs' options do, end to end, on a few lines of text and the smallest model.
#include <signal.h>

#include <set>

#include "tests/e2e/library.h"

namespace apud::test {
namespace {

class Verbs : public testing::Test {
 protected:
  void SetUp() override {
    APUD_REQUIRE_MODEL(kTinyModel);
    APUD_REQUIRE_MODEL(kEmbedder);
    home_.write(".config/apud/config.toml", "model = '" + model_path(kTinyModel) + "'\n");
  }
  RunResult run(const std::vector<std::string>& args, const std::string& input = "",
                const Home::During& during = {}) {
    return home_.run(args, input, during);
  }
  void ingest_birds() {
    home_.write("docs/heron.md", "# Birds of the pond\n\nThe heron stands in the reed.\n");
    ASSERT_EQ(run({"ingest", "docs", "-k", "birds"}).code, 0);
  }
  Home home_;
};

// --- ingest --------------------------------------------------------------------------------------

/// Names of the files that `ingest --jsonl` took in.
std::set<std::string> taken(const RunResult& r) {
  std::set<std::string> names;
  for (const Json& event : json_lines(r.out)) {
    if (event["outcome"] == "indexed")
      names.insert(std::filesystem::path(event["path"].get<std::string>()).filename());
  }
  return names;
}

TEST_F(Verbs, IngestTakesWhatItsOptionsSay) {
  home_.write("docs/heron.md", "The heron stands in the reed.\n");
  home_.write("docs/kestrel.txt", "The kestrel hovers over the field.\n");
  home_.write("docs/.owl.md", "The owl sleeps by day.\n");
  home_.write("docs/gull.log", "The gull cries.\n");
  home_.write("docs/.gitignore", "*.log\n");
  home_.write("docs/key.pem", "x\n");
  home_.write("docs/raw.bin", std::string("\0\1\2\3", 4));

  RunResult shown = run({"ingest", "docs", "-n"});
  EXPECT_EQ(shown.code, 0) << shown;
  EXPECT_TRUE(has(shown.out, "docs/heron.md")) << shown;
  EXPECT_EQ(run({"coll", "list"}).code, 1) << "-n only shows";

  RunResult some = run({"ingest", "docs", "--jsonl"});
  EXPECT_EQ(some.code, 0) << "some skipped is no failure" << some;
  EXPECT_EQ(taken(some), (std::set<std::string>{"heron.md", "kestrel.txt"})) << some;
  std::string skipped = some.err.substr(std::min(some.err.find("skipped: "), some.err.size()));
  for (const char* reason : {"2 hidden", "1 ignored", "1 secret", "1 binary"})
    EXPECT_TRUE(has(skipped, reason)) << reason << some;
  EXPECT_FALSE(has(some.err, "heron.md")) << "a line for each file comes with -v" << some;
  EXPECT_TRUE(has(run({"ingest", "docs", "-v"}).err, "heron.md"));

  RunResult all = run({"ingest", "docs", "-k", "all", "--hidden", "--no-ignore", "--jsonl"});
  EXPECT_EQ(taken(all),
            (std::set<std::string>{"heron.md", "kestrel.txt", ".owl.md", "gull.log", ".gitignore"}))
      << all;
  RunResult picked = run({"ingest", "docs", "-k", "picked", "--no-ignore", "--include", "*.md",
                          "--include", "*.txt", "--exclude", "kes*", "--jsonl"});
  EXPECT_EQ(taken(picked), (std::set<std::string>{"heron.md"})) << picked;

  // A regular file that gives an error when it is read, whoever reads it.
  RunResult unreadable = run({"ingest", "docs", "/proc/self/mem", "--jsonl"});
  EXPECT_EQ(unreadable.code, 0) << unreadable;
  EXPECT_TRUE(has(unreadable.err, "1 unreadable")) << unreadable;
  EXPECT_TRUE(has(unreadable.out, "Input/output error")) << unreadable;

  home_.write("raw/raw.bin", std::string("\0\1\2\3", 4));
  RunResult none = run({"ingest", "raw", "-k", "raw"});
  EXPECT_EQ(none.code, 65) << "all skipped" << none;

  // -k repeats: only the second holds the word.
  EXPECT_EQ(run({"search", "--mode", "bm25", "-k", "picked", "kestrel"}).code, 1);
  EXPECT_EQ(run({"search", "--mode", "bm25", "-k", "picked", "-k", "all", "kestrel"}).code, 0);
}

TEST_F(Verbs, ADryRunListsOnStdoutWhatItWouldTake) {
  home_.write("docs/heron.md", "The heron.\n");
  home_.write("docs/two\nlines.md", "The gull.\n");
  RunResult dry = run({"ingest", "-n", "docs"});
  EXPECT_EQ(dry.code, 0) << dry;
  ASSERT_EQ(dry.lines().size(), 2u) << "a line a file, whatever its name" << dry;
  EXPECT_TRUE(dry.lines()[0].starts_with("new ") && has(dry.lines()[0], "docs/heron.md")) << dry;
  EXPECT_TRUE(has(dry.lines()[1], "docs/two\\nlines.md")) << dry;
  EXPECT_FALSE(has(dry.err, "chunks")) << dry;
  ASSERT_EQ(run({"ingest", "docs"}).code, 0);
  home_.write("docs/heron.md", "The grey heron.\n");
  dry = run({"ingest", "-n", "docs"});
  ASSERT_EQ(dry.lines().size(), 1u) << "what stays is not listed" << dry;
  EXPECT_TRUE(dry.out.starts_with("changed ")) << dry;
  EXPECT_EQ(run({"doc", "list"}).lines().size(), 2u);
  RunResult found = run({"search", "--mode", "bm25", "gull"});
  EXPECT_EQ(found.out, "docs/two\\nlines.md:1: The gull.\n") << found;
}

TEST_F(Verbs, OnlySourcesAreThePassagesWithTheirPlaces) {
  ingest_birds();
  std::vector<std::string> ask = {"ask", "-k", "birds", "--only-sources", "Where is the heron?"};
  RunResult text = run(ask);
  EXPECT_TRUE(text.out.starts_with("[1] docs/heron.md:")) << text;
  ask.emplace_back("--json");
  Json json = json_of(run(ask));
  EXPECT_EQ(json["schema"], 1) << json;
  EXPECT_EQ(json["passages"][0]["id"], 1) << json;
  EXPECT_TRUE(has(json["passages"][0]["path"], "heron.md")) << json;
  EXPECT_GT(json["passages"][0]["line"], 0) << json;
  EXPECT_TRUE(has(json["passages"][0]["text"], "stands in the reed")) << json;
}

TEST_F(Verbs, AnotherKindOfPlaceThanALineIsNamed) {
  home_.write("docs/birds.ipynb",
              R"json({"cells": [{"cell_type": "markdown", "source": "The gull cries."},
              {"cell_type": "markdown", "source": "The heron stands in the reed."}], "nbformat": 4})json");
  ASSERT_EQ(run({"ingest", "docs"}).code, 0);
  RunResult found = run({"search", "--mode", "bm25", "heron"});
  EXPECT_EQ(found.out, "docs/birds.ipynb › cell 2: The heron stands in the reed.\n") << found;
  EXPECT_EQ(json_of(run({"search", "--mode", "bm25", "--json", "heron"}))["results"][0]["member"],
            "cell 1")
      << "the chunk's beginning";
  ASSERT_NE(run({"ask", "--max-tokens", "2", "Where does the heron stand?"}).code, 2);
  RunResult explained = run({"explain"});
  EXPECT_TRUE(has(explained.out, "docs/birds.ipynb › cell 1\n")) << "a candidate" << explained;
  EXPECT_TRUE(has(explained.out, "docs/birds.ipynb › cell 1  score")) << "a passage" << explained;
}

// --- chat ----------------------------------------------------------------------------------------

TEST_F(Verbs, AResumedChatSaysItsModelAndDocumentsAndWhatIsMissing) {
  ingest_birds();
  RunResult first = run({"chat", "-s", "pond", "-k", "birds", "--max-tokens", "4"},
                        "Where does the heron stand?\n");
  ASSERT_EQ(first.code, 0) << first;
  EXPECT_FALSE(has(first.err, "session pond")) << first;
  EXPECT_EQ(run({"chat", "-c", "-s", "pond"}).code, 2) << "which of the two?";
  RunResult again = run({"chat", "-s", "pond"});
  EXPECT_TRUE(has(again.err, "session pond (2 messages), model ")) << again;
  EXPECT_TRUE(has(again.err, "smollm2") && has(again.err, "documents: birds")) << again;
  EXPECT_FALSE(has(again.err, "warning")) << again;

  APUD_REQUIRE_MODEL(kChatModel);
  RunResult other = run({"chat", "-s", "pond", "-m", model_path(kChatModel)});
  EXPECT_TRUE(has(other.err, "made with another model: its text is kept")) << other;
  ASSERT_EQ(run({"coll", "rm", "birds"}).code, 0);
  RunResult missing = run({"chat", "-s", "pond"});
  EXPECT_EQ(missing.code, 0) << missing;
  EXPECT_TRUE(has(missing.err, "collection birds of this session no longer exists")) << missing;
  EXPECT_TRUE(has(run({"session", "show", "pond"}).out, "Where does the heron stand?"));
}

TEST_F(Verbs, UndoTakesThePassagesBackToo) {
  ingest_birds();
  RunResult r = run({"chat", "-k", "birds", "--max-tokens", "4"},
                    "Where does the heron stand?\n/evidence\n/undo\n/evidence\n");
  ASSERT_EQ(r.code, 0) << r;
  size_t there = r.err.find("heron.md:3 · turn 1");
  ASSERT_NE(there, std::string::npos) << r;
  EXPECT_NE(r.err.find("no passages yet", there), std::string::npos) << r;
}

TEST_F(Verbs, AChatIsWarmAndCoolerWithDocuments) {
  ingest_birds();
  auto said = [&](std::vector<std::string> more) {
    std::vector<std::string> args = {"chat", "--no-save", "--seed", "7", "--max-tokens", "24"};
    args.insert(args.end(), more.begin(), more.end());
    RunResult r = run(args, "Where does the heron stand, and what does it do there?\n");
    EXPECT_EQ(r.code, 0) << r;
    return r.out;
  };
  std::string warm = said({"--no-docs", "-t", "0.7"}), cool = said({"-k", "birds", "-t", "0.2"});
  EXPECT_NE(warm, said({"--no-docs", "-t", "0.2"})) << "the two can be told apart";
  EXPECT_NE(cool, said({"-k", "birds", "-t", "0.7"})) << "here, too";
  EXPECT_EQ(said({"--no-docs"}), warm);
  EXPECT_EQ(said({"-k", "birds"}), cool);
}

TEST_F(Verbs, TheOldestTurnsLeaveAFullWindowWithOneLine) {
  std::string questions;
  for (int i = 0; i < 6; ++i)
    questions += "Question " + std::to_string(i) +
                 " of a long talk about herons, kestrels, owls and gulls that stand, hover, sleep "
                 "and cry by the pond, over the field, by day and by night: what do they eat?\n";
  RunResult r =
      run({"chat", "-s", "long", "--no-docs", "--ctx", "256", "--max-tokens", "16"}, questions);
  ASSERT_EQ(r.code, 0) << r;
  EXPECT_TRUE(std::regex_search(r.err, std::regex("window full: the oldest [0-9]+ messages left")))
      << r;
  Json session = json_of(run({"session", "export", "long", "--format", "json"}));
  EXPECT_EQ(session["conversation"]["turns"].size(), 12u) << "the history keeps them";
}

/// What a session's export holds: "role: content" of each turn.
std::vector<std::string> turns_of(const Json& session) {
  std::vector<std::string> turns;
  for (const Json& turn : session["conversation"]["turns"])
    turns.push_back(turn["role"].get<std::string>() + ": " + turn["content"].get<std::string>());
  return turns;
}

TEST_F(Verbs, TheCommandsOfAChat) {
  RunResult r = run({"chat", "-s", "talk", "--no-docs", "--stats", "--max-tokens", "4"},
                    "Name a bird.\n/edit Name a fish.\n/regen\n/system Be brief.\n"
                    "Name a tree.\n/undo\n/save named\n/exit\nNot reached.\n");
  EXPECT_EQ(r.code, 0) << r;
  int answers = 0;
  for (const std::string& line : r.error_lines()) answers += has(line, " reused · ");
  EXPECT_EQ(answers, 4) << "bird, fish, fish again, tree" << r;
  Json session = json_of(run({"session", "export", "named", "--format", "json"}));
  std::vector<std::string> turns = turns_of(session);
  ASSERT_EQ(turns.size(), 2u) << session;
  EXPECT_EQ(turns[0], "user: Name a fish.");
  EXPECT_EQ(session["conversation"]["system"], "Be brief.");
  RunResult export_failed =
      run({"chat", "-s", "named"}, "/export ~/talk.md\n/export /no/such/folder/x.md\n/stats\n");
  EXPECT_EQ(export_failed.code, 0) << "an error of a command does not end the chat";
  EXPECT_TRUE(has(export_failed.err, "error: cannot create /no/such/folder/x.md: "))
      << export_failed;
  EXPECT_TRUE(has(home_.shell("cat talk.md").out, "Name a fish.")) << export_failed;
  EXPECT_TRUE(has(export_failed.err, "no answer yet")) << export_failed;
}

TEST_F(Verbs, SessionsCollectionsAndDocumentsAreListedShownAndRenamed) {
  ingest_birds();
  ASSERT_EQ(run({"chat", "-s", "pond", "-k", "birds", "--max-tokens", "4"}, "Which bird?\n").code,
            0);
  EXPECT_TRUE(has(run({"session", "list"}).out, "pond"));
  EXPECT_TRUE(has(run({"session", "show", "pond"}).out, "Which bird?"));
  EXPECT_TRUE(has(run({"session", "export", "pond"}).out, "# pond"));
  EXPECT_EQ(run({"session", "fork", "pond", "copy"}).code, 0);
  EXPECT_EQ(run({"session", "rename", "copy", "pond"}).code, 2) << "the name is taken";
  EXPECT_EQ(run({"session", "rename", "copy", "lake"}).code, 0);
  EXPECT_EQ(run({"session", "show", "copy"}).code, 66);
  EXPECT_TRUE(has(run({"session", "show", "lake"}).out, "Which bird?"));

  EXPECT_TRUE(has(run({"coll", "list"}).out, "birds"));
  // What `chat --memory` keeps there is no place for documents.
  EXPECT_EQ(run({"coll", "rename", "birds", "_chats"}).code, 2);
  EXPECT_EQ(run({"ingest", "docs", "-k", "_chats"}).code, 2);
  EXPECT_EQ(run({"coll", "rename", "birds", "waders"}).code, 0);
  EXPECT_EQ(run({"coll", "info", "birds"}).code, 66);
  EXPECT_TRUE(has(run({"coll", "info", "waders"}).out, "e5-small-q4"));
  EXPECT_TRUE(has(run({"doc", "list", "-k", "waders"}).out, "docs/heron.md"));
  EXPECT_TRUE(has(run({"doc", "show", "-k", "waders", "heron.md"}).out, "stands in the reed"));
  auto index_bytes = [&] {
    return std::atoi(home_.shell("cat .cache/apud/index/* 2>/dev/null | wc -c").out.c_str());
  };
  EXPECT_EQ(run({"search", "-k", "waders", "heron"}).code, 0);
  int before = index_bytes();
  EXPECT_EQ(run({"doc", "rm", "-k", "waders", "heron.md"}).code, 0);
  EXPECT_LT(index_bytes(), before) << "it held the document's vector";
  EXPECT_GT(index_bytes(), 0);
  RunResult gone = run({"search", "-k", "waders", "heron"});
  EXPECT_EQ(gone.code, 1) << gone;
  EXPECT_EQ(gone.err, "") << "nothing to warn of" << gone;
  EXPECT_EQ(run({"coll", "rm", "waders"}).code, 0);
  EXPECT_EQ(index_bytes(), 0);
}

// --- what a run says and takes -------------------------------------------------------------------

TEST_F(Verbs, OffATerminalTheReceiptComesOnRequestAndThePathIsTheOneAskedFor) {
  std::vector<std::string> args = {"ask",          "--no-docs", "--cpu-isa",   "avx2",
                                   "--max-tokens", "4",         "Name a bird."};
  RunResult plain = run(args);
  EXPECT_EQ(plain.code, 0) << plain;
  EXPECT_FALSE(has(plain.err, "reused")) << plain;
  args.push_back("--stats");
  RunResult stats = run(args);
  EXPECT_TRUE(std::regex_search(stats.err, std::regex("[0-9]+ reused · [0-9]+ read · [0-9]+ ")))
      << stats;
  Json caches = json_of(run({"cache", "list", "--json"}))["caches"];
  ASSERT_EQ(caches.size(), 1u) << caches;
  EXPECT_TRUE(has(caches[0]["executor"], "avx2")) << caches;
}

TEST_F(Verbs, SamplingOptionsReachTheEngine) {
  auto said = [&](std::vector<std::string> more) {
    std::vector<std::string> args = {"ask", "--no-docs", "--no-save", "--max-tokens", "24"};
    args.insert(args.end(), more.begin(), more.end());
    args.push_back("Tell a story of a heron.");
    RunResult r = run(args);
    EXPECT_EQ(r.code, 0) << r;
    return r.out;
  };
  const std::string greedy = said({});
  std::string hot = said({"-t", "5", "--seed", "1"});
  EXPECT_NE(hot, greedy);
  EXPECT_EQ(said({"-t", "5", "--seed", "1"}), hot) << "the seed reproduces it";
  EXPECT_NE(said({"-t", "5", "--seed", "2"}), hot);
  for (const std::vector<std::string>& narrow : std::vector<std::vector<std::string>>{
           {"--top-k", "1"}, {"--top-p", "0"}, {"--min-p", "1"}}) {
    std::vector<std::string> args = {"-t", "5", "--seed", "1"};
    args.insert(args.end(), narrow.begin(), narrow.end());
    EXPECT_EQ(said(args), greedy) << narrow[0];
  }
  for (const char* penalty : {"--repetition-penalty", "--presence-penalty", "--frequency-penalty"})
    EXPECT_NE(said({penalty, "10"}), greedy) << penalty;
  std::string stop = greedy.substr(greedy.find(' '), 7);  // in the middle of words
  std::string stopped = said({"--stop", stop});
  EXPECT_EQ(stopped, greedy.substr(0, greedy.find(stop)) + "\n");
  EXPECT_LT(said({"--max-tokens", "3"}).size(), greedy.size());
}

/// The bytes of a tiny random model at `path`.
std::string random_model(const std::string& path) {
  std::string command = "python3 " + std::string(source_dir()) + "/scripts/make-random-model " +
                        path + " --shape tiny-llama 2>/dev/null";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_F(Verbs, NamesInsideAModelAreShownNotObeyed) {  // G6
  std::string path = (home_.path() / "evil.gguf").string(), bytes = random_model(path);
  size_t name = bytes.find("random tiny-llama");
  ASSERT_NE(name, std::string::npos);
  home_.write("evil.gguf", bytes.replace(name, 17, "x\x1b]52;c;cm0=\x07\x1b[2J"));
  RunResult info = run({"model", "info", path});
  EXPECT_EQ(info.code, 0) << info;
  expect_no_escape(info);
  EXPECT_TRUE(has(info.out, "x\\x1b]52")) << info;
}

TEST_F(Verbs, ASlowMachineSaysThatItReadsLess) {
  std::string page;
  for (int i = 0; i < 400; ++i)
    page += "The heron number " + std::to_string(i) + " stands in the reed of its pond.\n\n";
  home_.write("docs/herons.md", page);
  ASSERT_EQ(run({"ingest", "docs"}).code, 0);
  ASSERT_EQ(run({"ask", "--max-tokens", "1", "Where do herons stand?"}).code, 0);
  // As if 60 tokens a second had been measured: ten seconds of reading hold 512 of the steps.
  std::string speeds = (home_.path() / ".cache/apud/speeds.json").string();
  std::ifstream in(speeds);
  Json all = Json::parse(in);
  ASSERT_EQ(all.size(), 1u) << all;
  all.begin().value() = {{"evidence", 512}, {"rate", 60.0}, {"contradicted", 0}};
  home_.write(".cache/apud/speeds.json", all.dump());
  RunResult r = run({"ask", "--json", "--max-tokens", "1", "Where do herons stand?"});
  Json json = json_of(r);
  EXPECT_EQ(json["retrieval"]["budget"], 512) << r;
  EXPECT_TRUE(has(r.err, "(budget 512: this machine reads 60 tokens/s)")) << r;
}

TEST_F(Verbs, AGpuThatIsNotThereIsUnavailable) {
  if (std::filesystem::exists("/proc/driver/nvidia/version")) GTEST_SKIP() << "there is one";
  RunResult r = run({"ask", "--no-docs", "--device", "cuda", "Which bird?"});
  EXPECT_EQ(r.code, 69) << r;
  EXPECT_TRUE(r.err.starts_with("error: --device cuda: ")) << r;
  EXPECT_TRUE(has(r.err, "apud doctor")) << r;
}

TEST_F(Verbs, ThinkingIsOffUnlessAskedFor) {
  // A random model whose template is overwritten, in its place, by one that may think.
  std::string path = (home_.path() / "thinks.gguf").string(), bytes = random_model(path);
  size_t begin = bytes.find("{% for message in messages %}");
  const std::string end = "{{ '<|im_start|>assistant\\n' }}{% endif %}";
  ASSERT_NE(begin, std::string::npos);
  size_t size = bytes.find(end, begin) + end.size() - begin;
  std::string thinks =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' "
      "}}{% endfor %}{{ 'assistant' }}{% if not enable_thinking %}{{ '<think></think>' }}"
      "{% endif %}";
  ASSERT_LE(thinks.size() + 4, size);
  thinks += "{#" + std::string(size - thinks.size() - 4, ' ') + "#}";
  home_.write("thinks.gguf", bytes.replace(begin, size, thinks));

  std::vector<std::string> ask = {"ask", "--no-docs", "--show-prompt", "-m", path, "Which bird?"};
  RunResult off = run(ask);
  EXPECT_TRUE(off.out.ends_with("assistant<think></think>\n")) << off;
  ask.insert(ask.end(), {"--think", "on"});
  RunResult on = run(ask);
  EXPECT_TRUE(on.out.ends_with("assistant\n")) << on;
  auto prompt_of = [&](const std::string& think) {
    RunResult r =
        run({"batch", "--no-docs", "--no-save", "--max-tokens", "1", "-m", path, "--think", think},
            "Which bird?\n");
    return json_lines(r.out).at(0)["usage"]["prompt"].get<int>();
  };
  EXPECT_GT(prompt_of("off"), prompt_of("on"));
}

TEST_F(Verbs, VerboseTellsPassagesScoresTimesAndMemory) {
  ingest_birds();
  std::vector<std::string> args = {"ask",          "-k", "birds",
                                   "--max-tokens", "4",  "Where is the heron?"};
  EXPECT_FALSE(has(run(args).err, "score"));
  args.push_back("-v");
  RunResult r = run(args);
  for (const char* part : {"passage [1] ", "heron.md", "score ", "first token ", " a token",
                           "total ", "KV memory", "apud explain "})
    EXPECT_TRUE(has(r.err, part)) << part << r;
}

TEST_F(Verbs, TextsFromSeveralFilesAreEvidence) {
  home_.write("a.txt", "The heron stands in the reed.\n");
  home_.write("b.txt", "The owl sleeps by day.\n");
  RunResult r = run({"ask", "--no-docs", "--show-prompt", "-f", "a.txt", "-f", "b.txt", "-f", "-",
                     "Which birds?"},
                    "The gull cries.\n");
  EXPECT_EQ(r.code, 0) << r;
  for (const char* text : {"stands in the reed", "sleeps by day", "gull cries"})
    EXPECT_TRUE(has(r.out, text)) << text << r;
  // A pipe is read as a file is: its encoding is found out, a page is a page, nothing is no text.
  std::vector<std::string> piped = {"ask", "--no-docs", "--show-prompt", "-f", "-", "Which birds?"};
  r = run(piped,
          "\xB0\xD7\xEF\xD8\xB5\xC4\xD1\xC0\xC4\xEA\xC1\xE4\xA1\xA3\xCB\xFC\xD4\xDA\xBA\xFE"
          "\xB1\xDF\xD0\xDD\xCF\xA2\xA3\xAC\xC3\xBF\xCC\xEC\xB3\xD4\xD3\xE3\xA1\xA3\n");
  EXPECT_TRUE(has(r.out, "它在湖边休息，每天吃鱼。")) << r;
  r = run(piped, "<!DOCTYPE html><html><body><p>The <b>crane</b> dances.</p></body></html>");
  EXPECT_TRUE(has(r.out, "The crane dances.") && !has(r.out, "<b>")) << r;
  for (const std::string& nothing : {std::string(), std::string(400, '\0')}) {
    r = run(piped, nothing);
    EXPECT_EQ(r.code, 65) << r;
    EXPECT_TRUE(has(r.err, "standard input: ")) << r;
  }
  r = home_.shell(
      "\"$APUD\" ask --no-docs --show-prompt -f <(echo The stork nods.) \"Which birds?\"");
  EXPECT_TRUE(has(r.out, "The stork nods.")) << r;
  r = run({"ask", "--no-docs", "-f", ".", "Which birds?"});
  EXPECT_EQ(r.code, 66) << r;
  EXPECT_TRUE(has(r.err, "apud ingest takes folders")) << r;
}

TEST_F(Verbs, ModelInfoTellsWhatTheModelIsMadeOf) {
  RunResult r = run({"model", "info", model_path(kTinyModel)});
  EXPECT_EQ(r.code, 0) << r;
  for (const char* part : {"llama", "134,515,008", "Q8_0", "at 4,096 tokens", "GFLOP"})
    EXPECT_TRUE(has(r.out, part)) << part << r;
  EXPECT_FALSE(has(r.out, "rms_norm")) << r;
  RunResult ops = run({"model", "info", model_path(kTinyModel), "--ops"});
  EXPECT_TRUE(has(ops.out, "rms_norm") && has(ops.out, "attention")) << ops;
}

// --- batch ---------------------------------------------------------------------------------------

TEST_F(Verbs, ALineOfABatchHasItsOwnDocumentsSystemPromptAndLength) {
  ingest_birds();
  std::string system;
  for (int i = 0; i < 40; ++i) system += "Answer like a heron. ";
  RunResult r = run({"batch", "--max-tokens", "8"},
                    "{\"question\":\"Where does the heron stand?\",\"k\":\"birds\"}\n"
                    "{\"question\":\"Name a bird.\"}\n"
                    "{\"question\":\"Name a bird.\",\"system\":\"" +
                        system + "\"}\n{\"question\":\"Name a bird.\",\"max_tokens\":1}\n");
  std::vector<Json> lines = json_lines(r.out);
  ASSERT_EQ(lines.size(), 4u) << r;
  EXPECT_EQ(lines[0]["retrieval"]["candidates"], 1) << lines[0];
  EXPECT_TRUE(lines[1]["retrieval"].empty()) << lines[1];
  EXPECT_GT(lines[1]["usage"]["generated"], 1) << lines[1];
  EXPECT_GT(lines[2]["usage"]["prompt"], lines[1]["usage"]["prompt"].get<int>() + 100) << lines[2];
  EXPECT_EQ(lines[3]["usage"]["generated"], 1) << lines[3];
}

TEST_F(Verbs, AFailedQuestionOfABatchIsAnErrorLine) {
  std::string endless;
  for (int i = 0; i < 400; ++i) endless += "heron ";
  RunResult r = run({"batch", "--no-docs", "--no-save", "--ctx", "256", "--max-tokens", "2"},
                    "{\"id\":\"long\",\"question\":\"" + endless + "\"}\nName a bird.\n");
  EXPECT_EQ(r.code, 65) << r;
  std::vector<Json> lines = json_lines(r.out);
  ASSERT_EQ(lines.size(), 2u) << r;
  EXPECT_EQ(lines[0]["id"], "long") << lines[0];
  EXPECT_EQ(lines[0]["error"]["code"], "usage") << lines[0];
  EXPECT_TRUE(lines[1].contains("answer")) << "the run goes on" << lines[1];
  EXPECT_EQ(lines[1]["index"], 1) << lines[1];
}

TEST_F(Verbs, ABatchWritesAnAnswerWhenItsTurnComes) {
  RunResult r = run({"batch", "--no-docs", "--jobs", "1"},
                    "{\"question\":\"Name a bird.\",\"max_tokens\":1}\n"
                    "{\"question\":\"Count from one to three hundred in words.\"}\n",
                    [](pid_t pid, const RunResult& now) {
                      if (!has(now.out, "\n")) return true;
                      ::kill(pid, SIGKILL);
                      return false;
                    });
  EXPECT_EQ(r.code, 128 + SIGKILL) << "the first answer came before the end" << r;
  EXPECT_EQ(r.lines().size(), 1u) << r;
}

TEST_F(Verbs, SeveralQuestionsOfABatchRunAtOnce) {
  std::string input;
  for (int i = 0; i < 6; ++i)
    input += "Tell a long story of heron number " + std::to_string(i) + ".\n";
  RunResult r = run({"batch", "--no-docs", "--no-save", "--max-tokens", "24", "--stats"}, input);
  double sum = 0;
  for (const Json& line : json_lines(r.out)) sum += line["timing"]["total"].get<double>();
  EXPECT_TRUE(std::regex_search(
      r.err, std::regex("6 answered in [0-9.]+ s · [0-9.]+ tok/s · [2-9] at once")))
      << r;
  EXPECT_GT(sum, 1.2 * r.seconds) << "one after the other they take no longer than the run" << r;
}

}  // namespace
}  // namespace apud::test
