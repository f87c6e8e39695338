#include "tests/bench/retrieval_eval.h"

#include <fmt/format.h>

#include <cstdio>
#include <set>
#include <vector>

#include "base/file.h"
#include "rag/eval.h"
#include "rag/ingest.h"
#include "rag/packer.h"
#include "rag/retriever.h"
#include "rag/store.h"

namespace apud::bench {
namespace {

constexpr int kHits = 100;
constexpr int kBudget = 2000;

std::string scores_json(std::span<const Judged> judged) {
  std::string out;
  for (const Measure& measure : eval_measures()) {
    Interval value = mean_of(measure, judged);
    out += fmt::format(R"({}"{}":{:.3f})", out.empty() ? "" : ",", measure.name, value.mean);
    if (measure.name == "hit@10")
      out += fmt::format(R"(,"hit@10 low":{:.3f},"hit@10 high":{:.3f})", value.low, value.high);
  }
  return "{" + out + "}";
}

}  // namespace

std::string evaluate_retrieval(TextEmbedder& embedder, const EvalArguments& arguments) {
  Store store(arguments.store);
  Path corpus = arguments.corpus;
  IngestReport report =
      ingest(store, embedder, std::span(&corpus, 1), {}, [](const IngestProgress& p) {
        if (p.event && p.files_done % 100 == 0) {
          std::fprintf(stderr, "\r%ld/%ld files %ld chunks", static_cast<long>(p.files_done),
                       static_cast<long>(p.files_total), static_cast<long>(p.chunks_done));
        }
      });
  std::fprintf(stderr, "\n%ld chunks in %.1f s, embedder busy %.1f s\n",
               static_cast<long>(report.chunks), report.seconds, report.embed_seconds);
  CollectionInfo info = store.collection("default");
  auto questions = parse_eval_questions(read_file(arguments.questions));
  Retriever retriever(store, &embedder);
  Packer packer(store, &embedder);
  EmbedderCounter counter(embedder);
  std::vector<std::string> names = {"default"};

  std::string out = fmt::format(R"({{"questions":{},"chunks":{},"weight":{:.2f},"abstain":{:.3f})",
                                questions.size(), info.chunks, info.calibration.dense_weight,
                                info.calibration.abstain_line);
  auto measure = [&](const std::string& name, const RetrieveOptions& options, bool pack) {
    std::vector<Judged> judged;
    int below = 0;
    for (const EvalQuestion& q : questions) {
      Retrieval found = retriever.retrieve(q.question, names, options);
      below += found.below_line;
      Judged j;
      j.gold_total = static_cast<int>(q.gold.size());
      j.milliseconds = found.search_ms;
      // Ranks over distinct sections (files).
      std::set<std::string> seen;
      for (const Hit& h : found.hits) {
        if (!seen.insert(h.path).second) continue;
        for (const auto& gold : q.gold) {
          if (gold_matches(gold, h.path, h.text))
            j.gold_ranks.push_back(static_cast<int>(seen.size()));
        }
      }
      if (pack) {
        PackOptions packing;
        packing.budget = kBudget;
        packing.sentence_vector_tokens = 10000;
        Packed packed = packer.pack(found.hits, q.question, counter, packing);
        j.tokens = packed.tokens;
        for (const Passage& p : packed.passages) {
          for (const auto& gold : q.gold) j.packed = j.packed || gold_matches(gold, p.path, "");
        }
      }
      judged.push_back(std::move(j));
    }
    out += fmt::format(R"(,"{}":{})", name, scores_json(judged));
    if (name == "hybrid") out += fmt::format(R"(,"below_line":{})", below);
  };
  RetrieveOptions options;
  options.k = kHits;
  measure("hybrid", options, true);
  for (double weight : {0.5, 0.6, 0.7, 0.8}) {
    options.dense_weight = weight;
    measure(fmt::format("w={:.1f}", weight), options, false);
  }
  options.dense_weight.reset();
  options.mode = SearchMode::kDense;
  measure("dense", options, false);
  options.mode = SearchMode::kBm25;
  measure("bm25", options, false);
  return out + "}";
}

}  // namespace apud::bench
