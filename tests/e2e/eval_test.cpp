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
  EXPECT_EQ(alone.err, "") << alone;
  // Half a name is no name, and a slip is told from a miss.
  home_.write("slip.jsonl",
              "{\"question\": \"Who?\", \"gold\": [\"nowhere.md\", \"here.md#x\", \"#x\"]}\n");
  RunResult slip = home_.run({"eval", "slip.jsonl"});
  EXPECT_EQ(slip.code, 0) << slip;
  EXPECT_TRUE(
      has(slip.err, "2 gold entries name no document of default, the first is 'nowhere.md'"))
      << slip;
  Json json = json_of(alone);
  EXPECT_EQ(json["scores"]["hit@1"]["mean"], 1.0) << alone;
  EXPECT_EQ(json["scores"]["packed"]["mean"], 1.0) << alone;
  EXPECT_FALSE(json.contains("worse")) << alone;
  EXPECT_FALSE(json["scores"].contains("cited")) << alone;
  ASSERT_EQ(json["each"].size(), 8u) << alone;
  EXPECT_EQ(json["each"][0]["ranks"], Json::array({1})) << alone;
  EXPECT_EQ(json["each"][7]["packed"], true) << alone;
  EXPECT_FALSE(json["each"][0].contains("versus")) << alone;

  RunResult better = eval({"--vs", "tight.toml", "--json"});
  EXPECT_EQ(better.code, 0) << better;
  json = json_of(better);
  EXPECT_EQ(json["worse"], false);
  EXPECT_EQ(json["scores"]["packed"]["versus"]["mean"], 0.0) << better;
  EXPECT_EQ(json["scores"]["packed"]["difference"]["low"], 1.0) << better;
  EXPECT_EQ(json["scores"]["packed"]["differing"], 8) << better;
  EXPECT_EQ(json["scores"]["hit@1"]["differing"], 0) << better;
  EXPECT_EQ(json["each"][3]["packed"], true) << better;
  EXPECT_EQ(json["each"][3]["versus"]["packed"], false) << better;

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
  // The vectors of what was there went, and the next search need not make the new index.
  RunResult indexes = home_.shell("ls .cache/apud/index");
  std::string uuid =
      json_of(home_.run({"coll", "info", "default", "--json"}))["uuid"].get<std::string>();
  EXPECT_EQ(indexes.out, uuid + ".vec\n") << indexes;
  RunResult still = eval({"--json"});
  EXPECT_EQ(json_of(still)["scores"]["hit@1"]["mean"], 1.0) << still;
  EXPECT_EQ(home_.run({"coll", "reindex", "default", "--chunk", "8000"}).code, 2);
  EXPECT_EQ(home_.run({"coll", "reindex", "none", "--shadow"}).code, 66);
}

TEST_F(EvalVerb, TheChatModelJudgesPassages) {
  APUD_REQUIRE_MODEL(kDefaultModel);
  const std::string model = model_path(kDefaultModel);
  // Off unless asked for or tested.
  RunResult plain =
      home_.run({"ask", "Who made the anchor?", "--show-prompt", "--json", "-m", model});
  ASSERT_EQ(plain.code, 0) << plain;
  EXPECT_FALSE(has(plain.err, "rerank")) << plain;
  // Time enough for a machine that does other things.
  const std::string patient = "rerank_ms = 600000\n";
  home_.write(".config/apud/config.toml", patient);
  RunResult asked = home_.run(
      {"ask", "Who made the anchor?", "--rerank", "--max-tokens", "32", "--json", "-m", model});
  ASSERT_EQ(asked.code, 0) << asked;
  int judged = json_of(asked)["retrieval"]["reranked"];
  EXPECT_GE(judged, 2) << asked;
  Json trace = json_of(home_.run({"explain", "--json"}));
  double anchor = -1e9, others = -1e9;
  int with = 0;
  for (const Json& hit : trace["candidates"]) {
    if (!hit.contains("odds")) continue;
    ++with;
    double& side = has(hit["path"], "anchor") ? anchor : others;
    side = std::max(side, hit["odds"].get<double>());
  }
  EXPECT_EQ(with, judged);
  EXPECT_GT(anchor, others) << trace;
  EXPECT_TRUE(has(home_.run({"explain"}).out, "bm25, tokens, rerank)"));
  EXPECT_TRUE(trace["candidates"][0].contains("match")) << "its tokens were read";
  // No time, no judgement, and it is said.
  home_.write(".config/apud/config.toml", "rerank_ms = 1\n");
  RunResult late = home_.run(
      {"ask", "Who made the anchor?", "--rerank", "--max-tokens", "2", "--json", "-m", model});
  EXPECT_FALSE(json_of(late)["retrieval"].contains("reranked")) << late;
  EXPECT_TRUE(has(late.out, "rerank_ms")) << late;
  // Auto: on where a test of this model on this collection says that it helps, and only there.
  Json info = json_of(home_.run({"coll", "info", "default", "--json"}));
  Json model_info = json_of(home_.run({"model", "info", model, "--json"}));
  Json record = {{"model", "m"},
                 {"fingerprint", model_info["fingerprint"]},
                 {"questions", 48},
                 {"candidates", 15},
                 {"before", .5},
                 {"gain", .1},
                 {"low", .02},
                 {"high", .2},
                 {"helps", true},
                 {"chunks", info["chunks"]},
                 {"embedder", info["embedder"]["fingerprint"]}};
  auto reranked_with = [&](const Json& kept) {
    Json all = {{info["uuid"].get<std::string>(), {kept}}};
    home_.write(".cache/apud/rerank.json", all.dump());
    RunResult r =
        home_.run({"ask", "Who made the anchor?", "--max-tokens", "2", "--json", "-m", model});
    return json_of(r)["retrieval"].contains("reranked");
  };
  home_.write(".config/apud/config.toml", patient);
  EXPECT_TRUE(reranked_with(record));
  EXPECT_TRUE(has(home_.run({"coll", "info", "default"}).out, "yes with m: MRR 0.500"));
  record["helps"] = false;
  EXPECT_FALSE(reranked_with(record));
  record["helps"] = true;
  record["fingerprint"] = "of another model";
  EXPECT_FALSE(reranked_with(record));
  record["fingerprint"] = model_info["fingerprint"];
  home_.write(".config/apud/config.toml", "rerank = 'off'\n");
  EXPECT_FALSE(reranked_with(record));
  home_.write(".cache/apud/rerank.json", "{}");
  // Eight headings are too few for a test; `coll info` says that there was none.
  EXPECT_TRUE(has(home_.run({"coll", "info", "default"}).out, "not tested"));
  home_.write(".config/apud/config.toml", patient);
  EXPECT_EQ(home_.run({"coll", "selftest", "default", "-m", model}).code, 65);
}

}  // namespace
}  // namespace apud::test
