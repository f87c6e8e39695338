// `apud eval`: retrieval measured on the user's own questions.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "app/answer.h"
#include "app/json_text.h"
#include "app/runtime.h"
#include "rag/eval.h"
#include "rag/packer.h"

namespace apud {

namespace {

/// Counts words and Han characters: the packed rate needs a budget, not a chat model.
class PlainCounter : public TokenCounter {
 public:
  explicit PlainCounter(const TextEmbedder& embedder) : embedder_(embedder) {}
  int count(std::string_view text) const override { return embedder_.count_tokens(text); }

 private:
  const TextEmbedder& embedder_;
};

RetrievalScores evaluate(Runtime& runtime, const std::vector<EvalQuestion>& questions,
                         const std::string& collection) {
  const Options& o = runtime.options;
  EngineEmbedder& embedder = runtime.embedder_of(runtime.store().collection(collection));
  Retriever retriever(runtime.store(), &embedder);
  Packer packer(runtime.store(), &embedder);
  PlainCounter counter(embedder);
  std::vector<Judged> judged;
  std::vector<std::string> names = {collection};
  for (const EvalQuestion& question : questions) {
    auto start = std::chrono::steady_clock::now();
    RetrieveOptions options;
    options.k = std::max(EvidenceRequest{}.k, o.eval.k);
    Retrieval found = retriever.retrieve(question.question, names, options);
    PackOptions pack;
    pack.budget = o.settings.evidence > 0 ? o.settings.evidence : kMostEvidence;
    pack.sentence_vector_tokens = kSentenceVectorTokens;
    Packed packed = packer.pack(found.hits, question.question, counter, pack);
    Judged one;
    one.milliseconds =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    one.gold_total = static_cast<int>(question.gold.size());
    for (const EvalQuestion::Gold& gold : question.gold) {
      for (const Hit& hit : found.hits) {
        if (hit.rank <= o.eval.k && gold_matches(gold, hit.path, hit.text)) {
          one.gold_ranks.push_back(hit.rank);
          break;
        }
      }
      for (const Passage& passage : packed.passages)
        one.packed |= gold_matches(gold, passage.path, passage.source_text);
    }
    std::sort(one.gold_ranks.begin(), one.gold_ranks.end());
    one.tokens = packed.tokens;
    judged.push_back(std::move(one));
  }
  return score_retrieval(judged);
}

const std::vector<std::pair<const char*, Interval RetrievalScores::*>>& measures() {
  static const std::vector<std::pair<const char*, Interval RetrievalScores::*>> all = {
      {"hit@1", &RetrievalScores::hit_at_1},   {"hit@5", &RetrievalScores::hit_at_5},
      {"hit@10", &RetrievalScores::hit_at_10}, {"recall@10", &RetrievalScores::recall_at_10},
      {"mrr@10", &RetrievalScores::mrr_at_10}, {"ndcg@10", &RetrievalScores::ndcg_at_10},
      {"packed", &RetrievalScores::packed},    {"ms", &RetrievalScores::milliseconds},
      {"tokens", &RetrievalScores::tokens}};
  return all;
}

}  // namespace

int verb_eval(Runtime& runtime) {
  const Options& o = runtime.options;
  Terminal& terminal = runtime.terminal;
  std::vector<EvalQuestion> questions =
      parse_eval_questions(read_file(o.eval.questions, 256u << 20));
  if (questions.empty()) throw Error(ErrorKind::kBadData, o.eval.questions + ": no questions");
  std::vector<std::string> names = runtime.collections();
  if (names.size() != 1)
    throw Error(ErrorKind::kUsage, "eval measures one collection", "name it with -k");
  RetrievalScores mine = evaluate(runtime, questions, names[0]);
  std::optional<RetrievalScores> other;
  if (!o.eval.versus.empty())
    other = evaluate(runtime, questions, runtime.store().collection(o.eval.versus).name);
  ordered_json out = {
      {"schema", kJsonSchema}, {"collection", names[0]}, {"questions", mine.questions}};
  bool worse = false;
  for (const auto& [name, member] : measures()) {
    const Interval& value = mine.*member;
    ordered_json row = {{"mean", value.mean}, {"low", value.low}, {"high", value.high}};
    std::string line =
        fmt::format("{:<10} {:>8.3f}  [{:.3f}, {:.3f}]", name, value.mean, value.low, value.high);
    if (other) {
      const Interval& there = (*other).*member;
      row["versus"] = {{"mean", there.mean}, {"low", there.low}, {"high", there.high}};
      line += fmt::format("   {}: {:.3f}", o.eval.versus, there.mean);
      // A regression is one beyond the noise: the intervals do not touch.
      bool cost = std::string_view(name) == "ms" || std::string_view(name) == "tokens";
      if (!cost && value.high < there.low) worse = true;
    }
    out["scores"][name] = row;
    if (!o.common.json) terminal.out(line + "\n");
  }
  if (other) out["worse"] = worse;
  if (o.common.json) terminal.out(dump_json(out) + "\n");
  terminal.flush();
  return worse ? 1 : 0;
}

}  // namespace apud
