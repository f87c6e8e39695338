#include "rag/rerank.h"

#include <algorithm>
#include <set>

#include "base/check.h"
#include "rag/chunker.h"
#include "rag/index.h"
#include "rag/ingest/calibrate.h"
#include "rag/text/support.h"

namespace apud {

int rerank(std::vector<Hit>& hits, std::string_view question, PassageJudge& judge,
           const RerankOptions& options) {
  size_t most = std::min(hits.size(), static_cast<size_t>(std::max(0, options.candidates)));
  std::vector<std::string> passages;
  for (size_t i = 0; i < most; ++i) {
    passages.push_back(
        judged_excerpt(hits[i].heading, hits[i].text, question, options.passage_tokens, judge));
  }
  std::vector<float> odds = judge.judge(question, passages);
  APUD_CHECK(odds.size() <= most, "one judgement per passage");
  for (size_t i = 0; i < odds.size(); ++i) hits[i].odds = odds[i];
  std::stable_sort(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(odds.size()),
                   [&](const Hit& a, const Hit& b) {
                     return a.score + options.weight * *a.odds > b.score + options.weight * *b.odds;
                   });
  for (size_t i = 0; i < odds.size(); ++i) hits[i].rank = static_cast<int>(i) + 1;
  return static_cast<int>(odds.size());
}

std::string judged_excerpt(std::string_view heading, std::string_view text,
                           std::string_view question, int tokens, const PassageJudge& judge) {
  std::vector<Sentence> sentences = split_sentences(text);
  if (sentences.empty()) return std::string(heading);
  std::vector<int> cost;
  std::vector<std::set<std::string>> stems;
  for (const Sentence& s : sentences) {
    std::string_view words = text.substr(s.begin, s.end - s.begin);
    cost.push_back(judge.count_tokens(words) + 1);  // what joins it to its neighbour
    stems.push_back(content_stems(words));
  }
  std::set<std::string> asked = content_stems(question);
  int room = tokens - (heading.empty() ? 0 : judge.count_tokens(heading) + 1);
  size_t best_from = 0, best_to = 1, most = 0;
  for (size_t from = 0; from < sentences.size(); ++from) {
    std::set<std::string> found;
    int used = 0;
    size_t to = from;
    for (; to < sentences.size() && (to == from || used + cost[to] <= room); ++to) {
      used += cost[to];
      for (const std::string& stem : stems[to]) {
        if (asked.count(stem)) found.insert(stem);
      }
    }
    if (from == 0 || found.size() > most) {
      most = found.size();
      best_from = from;
      best_to = to;
    }
  }
  size_t begin = sentences[best_from].begin;
  std::string excerpt(text.substr(begin, sentences[best_to - 1].end - begin));
  // One sentence may be longer than all the room: a table row, a line of code.
  while (judge.count_tokens(excerpt) > room && excerpt.size() > 64) {
    size_t cut = excerpt.size() * 3 / 4;
    while (cut > 0 && (static_cast<unsigned char>(excerpt[cut]) & 0xC0) == 0x80) --cut;
    excerpt.resize(cut);
  }
  return heading.empty() ? excerpt : std::string(heading) + "\n" + excerpt;
}

RerankTest test_reranker(Store& store, TextEmbedder& embedder, const CollectionInfo& collection,
                         PassageJudge& judge, const RerankOptions& options,
                         const std::function<void(int, int)>& done, const CancelFlag* cancel) {
  VectorIndex index = open_vector_index(store, collection);
  std::vector<HeadingTrial> trials = heading_trials(store, embedder, collection, index,
                                                    kSelfTestQuestions, options.candidates, cancel);
  std::vector<Judged> before, after;
  for (const HeadingTrial& trial : trials) {
    if (cancel && cancel->raised()) break;
    auto judged_of = [&](const std::vector<Hit>& hits) {
      Judged one;
      for (size_t i = 0; i < hits.size(); ++i) {
        if (hits[i].chunk == trial.gold) one.gold_ranks.push_back(static_cast<int>(i) + 1);
      }
      return one;
    };
    std::vector<Hit> hits;
    for (const auto& [id, score] : trial.ranked) {
      std::vector<StoredChunk> chunk = store.chunks({&id, 1});
      auto text = chunk.empty() ? std::nullopt : store.text_if_there(chunk[0].document);
      if (!text || chunk[0].end > text->text.size()) continue;
      Hit hit;
      hit.chunk = id;
      hit.score = score;
      // Without headings: that of the right one is the question.
      hit.text = text->text.substr(chunk[0].begin, chunk[0].end - chunk[0].begin);
      hits.push_back(std::move(hit));
    }
    before.push_back(judged_of(hits));
    rerank(hits, trial.heading, judge, options);
    after.push_back(judged_of(hits));
    if (done) done(static_cast<int>(after.size()), static_cast<int>(trials.size()));
  }
  RerankTest test;
  test.questions = static_cast<int>(after.size());
  for (const Measure& measure : eval_measures()) {
    if (measure.name != "mrr@10") continue;
    test.before = mean_of(measure, before);
    test.gain = paired_difference(measure, after, before);
  }
  return test;
}

}  // namespace apud
