// `apud eval` from outside: measures, two settings on the same questions, exit codes.
#include "tests/e2e/library.h"

namespace apud::test {
namespace {

class EvalVerb : public testing::Test {
 protected:
  void SetUp() override {
    APUD_REQUIRE_MODEL(kEmbedder);
    const char* subjects[] = {"anchor", "bridge", "candle", "dynamo",
                              "engine", "funnel", "gasket", "hammer"};
    std::string questions;
    for (const char* subject : subjects) {
      home_.write(std::string("docs/") + subject + ".md",
                  fmt_text(subject) + "It is kept in the shed behind the mill.\n");
      questions += std::string(R"({"question": "Who made the )") + subject + R"(?", "gold": [")" +
                   subject + R"(.md#was made by the smith"]})" + "\n";
    }
    home_.write("q.jsonl", questions);
    RunResult r = home_.run({"ingest", "docs", "-q"});
    ASSERT_EQ(r.code, 0) << r;
  }
  static std::string fmt_text(const std::string& subject) {
    return "# The " + subject + "\n\nThe " + subject +
           " was made by the smith in the year of the flood.\n";
  }
  RunResult eval(std::vector<std::string> more) {
    std::vector<std::string> args = {"eval", "q.jsonl"};
    args.insert(args.end(), more.begin(), more.end());
    return home_.run(args);
  }
  Home home_;
};

TEST_F(EvalVerb, WorseSettingsThanTheFilesExitOne) {
  home_.write("tight.toml", "evidence = 4\n");  // no sentence fits
  home_.write("wide.toml", "evidence = 500\n");
  RunResult alone = eval({"--json"});
  EXPECT_EQ(alone.code, 0) << alone;
  Json json = json_of(alone);
  EXPECT_EQ(json["scores"]["hit@1"]["mean"], 1.0) << alone;
  EXPECT_EQ(json["scores"]["packed"]["mean"], 1.0) << alone;
  EXPECT_FALSE(json.contains("worse")) << alone;
  EXPECT_FALSE(json["scores"].contains("cited")) << alone;

  RunResult better = eval({"--vs", "tight.toml", "--json"});
  EXPECT_EQ(better.code, 0) << better;
  json = json_of(better);
  EXPECT_EQ(json["worse"], false);
  EXPECT_EQ(json["scores"]["packed"]["versus"]["mean"], 0.0) << better;
  EXPECT_EQ(json["scores"]["packed"]["difference"]["low"], 1.0) << better;
  EXPECT_EQ(json["scores"]["packed"]["differing"], 8) << better;
  EXPECT_EQ(json["scores"]["hit@1"]["differing"], 0) << better;

  // The command line's setting against the file's; more tokens alone are no regression.
  RunResult worse = eval({"--evidence", "4", "--vs", "wide.toml"});
  EXPECT_EQ(worse.code, 1) << worse;
  std::string row = worse.out.substr(worse.out.find("packed"));
  EXPECT_TRUE(has(row.substr(0, row.find('\n')), "-1.000")) << worse;
  EXPECT_TRUE(has(row.substr(0, row.find('\n')), "worse")) << worse;
  EXPECT_FALSE(has(worse.out.substr(0, worse.out.find("packed")), "worse")) << worse;
}

TEST_F(EvalVerb, OtherCollectionsAndBadFiles) {
  ASSERT_EQ(home_.run({"ingest", "docs/anchor.md", "-k", "small", "-q"}).code, 0);
  home_.write("small.toml", "collection = 'small'\n");
  RunResult r = eval({"--vs", "small.toml", "--json"});
  EXPECT_EQ(r.code, 0) << r;
  EXPECT_EQ(json_of(r)["scores"]["hit@10"]["versus"]["mean"], 0.125) << r;
  RunResult back = eval({"-k", "small", "--vs", "q.toml"});
  EXPECT_EQ(back.code, 66) << back;
  EXPECT_TRUE(has(back.err, "q.toml")) << back;
  home_.write("q.toml", "colour = 'red'\n");
  EXPECT_EQ(eval({"--vs", "q.toml"}).code, 78);
  home_.write("q.toml", "collection = 'none'\n");
  EXPECT_EQ(eval({"--vs", "q.toml"}).code, 66);
}

TEST_F(EvalVerb, AnswersTellWhetherTheGoldIsCited) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  home_.write("two.jsonl", R"({"question": "Who made the anchor?", "gold": ["anchor.md"]}
{"question": "Who made the bridge?", "gold": ["nothing.md"]}
)");
  home_.write(".config/apud/config.toml", "answer = 48\n");
  RunResult r =
      home_.run({"eval", "two.jsonl", "--answers", "-m", model_path(kDefaultModel), "--json"});
  EXPECT_EQ(r.code, 0) << r;
  EXPECT_EQ(json_of(r)["scores"]["cited"]["mean"], 0.5) << r;
}

TEST_F(EvalVerb, ReindexSwapsForAGainOnly) {
  auto chunker = [&] {
    return json_of(home_.run({"coll", "info", "default", "--json"}))["chunker"].get<std::string>();
  };
  const std::string before = chunker();
  // Smaller chunks find these no better: the live collection stays, the shadow goes.
  RunResult no = home_.run(
      {"coll", "reindex", "default", "--shadow", "--chunk", "64", "--eval", "q.jsonl", "--json"});
  EXPECT_EQ(no.code, 1) << no;
  EXPECT_EQ(json_of(no)["swapped"], false) << no;
  EXPECT_EQ(json_of(no)["scores"]["hit@1"]["versus"]["mean"], 1.0) << no;
  EXPECT_TRUE(has(no.err, "not swapped")) << no;
  EXPECT_EQ(chunker(), before);
  EXPECT_EQ(json_of(home_.run({"coll", "list", "--json"}))["collections"].size(), 1u);
  // Without questions it is the user's word.
  RunResult yes = home_.run({"coll", "reindex", "default", "--shadow", "--chunk", "64"});
  EXPECT_EQ(yes.code, 0) << yes;
  EXPECT_NE(chunker(), before);
  EXPECT_TRUE(has(chunker(), " 64 ")) << chunker();
  RunResult still = eval({"--json"});
  EXPECT_EQ(json_of(still)["scores"]["hit@1"]["mean"], 1.0) << still;
  EXPECT_EQ(home_.run({"coll", "reindex", "default", "--chunk", "8000"}).code, 2);
  EXPECT_EQ(home_.run({"coll", "reindex", "none", "--shadow"}).code, 66);
}

}  // namespace
}  // namespace apud::test
