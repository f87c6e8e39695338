// Dumps, for each question of an eval file, its candidates with fused score, the judge's log odds
// and whether they are gold: blends are chosen from it outside the program (docs/performance.md).
//
//   rerank_dump COLLECTION QUESTIONS.jsonl CANDIDATES EVERY [MODEL] [TOKENS] > dump.jsonl
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/rerank.h"
#include "app/signals.h"
#include "base/child.h"
#include "rag/eval.h"

using namespace apud;

int main(int argc, char** argv) {
  child_main(argc, argv);
  if (argc < 5) {
    std::fprintf(stderr,
                 "rerank_dump COLLECTION QUESTIONS.jsonl CANDIDATES EVERY [MODEL] [TOKENS]\n");
    return 2;
  }
  try {
    Options options;
    options.settings.model = argc > 5 ? argv[5] : "qwen2.5-coder:1.5b";
    int tokens = argc > 6 ? std::atoi(argv[6]) : RerankOptions{}.passage_tokens;
    Terminal terminal{TerminalState{}};
    Runtime runtime(options, terminal);
    std::vector<std::string> names = {argv[1]};
    int candidates = std::atoi(argv[3]), every = std::atoi(argv[4]);
    LikelihoodJudge judge(runtime, 0);
    auto questions = parse_eval_questions(read_file(argv[2]));
    for (size_t i = 0; i < questions.size(); i += static_cast<size_t>(every)) {
      const EvalQuestion& q = questions[i];
      RetrieveOptions retrieve;
      retrieve.k = 100;
      Retrieval found = runtime.retriever(names).retrieve(q.question, names, retrieve);
      std::vector<std::string> passages;
      for (const Hit& hit : found.hits) {
        if (hit.rank <= candidates)
          passages.push_back(judged_excerpt(hit.heading, hit.text, q.question, tokens, judge));
      }
      auto start = std::chrono::steady_clock::now();
      std::vector<float> odds = judge.judge(q.question, passages);
      double ms =
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
              .count();
      nlohmann::json out = {{"id", q.id}, {"ms", ms}, {"hits", nlohmann::json::array()}};
      for (const Hit& hit : found.hits) {
        bool gold = false;
        for (const auto& g : q.gold) gold |= gold_matches(g, hit.path, hit.text);
        nlohmann::json one = {
            {"path", hit.path}, {"chunk", hit.chunk}, {"fused", hit.score}, {"gold", gold}};
        size_t at = static_cast<size_t>(hit.rank - 1);
        if (at < odds.size()) {
          one["odds"] = odds[at];
          one["tokens"] = judge.count_tokens(passages[at]);
        }
        out["hits"].push_back(one);
      }
      std::printf("%s\n", out.dump().c_str());
      std::fflush(stdout);
    }
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n%s\n", e.what(), e.advice().c_str());
    return exit_code(e.kind());
  }
  return 0;
}
