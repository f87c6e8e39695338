// Reranking: a second, costlier judgement of question and passage reorders the best candidates of
// retrieval, blended with their fused score (a judge alone can destroy a good list: rag.md,
// section 3). What was not judged keeps its place. And the self-test that tells, on a collection's
// own headings, whether a judge helps there.
//
// Threads: free functions; a PassageJudge says for itself.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "rag/eval.h"
#include "rag/retriever.h"

namespace apud {

/// Says how likely passages answer a question. app gives it the chat model's own likelihood.
/// Threads: one at a time.
class PassageJudge {
 public:
  virtual ~PassageJudge() = default;
  /// log p(yes) - log p(no) of the passages in order, each a number; fewer than there are passages
  /// where its time ran out.
  virtual std::vector<float> judge(std::string_view question,
                                   std::span<const std::string> passages) = 0;
  /// Tokens of a text, of the judging model.
  virtual int count_tokens(std::string_view text) const = 0;
};

struct RerankOptions {
  int candidates = 15;       // best hits that are judged; time is proportional to it
  int passage_tokens = 100;  // of a chunk that the judge reads; time is proportional to it, too
  /// The order rests on fused score + weight * log odds. Of .05 to .3, blended ranks and min-max
  /// sums, .1 was best to within .01 of MRR over three sets and cost the one that loses by
  /// reranking least (docs/performance.md).
  double weight = 0.1;
};

/// Judges the first candidates and puts them in their new order: Hit::odds and Hit::rank change.
/// Returns how many were judged.
int rerank(std::vector<Hit>& hits, std::string_view question, PassageJudge& judge,
           const RerankOptions& options = {});

/// What of a chunk the judge reads: its nearest heading and the run of whole sentences within
/// `tokens` that holds the most of the question's words (the first of equals).
std::string judged_excerpt(std::string_view heading, std::string_view text,
                           std::string_view question, int tokens, const PassageJudge& judge);

/// Headings that the self-test asks, at most.
inline constexpr int kSelfTestQuestions = 48;

struct RerankTest {
  int questions = 0;      // 0: too few headings
  Interval before;        // MRR@10 of the fused order
  PairedDifference gain;  // of the reranked order over it
};

/// Asks headings of the collection that stand once for the text under them (both without the
/// heading), with and without the judge. Costs `questions` times what a rerank() costs. `done`
/// (may be empty) is told how many are through. Returns what it has on cancel.
RerankTest test_reranker(Store& store, TextEmbedder& embedder, const CollectionInfo& collection,
                         PassageJudge& judge, const RerankOptions& options,
                         const std::function<void(int done, int total)>& done = {},
                         const CancelFlag* cancel = nullptr);

}  // namespace apud
