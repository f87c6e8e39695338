#include "app/cli.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

const std::vector<std::string>& verbs() {
  static const std::vector<std::string> all = {
      "chat",    "ask",   "batch", "search", "ingest",  "eval",   "coll",  "doc",
      "session", "cache", "model", "config", "explain", "doctor", "bench", "completion"};
  return all;
}

Parsed parse(std::vector<std::string> args) {
  args.insert(args.begin(), "apud");
  std::vector<const char*> argv;
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  argv.push_back(nullptr);
  return parse_command_line(static_cast<int>(args.size()), argv.data(), Settings());
}

/// The usage error of these arguments, as "message | advice".
std::string usage_error(const std::vector<std::string>& args) {
  try {
    parse(args);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    return std::string(e.what()) + " | " + e.advice();
  }
  ADD_FAILURE() << "accepted";
  return {};
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Cli, EveryVerbHasHelp) {
  Parsed root = parse({"--help"});
  EXPECT_FALSE(root.run);
  EXPECT_EQ(root.exit_code, 0);
  for (const std::string& verb : verbs()) {
    EXPECT_TRUE(has(root.text, "\n  " + verb + " ")) << verb << " is missing in apud --help";
    for (const char* flag : {"--help", "-h"}) {
      Parsed help = parse({verb, flag});
      EXPECT_FALSE(help.run);
      EXPECT_EQ(help.exit_code, 0);
      EXPECT_TRUE(has(help.text, "--help")) << help.text;
      EXPECT_FALSE(has(help.text, "65 bad data")) << verb << ": the root's help came instead";
    }
  }
}

TEST(Cli, HelpIsForReading) {
  std::string text = parse({"ask", "--help"}).text;
  EXPECT_TRUE(has(text, "Usage: apud ask [OPTIONS] [question...]")) << text;
  EXPECT_TRUE(has(text, "  --device {auto,cuda,cpu} ")) << text;
  EXPECT_TRUE(has(text, "  --ctx N ")) << text;
  EXPECT_TRUE(has(text, "  --strict   ")) << text;
  EXPECT_TRUE(has(text, "  -f,--file TEXT ")) << text;
  for (const char* noise : {"INT", "REQUIRED", "TEXT:", "Environment"})
    EXPECT_FALSE(has(text, noise)) << noise << text;
  EXPECT_TRUE(has(parse({"session", "--help"}).text, "  action    ")) << text;
  EXPECT_TRUE(has(parse({"--help"}).text, "HF_TOKEN"));
  EXPECT_EQ(parse({"help", "ask"}).text, text);
  EXPECT_EQ(parse({"help"}).text, parse({"--help"}).text);
}

TEST(Cli, VersionIsOneLine) {
  Parsed parsed = parse({"--version"});
  EXPECT_FALSE(parsed.run);
  EXPECT_TRUE(parsed.text.starts_with("apud "));
  EXPECT_EQ(parsed.text.find('\n'), parsed.text.size() - 1);
}

TEST(Cli, AnUnknownVerbNamesTheNearest) {
  std::string error = usage_error({"serach", "x"});
  EXPECT_TRUE(has(error, "serach")) << error;
  EXPECT_TRUE(has(error, "search")) << error;
  EXPECT_TRUE(has(usage_error({"zzzzzzzz"}), "apud --help"));
  EXPECT_TRUE(has(usage_error({}), "apud --help"));
}

TEST(Cli, AnUnknownOptionNamesTheVerbsHelp) {
  std::string error = usage_error({"ask", "--nonsense", "x"});
  EXPECT_TRUE(has(error, "--nonsense")) << error;
  EXPECT_TRUE(has(error, "apud ask --help")) << error;
  EXPECT_EQ(error.find('\n'), std::string::npos) << "an error is one line";
}

TEST(Cli, BadValuesAreRefused) {
  for (const std::vector<std::string>& args :
       std::vector<std::vector<std::string>>{{"ask", "x", "--ctx", "-5"},
                                             {"ask", "x", "--ctx", "many"},
                                             {"ask", "x", "-t", "99"},
                                             {"ask", "x", "--device", "tpu"},
                                             {"ask", "x", "--cpu-isa", "neon"},
                                             {"search", "x", "--mode", "magic"},
                                             {"search"},
                                             {"ingest"},
                                             {"coll", "explode"},
                                             {"session", "export", "x", "--format", "pdf"},
                                             {"ask", "x", "--max-tokens", "0"},
                                             {"ask", "x", "--threads", "-1"},
                                             {"ask", "x", "--seed", "abc"},
                                             {"ask", "x", "--seed", "-1"},
                                             {"completion", "tcsh"},
                                             {"ask", "x", "--top-p", "1.5"}}) {
    SCOPED_TRACE(testing::PrintToString(args));
    std::string error = usage_error(args);
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    EXPECT_TRUE(has(error, "--help")) << error;
  }
}

TEST(Cli, OptionsReachTheirFields) {
  Options o = parse({"ask",      "How",          "long?",  "-k",  "a",       "-k", "b",
                     "--ctx",    "512",          "-t",     "0.5", "--seed",  "7",  "--stop",
                     "x",        "-n",           "3",      "-f",  "one.txt", "-f", "-",
                     "--strict", "--no-sources", "--json", "-q"})
                  .options;
  EXPECT_EQ(o.verb, "ask");
  EXPECT_EQ(o.ask.words, (std::vector<std::string>{"How", "long?"}));
  EXPECT_EQ(o.common.collections, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(o.settings.ctx, 512);
  EXPECT_EQ(o.generation.temperature, 0.5);
  EXPECT_EQ(o.generation.seed, 7u);
  EXPECT_EQ(o.generation.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(o.ask.samples, 3);
  EXPECT_EQ(o.ask.files, (std::vector<std::string>{"one.txt", "-"}));
  EXPECT_TRUE(o.ask.strict && o.ask.no_sources && o.common.json && o.common.quiet);
  EXPECT_EQ(parse({"ask", "x", "--threads", "auto"}).options.settings.threads, 0);
  EXPECT_EQ(parse({"ask", "x", "--threads", "2"}).options.settings.threads, 2);
  EXPECT_EQ(parse({"batch", "--beams", "4"}).options.settings.beams, 4);
}

TEST(Cli, AnOptionTakesOneWordAndLeavesTheNext) {
  Options o = parse({"ingest", "-k", "notes", "folder"}).options;
  EXPECT_EQ(o.common.collections, std::vector<std::string>{"notes"});
  EXPECT_EQ(o.ingest.paths, std::vector<std::string>{"folder"});
  o = parse({"doc", "show", "-k", "notes", "a.txt"}).options;
  EXPECT_EQ(o.common.collections, std::vector<std::string>{"notes"});
  EXPECT_EQ(o.manage.names, std::vector<std::string>{"a.txt"});
  // Whatever the verb and the option: with an option in front, the words behind it stay.
  EXPECT_EQ(
      parse({"ask", "-k", "a", "-f", "x", "--stop", "s", "-m", "m", "What?"}).options.ask.words,
      std::vector<std::string>{"What?"});
  EXPECT_EQ(parse({"search", "-k", "a", "--mode", "bm25", "-n", "3", "words"}).options.search.words,
            std::vector<std::string>{"words"});
  EXPECT_EQ(parse({"ingest", "--include", "*.md", "--exclude", "x", "--fail-on", "malformed", "d"})
                .options.ingest.paths,
            std::vector<std::string>{"d"});
  EXPECT_EQ(parse({"model", "pull", "--accept-licence", "gemma", "gemma3:1b"}).options.manage.names,
            std::vector<std::string>{"gemma3:1b"});
  EXPECT_EQ(parse({"eval", "-k", "a", "q.jsonl"}).options.eval.questions, "q.jsonl");
}

TEST(Cli, TheLastOfTwoCounts) {
  Options o =
      parse({"ask", "-m", "a", "--evidence", "5", "--evidence", "7", "-m", "b", "q"}).options;
  EXPECT_EQ(o.settings.evidence, 7);
  EXPECT_EQ(o.settings.model, "b");
  EXPECT_EQ(parse({"search", "-k", "one", "-k", "two", "q"}).options.common.collections.size(), 2u);
}

TEST(Cli, AQuestionMayLookLikeAnything) {
  EXPECT_EQ(parse({"ask", "-"}).options.ask.words, std::vector<std::string>{"-"});
  EXPECT_EQ(parse({"ask", "--", "--help me"}).options.ask.words,
            std::vector<std::string>{"--help me"});
  EXPECT_EQ(parse({"search", "--", "-without"}).options.search.words,
            std::vector<std::string>{"-without"});
  EXPECT_EQ(parse({"ask", "怎么续借？"}).options.ask.words, std::vector<std::string>{"怎么续借？"});
  // Options do not swallow the words after them.
  EXPECT_EQ(parse({"ask", "-k", "papers", "what", "is", "it"}).options.ask.words,
            (std::vector<std::string>{"what", "is", "it"}));
  EXPECT_EQ(parse({"ask", "-f", "a.txt", "why?"}).options.ask.words,
            std::vector<std::string>{"why?"});
  EXPECT_EQ(parse({"ask", "[what, is it]"}).options.ask.words,
            std::vector<std::string>{"[what, is it]"});
  EXPECT_EQ(parse({"ask", "{a} \"b\" 'c'"}).options.ask.words,
            std::vector<std::string>{"{a} \"b\" 'c'"});
}

TEST(Cli, CompletionScriptsHoldEveryVerbAndParse) {
  test::TempDir dir;
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    std::string script = completion_script(shell);
    for (const std::string& verb : verbs()) EXPECT_TRUE(has(script, verb)) << shell << ": " << verb;
    EXPECT_TRUE(has(script, shell == "fish" ? "-l ctx" : "--ctx")) << shell;
    dir.write(shell, script);
  }
  EXPECT_EQ(std::system(("bash -n " + (dir / "bash").string()).c_str()), 0);
  if (std::system("command -v zsh >/dev/null") == 0) {
    EXPECT_EQ(std::system(("zsh -n " + (dir / "zsh").string()).c_str()), 0);
  }
  if (std::system("command -v fish >/dev/null") == 0) {
    EXPECT_EQ(std::system(("fish -n " + (dir / "fish").string()).c_str()), 0);
  }
}

TEST(Cli, BashCompletionAnswers) {
  test::TempDir dir;
  dir.write("apud.bash", completion_script("bash"));
  auto complete = [&](const std::string& words, int index) {
    std::string out = (dir / "out").string();
    std::string command = "bash -c 'source " + (dir / "apud.bash").string() + "; COMP_WORDS=(" +
                          words + "); COMP_CWORD=" + std::to_string(index) +
                          "; _apud; echo \"${COMPREPLY[@]}\"' > " + out;
    EXPECT_EQ(std::system(command.c_str()), 0);
    std::ifstream in(out);
    std::string line;
    std::getline(in, line);
    return line;
  };
  EXPECT_EQ(complete("apud ses", 1), "session");
  EXPECT_TRUE(has(complete("apud ask --max", 2), "--max-tokens"));
  EXPECT_TRUE(has(complete("apud coll in", 2), "info"));
}

}  // namespace
}  // namespace apud
