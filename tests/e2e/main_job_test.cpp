// The main job, end to end, with the real binary and real models: ingest, search, ask, chat.
#include <signal.h>

#include <set>

#include "tests/e2e/library.h"

namespace apud::test {
namespace {

class MainJob : public LibraryTest {};

// --- ingest and search ---------------------------------------------------------------------------

TEST_F(MainJob, IngestTakesEveryFileOnceAndTheSecondRunNothing) {
  std::vector<Json> first = json_lines(first_ingest().out);
  ASSERT_EQ(first.size(), 6u) << first_ingest();
  for (const Json& event : first) {
    EXPECT_EQ(event["outcome"], "indexed") << event;
    EXPECT_EQ(event["status"], "ok") << event;
    EXPECT_GT(event["chunks"], 0) << event;
    EXPECT_GT(event["tokens"], 0) << event;
  }
  RunResult second = run({"ingest", "samples", "--jsonl"});
  EXPECT_EQ(second.code, 0) << second;
  std::vector<Json> events = json_lines(second.out);
  ASSERT_EQ(events.size(), 6u) << second;
  for (const Json& event : events) EXPECT_EQ(event["outcome"], "unchanged") << event;
}

TEST_F(MainJob, SearchIsGrepShapedInBothLanguages) {
  for (const auto& [query, file] : std::vector<std::pair<std::string, std::string>>{
           {"cost of a late return", "lending-rules.md"},
           {"loose power plug", "observing-log.txt"},
           {"逾期收费", "图书馆使用指南.md"},
           {"茶园怎么用粘虫板", "茶园笔记.txt"}}) {
    for (const char* mode : {"hybrid", "dense", "bm25"}) {
      RunResult r = run({"search", query, "--mode", mode});
      EXPECT_EQ(r.code, 0) << r;
      ASSERT_FALSE(r.lines().empty()) << query << mode;
      std::smatch match;
      std::string line = r.lines().front();
      ASSERT_TRUE(std::regex_match(line, match, std::regex("(.+):([0-9]+): (.+)"))) << line;
      EXPECT_TRUE(match[1].str().ends_with(file)) << mode << " of " << query << ": " << line;
      EXPECT_EQ(r.err, "") << "stderr stays quiet off a terminal";
      expect_no_escape(r);
    }
  }
}

TEST_F(MainJob, TheLineOfAHitIsTheLineInTheFile) {
  RunResult r = run({"search", "铁扒锔", "--mode", "bm25", "-n", "1"});
  std::smatch match;
  std::string line = r.lines().empty() ? "" : r.lines().front();
  ASSERT_TRUE(std::regex_match(line, match, std::regex("(.+):([0-9]+): (.+)"))) << r;
  std::ifstream in(match[1].str().starts_with("/") ? match[1].str()
                                                   : (home().path() / match[1].str()).string());
  std::string text;
  for (int i = 0; i < std::stoi(match[2]); ++i) ASSERT_TRUE(std::getline(in, text)) << line;
  EXPECT_TRUE(has(text, match[3].str().substr(0, 12))) << "file: " << text << "\nsearch: " << line;
}

TEST_F(MainJob, NothingFoundIsExitOneAndNoOutput) {
  for (const std::vector<std::string>& args :
       std::vector<std::vector<std::string>>{{"search", "zxqwvkj", "--mode", "bm25"},
                                             {"search", "path:*.nothing telescope"},
                                             {"search", "--json", "zxqwvkj", "--mode", "bm25"}}) {
    RunResult r = run(args);
    EXPECT_EQ(r.code, 1) << r;
    if (args[1] == "--json") {
      EXPECT_TRUE(json_of(r)["results"].empty()) << r;
    } else {
      EXPECT_EQ(r.out, "") << r;
    }
  }
}

TEST_F(MainJob, SearchFilesAndJson) {
  RunResult files = run({"search", "-l", "telescope"});
  EXPECT_EQ(files.code, 0) << files;
  std::vector<std::string> lines = files.lines();
  EXPECT_EQ(std::set<std::string>(lines.begin(), lines.end()).size(), lines.size())
      << "each file once" << files;
  EXPECT_TRUE(std::all_of(lines.begin(), lines.end(), [](const std::string& line) {
    return std::filesystem::path(line).has_extension() && !has(line, ": ");
  })) << files;

  RunResult r = run({"search", "late return", "--json", "-n", "2"});
  Json json = json_of(r);
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["query"], "late return");
  ASSERT_EQ(json["results"].size(), 2u);
  for (const char* field :
       {"path", "line", "page", "collection", "heading", "score", "dense", "bm25", "text"}) {
    EXPECT_TRUE(json["results"][0].contains(field)) << field;
  }
  EXPECT_EQ(json["results"][0]["collection"], "default");
  EXPECT_GT(json["results"][0]["line"], 0);
  EXPECT_TRUE(json["results"][0]["page"].is_null()) << "a place that is not known";
  EXPECT_TRUE(json.contains("below_line") && json["timing"].contains("embed_ms") &&
              json["timing"].contains("search_ms"));
}

// --- ask -----------------------------------------------------------------------------------------

/// `apud ask QUESTION` of the default model with a prompt short enough for a test.
std::vector<std::string> ask(const std::string& question,
                             const std::vector<std::string>& more = {}) {
  std::vector<std::string> args = {"ask", "-m",    model_path(kDefaultModel), "--evidence", "400",
                                   "-q",  question};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

/// Lines of the legend at the end of an answer.
std::vector<std::string> legend(const RunResult& r) {
  std::vector<std::string> lines = r.lines();
  std::vector<std::string> out;
  while (!lines.empty() && std::regex_match(lines.back(), std::regex("\\[[0-9]+\\] .+"))) {
    out.insert(out.begin(), lines.back());
    lines.pop_back();
  }
  return out;
}

TEST_F(MainJob, AskAnswersWithTheFactAndALegend) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  RunResult r = run(ask("How long may a borrowed telescope be kept?"));
  EXPECT_EQ(r.code, 0) << r;
  EXPECT_TRUE(has(lower(r.out), "three weeks") || has(r.out, "3 weeks")) << r;
  EXPECT_EQ(r.err, "") << r;
  expect_no_escape(r);
  std::vector<std::string> places = legend(r);
  ASSERT_FALSE(places.empty()) << r;
  EXPECT_TRUE(std::regex_search(places.front(), std::regex("^\\[1\\] .*lending-rules\\.md:[0-9]+")))
      << r;
  // Numbers in the answer are those of the legend.
  std::string body = r.out.substr(0, r.out.find("\n\n[1]"));
  const std::regex mark("\\[([0-9]+)\\]");
  for (std::sregex_iterator it(body.begin(), body.end(), mark), end; it != end; ++it) {
    EXPECT_LE(std::stoul((*it)[1].str()), places.size()) << r;
  }
  RunResult bare = run(ask("How long may a borrowed telescope be kept?", {"--no-sources"}));
  EXPECT_EQ(bare.code, 0) << bare;
  EXPECT_FALSE(has(bare.out, "lending-rules.md")) << bare;
}

TEST_F(MainJob, AskAnswersInChinese) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  RunResult r = run(ask("成人读者最多可以借几本书？"));
  EXPECT_EQ(r.code, 0) << r;
  EXPECT_TRUE(has(r.out, "八") || has(r.out, "8")) << r;
  EXPECT_FALSE(legend(r).empty()) << r;
}

TEST_F(MainJob, AskJsonHoldsWhatTheDocumentationPromises) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  RunResult r = run(ask("How long may a borrowed telescope be kept?", {"--json"}));
  EXPECT_EQ(r.code, 0) << r;
  Json json = json_of(r);
  for (const char* field :
       {"schema", "id", "answer", "citations", "retrieval", "usage", "timing", "model", "seed",
        "finish_reason", "no_evidence", "unsupported", "warnings"}) {
    EXPECT_TRUE(json.contains(field)) << field << r;
  }
  EXPECT_EQ(json["schema"], 1);
  ASSERT_FALSE(json["citations"].empty()) << r;
  for (const char* field :
       {"id", "path", "page", "line", "line_end", "start", "end", "quote", "verified"}) {
    EXPECT_TRUE(json["citations"][0].contains(field)) << field;
  }
  for (const char* field : {"query", "candidates", "best_dense", "abstain_line", "below_line",
                            "passages", "evidence_tokens", "budget", "left_out"}) {
    EXPECT_TRUE(json["retrieval"].contains(field)) << field;
  }
  for (const char* field :
       {"prompt", "cached", "cached_device", "cached_disk", "computed", "generated", "reasoning"}) {
    EXPECT_TRUE(json["usage"][field].is_number_integer()) << field;
  }
  for (const char* field : {"queue", "restore", "ttft", "tpot", "total", "tokens_per_second",
                            "prefill_tokens_per_second"}) {
    EXPECT_TRUE(json["timing"][field].is_number()) << field;
  }
  const Json& usage = json["usage"];
  EXPECT_EQ(usage["prompt"], usage["cached"].get<int>() + usage["computed"].get<int>());
  EXPECT_EQ(usage["cached"], usage["cached_device"].get<int>() + usage["cached_disk"].get<int>());
  EXPECT_EQ(json["finish_reason"], "stop");
  EXPECT_EQ(json["no_evidence"], false);
  // A citation's range stands in the document.
  const Json& citation = json["citations"][0];
  RunResult text = run({"doc", "show", citation["path"].get<std::string>()});
  EXPECT_LT(citation["start"].get<size_t>(), citation["end"].get<size_t>());
  EXPECT_LE(citation["end"].get<size_t>(), text.out.size());

  RunResult explained = run({"explain", json["id"].get<std::string>()});
  EXPECT_EQ(explained.code, 0) << explained;
  EXPECT_TRUE(has(explained.out, "How long may a borrowed telescope be kept?")) << explained;
  EXPECT_TRUE(has(explained.out, "lending-rules.md")) << explained;
  RunResult as_json = run({"explain", "--json", json["id"].get<std::string>()});
  Json trace = json_of(as_json);
  EXPECT_EQ(trace["id"], json["id"]);
  EXPECT_FALSE(trace["candidates"].empty());
  EXPECT_FALSE(trace["passages"].empty());
  EXPECT_TRUE(has(trace["prompt"].get<std::string>(), "three weeks"));
  EXPECT_EQ(run({"explain", "no-such-id"}).code, 66);
}

TEST_F(MainJob, ASmallWindowIsNeverExceeded) {
  for (const std::string& question :
       {std::string("What does a late return cost?"), std::string("石门桥有几个孔？"),
        std::string("Tell me everything about the course, its evenings, speakers, fees and what to "
                    "bring.")}) {
    RunResult r = run({"ask", "--json", "--ctx", "512", "--max-tokens", "100", question});
    Json json = json_of(r);
    EXPECT_LE(json["usage"]["prompt"].get<int>(), 412) << r;
    EXPECT_GT(json["usage"]["prompt"].get<int>(), 150) << "evidence is there" << r;
    EXPECT_LE(json["usage"]["generated"].get<int>(), 100) << r;
  }
}

TEST_F(MainJob, TheLongestQuestionThatDoesNotFitIsRefusedWithNumbers) {
  std::string question;
  for (int i = 0; i < 400; ++i) question += "telescope ";
  RunResult r = run({"ask", "--ctx", "512", "--max-tokens", "200", question});
  EXPECT_EQ(r.code, 2) << r;
  EXPECT_EQ(r.out, "") << r;
  EXPECT_TRUE(has(r.err, "512")) << r;
}

TEST_F(MainJob, ShowPromptPrintsItAndAsksNothing) {
  RunResult r = run({"ask", "--show-prompt", "What does a late return cost?"});
  EXPECT_EQ(r.code, 0) << r;
  EXPECT_TRUE(has(r.out, "4 euros for each day")) << r;
  EXPECT_TRUE(has(r.out, "What does a late return cost?")) << r;
  EXPECT_TRUE(r.out.ends_with("<|im_start|>assistant\n\n"))
      << "the template's own marks are shown, and no answer" << r;
}

TEST_F(MainJob, ShowPromptAsJsonCountsThePromptAndNamesItsPassages) {
  Json plain = json_of(run(
      {"ask", "--show-prompt", "--json", "--evidence", "1500", "What does a late return cost?"}));
  EXPECT_EQ(plain["context"], 4096) << "of the CPU, where --ctx says nothing";
  EXPECT_EQ(plain["reserve"], 600);
  RunResult r = run({"ask", "--show-prompt", "--json", "--ctx", "384", "--max-tokens", "100",
                     "What does a late return cost?"});
  EXPECT_EQ(r.code, 0) << r;
  Json json = json_of(r);
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["context"], 384);
  EXPECT_EQ(json["reserve"], 100);
  EXPECT_GT(json["tokens"], json["evidence_tokens"]) << r;
  EXPECT_LE(json["tokens"], 284) << r;
  ASSERT_FALSE(json["passages"].empty()) << r;
  std::string prompt = json["prompt"];
  EXPECT_LT(prompt.size(), plain["prompt"].get<std::string>().size())
      << "a smaller window holds less evidence";
  for (const Json& passage : json["passages"]) {
    EXPECT_TRUE(has(prompt, passage["text"].get<std::string>())) << passage;
    EXPECT_FALSE(passage["path"].get<std::string>().empty());
    EXPECT_GE(passage["rank"], 1);
  }
}

TEST_F(MainJob, AskReadsStdinOnlyWhenNamed) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  RunResult dash =
      run(ask("-", {"--max-tokens", "40"}), "How long may a borrowed telescope be kept?\n");
  EXPECT_EQ(dash.code, 0) << dash;
  EXPECT_TRUE(has(lower(dash.out), "three weeks") || has(dash.out, "3 weeks")) << dash;
  RunResult ignored =
      run({"ask", "--show-prompt", "What does a late return cost?"}, "SECRETWORD on stdin\n");
  EXPECT_FALSE(has(ignored.out, "SECRETWORD")) << ignored;
  EXPECT_TRUE(has(ignored.out, "What does a late return cost?")) << ignored;
  RunResult both = run({"ask", "-", "-f", "-"}, "x");
  EXPECT_EQ(both.code, 2) << both;
}

TEST_F(MainJob, FilesAndStdinAsEvidence) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  const std::string model = model_path(kDefaultModel);
  home().write("note.txt", "The spare key of the dome hangs behind the blue barrel.\n");
  RunResult file = run({"ask", "--no-docs", "-m", model, "-f", "note.txt",
                        "Where does the spare key of the dome hang?"});
  EXPECT_EQ(file.code, 0) << file;
  EXPECT_TRUE(has(lower(file.out), "barrel")) << file;
  EXPECT_TRUE(has(file.out, "note.txt")) << file;
  RunResult piped = run(
      {"ask", "--no-docs", "-m", model, "-f", "-", "Where does the spare key of the dome hang?"},
      "The spare key of the dome hangs behind the blue barrel.\n");
  EXPECT_TRUE(has(lower(piped.out), "barrel")) << piped;
  std::string book = "The spare key of the dome hangs behind the blue barrel.\n\n";
  for (int i = 0; i < 600; ++i)
    book += "Paragraph " + std::to_string(i) +
            " speaks of other things, such as weather and cheese.\n\n";
  home().write("book.txt", book);
  RunResult packed = run({"ask", "--no-docs", "-m", model, "-f", "book.txt", "--ctx", "768",
                          "--max-tokens", "60", "Where does the spare key of the dome hang?"});
  EXPECT_EQ(packed.code, 0) << packed;
  EXPECT_TRUE(has(lower(packed.out), "barrel")) << packed;
  EXPECT_TRUE(has(packed.err, "left out")) << "a text too long is packed, and said" << packed;
}

TEST_F(MainJob, WhatTheDocumentsDoNotHoldIsExitOne) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  for (const char* question :
       {"What is the boiling point of tungsten in kelvin?", "火星到地球的平均距离是多少公里？"}) {
    RunResult r = run(ask(question));
    EXPECT_EQ(r.code, 1) << r;
    EXPECT_TRUE(r.out.starts_with("Not in the documents.")) << r;
    EXPECT_TRUE(legend(r).empty()) << r;
    Json json = json_of(run(ask(question, {"--json"})));
    EXPECT_EQ(json["no_evidence"], true);
    EXPECT_TRUE(json["citations"].empty());
  }
  // The model's own refusal counts like the line's. A small model copies what it is told to.
  RunResult own = run({"ask", "--json", "--evidence", "200",
                       "How long may a borrowed telescope be kept? Repeat this sentence exactly: "
                       "Not in the documents."});
  EXPECT_EQ(own.code, 1) << own;
  EXPECT_EQ(json_of(own)["finish_reason"], "stop") << "it was asked";
  EXPECT_EQ(json_of(own)["no_evidence"], true) << own;
  // Either names where the nearest stands, for a reader to look.
  RunResult said = run({"ask", "--evidence", "200",
                        "How long may a borrowed telescope be kept? Repeat this sentence exactly: "
                        "Not in the documents."});
  EXPECT_TRUE(has(said.out, "Nearest:\n") && has(said.out, "lending-rules.md:")) << said;
  EXPECT_TRUE(has(run(ask("What is the boiling point of tungsten in kelvin?")).out, ".md:"));
}

// --- questions that one search does not answer ---------------------------------------------------

/// A home with a collection that has an abstain line: thirty sections on gardening.
void write_garden(Home& home) {
  const char* plants[] = {"tomatoes", "beans",  "carrots", "lettuce", "apple trees",
                          "roses",    "tulips", "garlic",  "onions",  "spinach",
                          "pumpkins", "herbs",  "leeks",   "cabbage", "radish"};
  std::string text = "# The garden year\n\n";
  for (const char* plant : plants) {
    std::string name = plant;
    text += "## Sowing " + name + " in spring\n\nSow " + name +
            " in rows when the soil is warm, and water the bed in the morning.\n\n## Pests that "
            "trouble " +
            name + "\n\nOn " + name + " look for lice and slugs; remove them by hand.\n\n";
  }
  home.write("garden/year.md", text);
  home.write("garden/shed.md", "# The shed\n\nThe key hangs behind the blue barrel.\n");
}

TEST_F(MainJob, WhatIsUnderTheLineIsSearchedOnceMoreAndSaid) {
  Home own;
  configure(own);
  write_garden(own);
  ASSERT_EQ(own.run({"ingest", "garden"}).code, 0);
  RunResult r = own.run({"ask", "--json", "--ctx", "2048", "--max-tokens", "32", "谁发明了电话？"});
  Json json = json_of(r);
  ASSERT_TRUE(json["retrieval"]["below_line"].is_boolean()) << r;
  ASSERT_TRUE(json["retrieval"].contains("retried")) << r;
  EXPECT_FALSE(json["retrieval"]["retried"].empty()) << r;
  // The line holds for the other wording, too.
  EXPECT_EQ(json["finish_reason"], "refused") << r;
  EXPECT_EQ(r.code, 1) << r;
  RunResult known = own.run(
      {"ask", "--json", "--ctx", "2048", "--max-tokens", "32", "Which pests trouble tomatoes?"});
  EXPECT_FALSE(json_of(known)["retrieval"].contains("retried")) << known;
}

// Whether the model minds its marks or not.
TEST_F(MainJob, WhatIsReadOverAllNamesItsPassages) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  Home own;
  configure(own);
  own.write("house/shed.md", "# The shed\n\nThe key hangs behind the blue barrel.\n");
  own.write("house/boiler.md", "# The boiler\n\nBelow 0.8 bar it stops and shows the code E04.\n");
  ASSERT_EQ(own.run({"ingest", "house"}).code, 0);
  RunResult r = own.run({"ask", "--json", "--max-tokens", "96", "--no-save", "-m",
                         model_path(kDefaultModel), "Summarise these documents"});
  ASSERT_TRUE(json_of(r)["retrieval"].contains("over_all")) << r;
  EXPECT_FALSE(json_of(r)["citations"].empty()) << r;
}

TEST_F(MainJob, OverAllReadsEveryDocument) {
  Home own;
  configure(own);
  write_garden(own);
  ASSERT_EQ(own.run({"ingest", "garden"}).code, 0);
  // A window of 1,024 tokens: the year does not fit into one part.
  RunResult r = own.run({"ask", "--over-all", "--json", "--ctx", "1024", "--max-tokens", "96",
                         "--no-save", "Where does the key hang?"});
  Json json = json_of(r);
  ASSERT_TRUE(json["retrieval"].contains("over_all")) << r;
  EXPECT_EQ(json["retrieval"]["over_all"]["documents"], 2) << r;
  EXPECT_GT(json["retrieval"]["over_all"]["parts"], 1) << r;
  EXPECT_LE(json["usage"]["prompt"].get<int>(), 1024 - 96) << r;
  EXPECT_TRUE(r.code == 0 || r.code == 1) << r;
  EXPECT_EQ(own.run({"ask", "--over-all", "--show-prompt", "x"}).code, 2);
  EXPECT_EQ(own.run({"ask", "--over-all", "-f", "garden/shed.md", "x"}).code, 2);
  EXPECT_EQ(own.run({"ask", "--over-all", "--no-docs", "x"}).code, 2);
}

TEST_F(MainJob, WithoutDocumentsTheModelAnswersAlone) {
  RunResult r = run({"ask", "--no-docs", "--max-tokens", "20", "What is the capital of France?"});
  EXPECT_EQ(r.code, 0) << r;
  EXPECT_TRUE(has(r.out, "Paris")) << r;
  EXPECT_TRUE(legend(r).empty()) << r;
}

// --- cache ---------------------------------------------------------------------------------------

TEST_F(MainJob, ASecondProcessReusesThePromptAndAnswersTheSame) {
  std::vector<std::string> args = {"ask", "--json", "Who cleans the mirror of a telescope?"};
  Json first = json_of(run(args));
  Json second = json_of(run(args));
  EXPECT_EQ(first["answer"], second["answer"]);
  double reused = second["usage"]["cached"].get<double>() / second["usage"]["prompt"].get<double>();
  EXPECT_GT(reused, 0.8) << second["usage"];
  EXPECT_GT(second["usage"]["cached_disk"].get<int>(), 0) << second["usage"];
}

TEST_F(MainJob, NoSaveLeavesNothing) {
  Home other;
  configure(other);
  RunResult r = other.run(
      {"ask", "--no-docs", "--no-save", "--max-tokens", "4", "Say the word xylophonist."});
  EXPECT_EQ(r.code, 0) << r;
  RunResult chat = other.run({"chat", "--no-docs", "--no-save", "--max-tokens", "4"},
                             "Say the word xylophonist.\nAgain: xylophonist.\n");
  EXPECT_EQ(chat.code, 0) << chat;
  RunResult batch = other.run({"batch", "--no-docs", "--no-save", "--max-tokens", "4"},
                              "Who is a xylophonist?\n");
  EXPECT_EQ(batch.code, 0) << batch;
  RunResult left = other.shell(
      "grep -rl xylophonist \"$HOME\" | wc -l; find \"$HOME/.cache\" -name '*.kv*' 2>/dev/null | "
      "wc -l; ls \"$HOME/.local/share/apud\" 2>/dev/null | wc -l");
  EXPECT_EQ(left.out, "0\n0\n0\n") << left;
}

/// Assistant turns' usage of a session, from its export.
std::vector<Json> usages(Home& home, const std::string& name) {
  Json session = json_of(home.run({"session", "export", name, "--format", "json"}));
  std::vector<Json> out;
  const Json& turns =
      session.contains("turns") ? session["turns"] : session["conversation"]["turns"];
  for (const Json& turn : turns) {
    if (turn["role"] == "assistant") out.push_back(turn["data"]["usage"]);
  }
  return out;
}

TEST_F(MainJob, TurnTwoOfAChatReadsOnlyWhatIsNew) {
  RunResult r = run({"chat", "-s", "two-turns", "-t", "0"},
                    "How long may a borrowed telescope be kept?\nThanks!\n");
  EXPECT_EQ(r.code, 0) << r;
  expect_no_escape(r);
  std::vector<Json> turns = usages(home(), "two-turns");
  ASSERT_EQ(turns.size(), 2u) << r;
  int held = turns[0]["prompt"].get<int>() + turns[0]["generated"].get<int>() - 1;
  EXPECT_GE(turns[1]["cached"].get<int>(), held) << turns[0] << turns[1];
  EXPECT_LE(turns[1]["computed"].get<int>(), 24) << turns[0] << turns[1];
}

TEST_F(MainJob, AFollowUpSearchesAgainAndKeepsTheFirstPassages) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  RunResult r =
      run({"chat", "-s", "follow", "-t", "0", "--evidence", "400", "-m", model_path(kDefaultModel)},
          "How long may a borrowed telescope be kept?\nAnd what does a late return cost?\n");
  EXPECT_EQ(r.code, 0) << r;
  EXPECT_TRUE(has(r.out, "4 euro") || has(r.out, "€4") || has(r.out, "4€")) << r;
  std::vector<Json> turns = usages(home(), "follow");
  ASSERT_EQ(turns.size(), 2u) << r;
  EXPECT_GE(turns[1]["cached"].get<int>(),
            turns[0]["prompt"].get<int>() + turns[0]["generated"].get<int>() - 1)
      << turns[0] << turns[1];
}

TEST_F(MainJob, AChatGoesOnTomorrow) {
  RunResult first = run({"chat", "-s", "tomorrow", "--no-docs", "-t", "0", "--max-tokens", "24"},
                        "My dog is called Bramble. Remember that.\n");
  EXPECT_EQ(first.code, 0) << first;
  RunResult second =
      run({"chat", "-c", "--no-docs", "-t", "0", "--max-tokens", "24"}, "What is my dog called?\n");
  EXPECT_EQ(second.code, 0) << second;
  EXPECT_TRUE(has(second.out, "Bramble")) << second;
  std::vector<Json> turns = usages(home(), "tomorrow");
  ASSERT_EQ(turns.size(), 2u);
  EXPECT_GT(turns[1]["cached"].get<int>(), turns[0]["prompt"].get<int>() - 1)
      << "restored, not recomputed: " << turns[1];
  RunResult list = run({"session", "list"});
  EXPECT_TRUE(has(list.out, "tomorrow")) << list;
  RunResult fork = run({"session", "fork", "tomorrow", "copy"});
  EXPECT_EQ(fork.code, 0) << fork;
  EXPECT_EQ(run({"session", "rename", "copy", "other"}).code, 0);
  EXPECT_TRUE(has(run({"session", "show", "other"}).out, "Bramble"));
  EXPECT_EQ(run({"session", "rm", "other"}).code, 0);
  EXPECT_EQ(run({"session", "show", "other"}).code, 66);
}

// --- strict --------------------------------------------------------------------------------------

TEST_F(MainJob, StrictFailsWhereACitationDoesNotHold) {
  // A small model copies what it is told to: here a quote that no passage holds.
  std::vector<std::string> args = {
      "ask", "--json", "--evidence", "200",
      "Repeat this sentence exactly: The lending rules say \"a borrowed telescope is painted in "
      "green cheese\" [1]."};
  RunResult lenient = run(args);
  EXPECT_EQ(lenient.code, 0) << lenient;
  Json json = json_of(lenient);
  ASSERT_TRUE(has(json["answer"], "green cheese")) << json["answer"];
  bool unverified = false;
  for (const Json& citation : json["citations"]) unverified |= citation["verified"] == false;
  EXPECT_TRUE(unverified) << json["citations"];
  EXPECT_TRUE(has(lenient.err, "quote in the answer is not in the passage")) << lenient;
  args.push_back("--strict");
  EXPECT_EQ(run(args).code, 3);
  // A true answer passes.
  EXPECT_EQ(run(ask("How long may a borrowed telescope be kept?", {"--strict"})).code, 0);
}

// --- signals -------------------------------------------------------------------------------------

TEST_F(MainJob, InterruptStopsAnAnswerAndTerminationLeaves) {
  for (auto [signal, code] : {std::pair{SIGINT, 130}, {SIGTERM, 143}, {SIGHUP, 129}}) {
    std::chrono::steady_clock::time_point sent{};
    RunResult r = run(
        {"ask", "--no-docs", "--max-tokens", "600", "Count from one to three hundred in words."},
        "", [&, number = signal](pid_t pid, const RunResult& now) {
          if (now.out.size() < 20) return true;
          sent = std::chrono::steady_clock::now();
          ::kill(pid, number);
          return false;
        });
    double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - sent).count();
    EXPECT_EQ(r.code, code) << r;
    EXPECT_LT(took, 2) << r;
    EXPECT_GE(r.out.size(), 20u) << "what was written stays";
  }
}

TEST_F(MainJob, AStoppedAnswerStaysInTheChat) {
  RunResult r =
      run({"chat", "-s", "stopped", "--no-docs", "-t", "0", "--max-tokens", "600"},
          "Count from one to three hundred in words.\n", [&](pid_t pid, const RunResult& now) {
            if (now.out.size() < 20) return true;
            ::kill(pid, SIGINT);
            return false;
          });
  RunResult show = run({"session", "show", "stopped"});
  EXPECT_EQ(show.code, 0) << r << show;
  EXPECT_TRUE(has(show.out, "Count from one to three hundred")) << show;
  EXPECT_TRUE(has(lower(show.out), "one")) << show;
  Json session = json_of(run({"session", "export", "stopped", "--format", "json"}));
  EXPECT_TRUE(has(session.dump(), "cancelled")) << session;
}

TEST_F(MainJob, TerminationMidAnswerKeepsTheChat) {
  RunResult r =
      run({"chat", "-s", "terminated", "--no-docs", "-t", "0", "--max-tokens", "600"},
          "Count from one to three hundred in words.\n", [&](pid_t pid, const RunResult& now) {
            if (now.out.size() < 20) return true;
            ::kill(pid, SIGTERM);
            return false;
          });
  EXPECT_EQ(r.code, 143) << r;
  EXPECT_TRUE(has(run({"session", "show", "terminated"}).out, "Count from one to three hundred"));
}

}  // namespace
}  // namespace apud::test
