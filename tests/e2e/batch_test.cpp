// Many answers: samples, beams, and `apud batch`, end to end with real models.
#include "tests/e2e/library.h"

namespace apud::test {
namespace {

class Batch : public LibraryTest {};

// --- several answers to one question -------------------------------------------------------------

TEST_F(Batch, SamplesNeedATemperatureAndAreReproducible) {
  EXPECT_EQ(run({"ask", "--no-docs", "-n", "2", "Name a colour."}).code, 2);
  std::vector<std::string> args = {"ask", "--no-docs",    "--json", "-n",
                                   "2",   "-t",           "0.9",    "--seed",
                                   "5",   "--max-tokens", "12",     "Name a colour."};
  Json one = json_of(run(args)), two = json_of(run(args));
  ASSERT_EQ(one["samples"].size(), 2u) << one;
  EXPECT_EQ(one["samples"], two["samples"]);
  EXPECT_EQ(one["seed"], 5);
}

TEST_F(Batch, BeamsAreSearchedAndShown) {
  Json json = json_of(run({"ask", "--no-docs", "--json", "--beams", "3", "--max-tokens", "12",
                           "Name three rivers of Europe."}));
  ASSERT_EQ(json["beams"].size(), 3u) << json;
  EXPECT_EQ(json["beams"][0]["text"], json["answer"]);
  for (size_t i = 1; i < 3; ++i) {
    EXPECT_LE(json["beams"][i]["score"].get<double>(), json["beams"][i - 1]["score"].get<double>());
    EXPECT_NE(json["beams"][i]["text"], json["beams"][i - 1]["text"]);
  }
  RunResult text = run(
      {"ask", "--no-docs", "--beams", "3", "--max-tokens", "12", "Name three rivers of Europe."});
  EXPECT_EQ(text.out, json["answer"].get<std::string>() + "\n") << text;
  // With documents every beam keeps to the ids that it may cite.
  Json cited = json_of(run({"ask", "--json", "--beams", "3", "Who cleans the mirror?"}));
  EXPECT_FALSE(cited["citations"].empty()) << cited;

  for (auto excluded : {std::vector<std::string>{"-n", "2"}, {"-t", "0.7"}, {"--top-k", "4"}}) {
    std::vector<std::string> args = {"ask", "--no-docs", "--beams", "2", "hi"};
    args.insert(args.end(), excluded.begin(), excluded.end());
    RunResult refused = run(args);
    EXPECT_EQ(refused.code, 2) << refused;
    EXPECT_TRUE(has(refused.err, "2 beams and")) << refused;
  }
  EXPECT_EQ(run({"ask", "--no-docs", "--beams", "9", "hi"}).code, 2);
  EXPECT_EQ(run({"batch", "--beams", "2", "-t", "0.7"}, "hi\n").code, 2);
  RunResult batch = run({"batch", "--no-docs", "--max-tokens", "8", "--beams", "2", "--jobs", "2"},
                        "{\"question\": \"Name a colour.\", \"beams\": 8}\nName a fruit.\n"
                        "{\"question\": \"hi\", \"temperature\": 0.5}\n"
                        "{\"question\": \"hi\", \"temperature\": 0.5, \"beams\": 1}\n");
  EXPECT_EQ(batch.code, 65) << batch;
  std::istringstream lines(batch.out);
  std::vector<Json> out;
  for (std::string line; std::getline(lines, line);) out.push_back(Json::parse(line));
  ASSERT_EQ(out.size(), 4u) << batch;
  EXPECT_EQ(out[0]["beams"].size(), 8u) << out[0];
  EXPECT_EQ(out[1]["beams"].size(), 2u) << out[1];
  EXPECT_EQ(out[2]["error"]["code"], "usage") << out[2];
  EXPECT_FALSE(out[3].contains("beams")) << out[3];
}

// --- batch ---------------------------------------------------------------------------------------

TEST_F(Batch, KeepsOrderEchoesIdsAndReportsBadLines) {
  std::string input =
      "{\"id\": \"a\", \"question\": \"How long may a borrowed telescope be kept?\", "
      "\"max_tokens\": 30}\n"
      "\n"
      "not json but a plain question about the loose power plug\n"
      "{\"id\": 7, \"question\": 5}\n"
      "{broken\n"
      "{\"id\": \"e\", \"question\": \"成人读者最多可以借几本书？\", \"max_tokens\": 30}\n"
      "{\"id\": \"f\", \"question\": \"x\", \"colour\": 1}\n"
      "{\"id\": \"g\", \"question\": \"x\", \"k\": \"nowhere\"}\n";
  APUD_REQUIRE_MODEL(kDefaultModel);
  RunResult r = run(
      {"batch", "--max-tokens", "30", "--evidence", "400", "-m", model_path(kDefaultModel)}, input);
  EXPECT_EQ(r.code, 65) << r;
  std::vector<Json> lines = json_lines(r.out);
  ASSERT_EQ(lines.size(), 7u) << r;
  std::vector<int> indexes;
  for (const Json& line : lines) indexes.push_back(line["index"]);
  EXPECT_EQ(indexes, (std::vector<int>{0, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(lines[0]["id"], "a");
  EXPECT_TRUE(lines[1]["id"].is_null());
  EXPECT_EQ(lines[2]["id"], 7);
  EXPECT_EQ(lines[4]["id"], "e");
  for (size_t bad : {2u, 3u, 5u, 6u}) {
    EXPECT_EQ(lines[bad]["schema"], 1) << lines[bad];
    EXPECT_TRUE(lines[bad]["error"]["message"].is_string()) << lines[bad];
    EXPECT_TRUE(lines[bad]["error"]["code"].is_string()) << lines[bad];
    EXPECT_FALSE(lines[bad].contains("answer")) << lines[bad];
  }
  EXPECT_TRUE(has(lower(lines[0]["answer"]), "three weeks") || has(lines[0]["answer"], "3 weeks"))
      << lines[0];
  EXPECT_TRUE(has(lines[4]["answer"], "八") || has(lines[4]["answer"], "8")) << lines[4];
  for (size_t good : {0u, 1u, 4u}) EXPECT_EQ(lines[good]["schema"], 1);
  EXPECT_TRUE(
      lines[3]["error"]["message"].get<std::string>().starts_with("line 5: not JSON: column 2: "))
      << lines[3];
  EXPECT_TRUE(has(r.err, "4 of 7 lines failed")) << r;
}

std::string small_questions(int count) {
  std::string out;
  for (int i = 0; i < count; ++i)
    out += "{\"id\": " + std::to_string(100 + i) + ", \"question\": \"Spell the number " +
           std::to_string(i) + " in words.\"}\n";
  return out;
}

/// id, index and answer of each line: what does not depend on time.
std::vector<Json> essence(const std::string& text) {
  std::vector<Json> out;
  for (const Json& line : json_lines(text))
    out.push_back(
        {line["id"], line["index"], line.value("answer", Json()), line.contains("error")});
  return out;
}

TEST_F(Batch, ExitCodesAndJobs) {
  std::string input = small_questions(6);
  RunResult one = run({"batch", "--no-docs", "--max-tokens", "12", "--jobs", "1"}, input);
  EXPECT_EQ(one.code, 0) << one;
  RunResult four = run({"batch", "--no-docs", "--max-tokens", "12", "--jobs", "4"}, input);
  EXPECT_EQ(four.code, 0) << four;
  EXPECT_EQ(essence(one.out), essence(four.out));
  APUD_REQUIRE_MODEL(kDefaultModel);
  RunResult none =
      run({"batch", "--max-tokens", "12", "--evidence", "300", "-m", model_path(kDefaultModel)},
          "{\"id\": 1, \"question\": \"What is the boiling point of tungsten in kelvin?\"}\n");
  EXPECT_EQ(none.code, 1) << none;
  EXPECT_EQ(json_lines(none.out).at(0)["no_evidence"], true);
  EXPECT_EQ(run({"batch", "--jobs", "0"}, "x\n").code, 2);
}

TEST_F(Batch, InputsOfOtherSystemsAndMistakes) {
  RunResult marked = run({"batch", "--no-docs", "--max-tokens", "2"},
                         "\xEF\xBB\xBF{\"id\": \"first\", \"question\": \"Hello?\"}\r\n");
  EXPECT_EQ(marked.code, 0) << marked;
  EXPECT_EQ(json_lines(marked.out).at(0)["id"], "first");
  home().write("answers.jsonl", "yesterday's\n");
  RunResult wide =
      run({"batch", "--no-docs", "-o", "answers.jsonl"}, std::string("\xFF\xFEH\0i\0\n\0", 8));
  EXPECT_EQ(wide.code, 65) << wide;
  EXPECT_TRUE(has(wide.err, "UTF-16")) << wide;
  EXPECT_EQ(home().shell("cat answers.jsonl").out, "yesterday's\n");
  home().write("questions", "Hello?\n");
  RunResult same = run({"batch", "--no-docs", "-i", (home().path() / "questions").string(), "-o",
                        (home().path() / "questions").string()});
  EXPECT_EQ(same.code, 2) << same;
  EXPECT_EQ(home().shell("cat questions").out, "Hello?\n");
  RunResult long_answer = run({"batch", "--no-docs", "--max-tokens", "5000"}, "Hello?\n");
  EXPECT_TRUE(has(long_answer.out, "an answer of up to 5000 tokens leaves no room")) << long_answer;
}

TEST_F(Batch, PipesHaveNamesToo) {
  RunResult process = home().shell(
      "\"$APUD\" batch --no-docs --max-tokens 2 -i <(printf 'One?\\nTwo?\\n') -o >(cat)");
  EXPECT_EQ(process.code, 0) << process;
  EXPECT_EQ(json_lines(process.out).size(), 2u) << process;
  RunResult named =
      home().shell("printf 'One?\\n' | \"$APUD\" batch --no-docs --max-tokens 2 -i /dev/stdin");
  EXPECT_EQ(json_lines(named.out).size(), 1u) << named;
  RunResult folder = run({"batch", "--no-docs", "-i", "samples"});
  EXPECT_EQ(folder.code, 65) << folder;
  EXPECT_TRUE(has(folder.err, "samples is a folder")) << folder;
}

TEST_F(Batch, AClosedStandardInputIsNotWaitedFor) {
  RunResult closed = home().shell("timeout -s KILL 30 \"$APUD\" batch --no-docs <&-");
  EXPECT_EQ(closed.code, 74) << closed;
  EXPECT_TRUE(has(closed.err, "cannot read standard input")) << closed;
  // Nor does a file that apud opens take the place of a closed output.
  EXPECT_EQ(home().shell("\"$APUD\" search mirror --mode bm25 <&- >&-").code, 74);
}

TEST_F(Batch, TwoBatchesDoNotShareAnOutput) {
  RunResult second;
  bool asked = false;
  RunResult first =
      run({"batch", "--no-docs", "--max-tokens", "200", "-o", "shared.jsonl"}, small_questions(8),
          [&](pid_t, const RunResult&) {
            std::error_code ignored;
            if (asked || std::filesystem::file_size(home().path() / "shared.jsonl", ignored) == 0 ||
                ignored)
              return !asked;
            asked = true;
            home().write("one", "One?\n");
            second = home().shell("\"$APUD\" batch --no-docs -i one -o shared.jsonl");
            return false;
          });
  EXPECT_EQ(first.code, 0) << first;
  ASSERT_TRUE(asked);
  EXPECT_EQ(second.code, 75) << second;
  EXPECT_TRUE(has(second.err, "shared.jsonl is being written by another apud batch")) << second;
  EXPECT_EQ(home().shell("wc -l < shared.jsonl").out, "8\n");
}

TEST_F(Batch, ResumesAfterATornLine) {
  home().write("questions.jsonl", small_questions(6));
  RunResult whole = run(
      {"batch", "--no-docs", "--max-tokens", "8", "-i", "questions.jsonl", "-o", "whole.jsonl"});
  ASSERT_EQ(whole.code, 0) << whole;
  EXPECT_EQ(whole.out, "");
  auto read = [&](const char* name) {
    std::ifstream in(home().path() / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  std::string answers = read("whole.jsonl");
  size_t three = 0;
  for (int i = 0; i < 3; ++i) three = answers.find('\n', three) + 1;
  // Torn inside a line, torn just before its newline, and at a line's end.
  for (size_t cut : {three + 25, answers.find('\n', three), three, size_t{0}, size_t{1}}) {
    home().write("torn.jsonl", answers.substr(0, cut));
    RunResult resumed = run({"batch", "--no-docs", "--max-tokens", "8", "-i", "questions.jsonl",
                             "-o", "torn.jsonl", "--resume"});
    EXPECT_EQ(resumed.code, 0) << resumed;
    EXPECT_EQ(essence(read("torn.jsonl")), essence(answers)) << "cut at " << cut;
  }
  RunResult again = run({"batch", "--no-docs", "--max-tokens", "8", "-i", "questions.jsonl", "-o",
                         "whole.jsonl", "--resume"});
  EXPECT_EQ(again.code, 0) << again;
  EXPECT_EQ(read("whole.jsonl"), answers) << "nothing left to do changes nothing";
  RunResult unknown = run({"batch", "-m", "nosuch", "-i", "questions.jsonl", "-o", "whole.jsonl"});
  EXPECT_NE(unknown.code, 0);
  EXPECT_EQ(read("whole.jsonl"), answers) << "a run that cannot begin leaves the old answers";
  // Two questions under one id: one answer stands for one of them.
  home().write("twins.jsonl",
               "{\"id\":7,\"question\":\"One?\"}\n{\"id\":7,\"question\":\"Two?\"}\n");
  std::vector<std::string> twins = {"batch",       "--no-docs", "--max-tokens", "4",       "-i",
                                    "twins.jsonl", "-o",        "both.jsonl",   "--resume"};
  EXPECT_EQ(run(twins).code, 0);
  std::string both = read("both.jsonl");
  home().write("both.jsonl", both.substr(0, both.find('\n') + 1));
  EXPECT_EQ(run(twins).code, 0);
  EXPECT_EQ(essence(read("both.jsonl")), essence(both));
  // A question that failed is asked again.
  home().write("three.jsonl", "{\"id\":8,\"question\":\"Three?\"}\n");
  const std::string answer = "{\"id\":9,\"index\":1,\"answer\":\"kept\"}\n";
  home().write("failed.jsonl", "{\"id\":8,\"index\":0,\"error\":{}}\n" + answer + "{\"torn");
  EXPECT_EQ(run({"batch", "--no-docs", "--max-tokens", "4", "-i", "three.jsonl", "-o",
                 "failed.jsonl", "--resume"})
                .code,
            0);
  std::vector<Json> asked = json_lines(read("failed.jsonl"));
  ASSERT_EQ(asked.size(), 2u) << "a line for each question";
  EXPECT_EQ(asked[0].dump(), Json::parse(answer).dump());
  EXPECT_TRUE(asked[1]["id"] == 8 && asked[1].contains("answer")) << asked[1];
  EXPECT_EQ(home().shell("ls | grep -c failed").out, "1\n");
  EXPECT_EQ(run({"batch", "--resume", "-i", "questions.jsonl"}).code, 2);
  home().write("other.txt", "my precious notes\n");
  RunResult refused = run({"batch", "-i", "questions.jsonl", "-o", "other.txt", "--resume"});
  EXPECT_EQ(refused.code, 65) << refused;
  EXPECT_EQ(read("other.txt"), "my precious notes\n") << "another file is not touched";
  for (const std::string other : {"a line without an end", "{\"index\": \"of names\"}\n"}) {
    home().write("other.txt", other);
    refused = run({"batch", "-i", "questions.jsonl", "-o", "other.txt", "--resume"});
    EXPECT_EQ(refused.code, 65) << refused;
    EXPECT_EQ(read("other.txt"), other);
  }
  // Interrupted while it reads what is there: nothing of it is lost.
  std::string long_ago;
  for (int i = 0; i < 400'000; ++i)
    long_ago += "{\"id\":null,\"index\":" + std::to_string(1000 + i) + ",\"answer\":\"x\"}\n";
  home().write("long.jsonl", long_ago);
  RunResult stopped =
      run({"batch", "--no-docs", "-i", "questions.jsonl", "-o", "long.jsonl", "--resume"}, "",
          [&](pid_t pid, const RunResult&) {
            std::string folder = "/proc/" + std::to_string(pid) + "/fd";
            std::error_code ignored;
            for (const auto& one : std::filesystem::directory_iterator(folder, ignored)) {
              auto to = std::filesystem::read_symlink(one.path(), ignored);
              if (to.filename() != "long.jsonl") continue;
              ::kill(pid, SIGINT);
              return false;
            }
            return true;
          });
  EXPECT_EQ(stopped.code, 130) << stopped;
  EXPECT_EQ(read("long.jsonl").size(), long_ago.size());
}

TEST_F(Batch, AClosedPipeEndsTheRun) {
  home().write("many.jsonl", small_questions(500));
  RunResult r = home().shell(
      "\"$APUD\" batch --no-docs --max-tokens 8 -i many.jsonl | head -1; echo ${PIPESTATUS[0]}");
  EXPECT_LT(r.seconds, 20) << r;
  ASSERT_EQ(r.lines().size(), 2u) << r;
  EXPECT_EQ(Json::parse(r.lines()[0])["index"], 0);
  EXPECT_EQ(r.lines()[1], "141") << r;
  EXPECT_EQ(r.err, "") << r;
}

TEST_F(Batch, TenThousandQuestionsNeedNoMoreMemoryThanFew) {
  APUD_REQUIRE_MODEL(kTinyModel);
  // One in five of the ten thousand that the issue names, each under a long id: whatever keeps a
  // line of input or output, or two kilobytes of anything, for every question shows at the end.
  auto peak = [&](int count) {
    long kib = 0;
    std::string input;
    for (int i = 0; i < count; ++i)
      input += "{\"id\":\"" + std::to_string(i) + std::string(8192, 'x') + "\",\"question\":\"q" +
               std::to_string(i) + "\"}\n";
    RunResult r = run({"batch", "--no-docs", "--no-save", "--max-tokens", "1", "--ctx", "256",
                       "--system", "x", "-m", model_path(kTinyModel)},
                      input, [&](pid_t pid, const RunResult&) {
                        std::ifstream in("/proc/" + std::to_string(pid) + "/status");
                        for (std::string line; std::getline(in, line);) {
                          if (line.rfind("VmHWM:", 0) == 0)
                            kib = std::max(kib, std::atol(line.c_str() + 6));
                        }
                        return true;
                      });
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(r.lines().size(), static_cast<size_t>(count));
    return kib;
  };
  home().set_time_limit(300);
  long few = peak(200);
  long many = peak(2000);
  home().set_time_limit(120);
  EXPECT_LT(many, few + 4 * 1024) << few << " KiB after 200 questions, " << many
                                  << " KiB after 2000";
}

}  // namespace
}  // namespace apud::test
