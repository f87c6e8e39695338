// Reranking with the chat model: its own likelihood of "yes" against "no" to "does this passage
// answer the question?" (rag.md, section 3: no cross-encoder weights can be had). Instruction and
// question stand first, so that all passages share their KV; nothing is generated.
//
// Threads: one thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "app/answer.h"
#include "app/json_text.h"
#include "app/runtime.h"
#include "rag/rerank.h"

namespace apud {

class LikelihoodJudge : public PassageJudge {
 public:
  /// budget_ms: no further passage is begun that would end after it; 0: all are judged.
  LikelihoodJudge(Runtime& runtime, double budget_ms);
  std::vector<float> judge(std::string_view question,
                           std::span<const std::string> passages) override;
  int count_tokens(std::string_view text) const override;

 private:
  Runtime& runtime_;
  double budget_ms_;
  std::vector<int32_t> yes_, no_;  // tokens that say it, distinct
};

/// How many candidates a machine that reads `rate` tokens/s judges in `budget_ms`, at most as many
/// as RerankOptions has.
int judged_candidates(double rate, double budget_ms);

/// Reranks the hits of a search where the settings say so (auto: where each collection's self-test
/// with this chat model showed a gain). Returns how many were judged; 0: none, in `warnings` why
/// where it was for want of time.
int rerank_hits(Runtime& runtime, const EvidenceRequest& request, Retrieval& retrieval,
                std::vector<std::string>& warnings);

/// What `coll selftest` found for a collection and a chat model. Kept in cache_dir()/rerank.json.
struct RerankRecord {
  std::string model;        // as the user names it
  std::string fingerprint;  // of its weights
  int questions = 0;
  int candidates = 0;
  double before = 0;     // MRR@10
  Interval gain;         // of MRR@10
  bool helps = false;    // beyond chance
  int64_t chunks = 0;    // of the collection then
  std::string embedder;  // its fingerprint then
};
/// False once the collection is another: embedder, or a fifth of the chunks.
bool still_holds(const RerankRecord& record, const CollectionInfo& collection);
std::vector<RerankRecord> load_rerank_tests(const std::string& collection_uuid);
/// Replaces the model's. Throws kIo.
void save_rerank_test(const std::string& collection_uuid, const RerankRecord& record);
/// For `coll info`.
std::string rerank_line(const RerankRecord& record, const CollectionInfo& collection);
ordered_json rerank_json(const RerankRecord& record, const CollectionInfo& collection);

}  // namespace apud
