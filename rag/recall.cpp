#include "rag/recall.h"

#include <algorithm>
#include <cmath>

#include "rag/relevance.h"

namespace apud {
namespace {

// Fitted on 80 questions that come back to earlier rounds and 73 that do not (others than those of
// tests/data/conversations/memory.jsonl): 78 of the first score at least 1.83, all of the second at
// most 1.68.
constexpr double kWordWeight = 3.0;
constexpr double kLine = 1.75;
constexpr double kWordsAlone = 0.6;
constexpr double kSameSubject = 0.5;
constexpr double kLeastSpread = 1e-3;
constexpr size_t kFewestChats = 3;
constexpr size_t kFewestRounds = 8;

}  // namespace

RecallEvidence recall_evidence(Store& store, const Hit& hit, std::string_view question) {
  RecallEvidence evidence;
  evidence.cosine = hit.dense.value_or(0);
  IdfOverlap overlap(store, hit.collection, question);
  evidence.overlap = overlap(distinct_terms(store, hit.heading_path + "\n" + hit.text));
  return evidence;
}

std::optional<RecallScale> measure_recall_scale(Store& store, Retriever& retriever,
                                                const CollectionInfo& collection, int samples) {
  std::vector<StoredChunk> rounds;  // of different questions
  std::vector<DocumentInfo> chats = store.documents(collection.id);
  if (chats.size() < kFewestChats) return std::nullopt;
  for (const DocumentInfo& chat : chats) {
    std::string last;
    for (StoredChunk& chunk : store.chunks_of(chat.id)) {
      if (chunk.heading.empty() || chunk.heading == last) continue;
      last = chunk.heading;
      rounds.push_back(std::move(chunk));
    }
  }
  std::vector<double> best;
  std::vector<std::string> names = {collection.name};
  RetrieveOptions options;
  options.k = 20;
  size_t step = std::max<size_t>(1, rounds.size() / static_cast<size_t>(samples));
  for (size_t i = 0; i < rounds.size(); i += step) {
    double most = -1;
    for (const Hit& hit : retriever.retrieve(rounds[i].heading, names, options).hits) {
      if (hit.document == rounds[i].document || !hit.dense) continue;
      // Chats that share a subject are no measure of strangers.
      if (recall_evidence(store, hit, rounds[i].heading).overlap >= kSameSubject) continue;
      most = std::max(most, static_cast<double>(*hit.dense));
    }
    if (most >= 0) best.push_back(most);
  }
  if (best.size() < kFewestRounds) return std::nullopt;
  std::sort(best.begin(), best.end());
  RecallScale scale;
  scale.median = best[best.size() / 2];
  scale.high = std::max(best[best.size() * 95 / 100], scale.median + kLeastSpread);
  scale.chunks = collection.chunks;
  return scale;
}

std::vector<Hit> recall_rounds(Store& store, std::span<const Hit> hits, std::string_view question,
                               const RecallOptions& options) {
  std::vector<std::pair<double, const Hit*>> fitting;
  for (const Hit& hit : hits) {
    RecallEvidence evidence = recall_evidence(store, hit, question);
    double score = evidence.overlap;
    bool fits = evidence.overlap >= kWordsAlone;
    if (options.scale) {
      score = (evidence.cosine - options.scale->median) /
                  (options.scale->high - options.scale->median) +
              kWordWeight * evidence.overlap;
      fits = score >= kLine;
    }
    if (fits) fitting.emplace_back(score, &hit);
  }
  std::stable_sort(fitting.begin(), fitting.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Hit> rounds;
  for (const auto& [score, hit] : fitting) {
    if (static_cast<int>(rounds.size()) == options.most) break;
    bool same = std::any_of(rounds.begin(), rounds.end(), [hit = hit](const Hit& other) {
      return other.document == hit->document && other.heading_path == hit->heading_path;
    });
    if (!same) rounds.push_back(*hit);
  }
  return rounds;
}

}  // namespace apud
