#include "tests/bench/retrieval_eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "rag/chunker.h"
#include "rag/eval.h"
#include "rag/ingest.h"
#include "rag/packer.h"
#include "rag/retriever.h"
#include "rag/store.h"

namespace apud::bench {
namespace {

constexpr int kHits = 100;
constexpr int kBudget = 2000;
constexpr size_t kExcerpt = 600;  // bytes

void ingest_corpus(Store& store, TextEmbedder& embedder, const EvalArguments& arguments) {
  Path corpus = arguments.corpus;
  IngestOptions options;
  options.collection = arguments.collection;
  IngestReport report =
      ingest(store, embedder, std::span(&corpus, 1), options, [](const IngestProgress& p) {
        if (p.event && p.files_done % 100 == 0) {
          std::fprintf(stderr, "\r%ld/%ld files %ld chunks", static_cast<long>(p.files_done),
                       static_cast<long>(p.files_total), static_cast<long>(p.chunks_done));
        }
      });
  std::fprintf(stderr, "\n%ld chunks in %.1f s, embedder busy %.1f s\n",
               static_cast<long>(report.chunks), report.seconds, report.embed_seconds);
}

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

EvalQuestion::Gold file_of(const EvalQuestion& question) { return {question.gold.at(0).path, ""}; }

/// The excerpt that answers: the gold text where the question names one, else the document's
/// beginning (its answer: the sentences within kExcerpt bytes).
TextRange excerpt_of(const EvalQuestion& question, std::string_view text) {
  const std::string& gold = question.gold.at(0).text;
  if (!gold.empty()) {
    const size_t at = text.find(gold);
    if (at == std::string_view::npos)
      throw Error(ErrorKind::kBadData, "question " + question.id + ": its excerpt is not there");
    return {at, at + gold.size()};
  }
  // A heading that was kept is the question.
  const size_t begin = text[0] == '#' ? text.find('\n') : 0;
  size_t end = begin;
  for (const Sentence& s : split_sentences(text.substr(begin))) {
    if (end > begin && s.end > kExcerpt) break;
    end = begin + s.end;
  }
  return {begin, end};
}

/// Share of the excerpt's bytes that packing puts into the prompt.
double excerpt_recall(Store& store, const CollectionInfo& info, const EvalQuestion& question,
                      const Packed& packed) {
  for (const DocumentInfo& d : store.documents(info.id)) {
    if (!gold_matches(file_of(question), d.path, "") || d.chunks == 0) continue;
    std::string text = store.text(d.id).text;
    const auto [begin, end] = excerpt_of(question, text);
    std::vector<bool> held(end, false);
    for (const Passage& p : packed.passages) {
      if (p.document != d.id) continue;
      for (const TextRange& part : p.parts)
        for (size_t i = part.begin; i < std::min(part.end, end); ++i) held[i] = true;
    }
    // White space between sentences is nobody's.
    size_t all = 0, found = 0;
    for (size_t i = begin; i < end; ++i) {
      if (text[i] == ' ' || text[i] == '\n') continue;
      ++all;
      found += held[i];
    }
    return static_cast<double>(found) / static_cast<double>(std::max<size_t>(all, 1));
  }
  throw Error(ErrorKind::kBadData, "question " + question.id + ": its document is not there");
}

}  // namespace

std::string evaluate_excerpts(TextEmbedder& embedder, const EvalArguments& arguments) {
  Store store(arguments.store);
  ingest_corpus(store, embedder, arguments);
  CollectionInfo info = store.collection(arguments.collection);
  auto questions = parse_eval_questions(read_file(arguments.questions));
  Retriever retriever(store, &embedder);
  EmbedderCounter counter(embedder);
  std::vector<std::string> names = {arguments.collection};
  double recall[2] = {0, 0}, found = 0;
  int asked = 0;
  for (size_t i = 0; i < questions.size(); i += arguments.excerpts, ++asked) {
    Packer packer(store, &embedder);
    RetrieveOptions options;
    options.k = PackOptions{}.max_hits;
    Retrieval hits = retriever.retrieve(questions[i].question, names, options);
    found += std::any_of(hits.hits.begin(), hits.hits.end(), [&](const Hit& h) {
      return gold_matches(file_of(questions[i]), h.path, "");
    });
    for (int b = 0; b < 2; ++b) {
      PackOptions packing;
      packing.budget = 1000 * (b + 1);
      packing.sentence_vector_tokens = arguments.vector_tokens;
      packing.whole_document = false;
      recall[b] += excerpt_recall(store, info, questions[i],
                                  packer.pack(hits.hits, questions[i].question, counter, packing));
    }
  }
  return fmt::format(
      R"({{"questions":{},"candidates hold it":{:.3f},"recall@1000":{:.3f},"recall@2000":{:.3f}}})",
      asked, found / asked, recall[0] / asked, recall[1] / asked);
}

std::string evaluate_retrieval(TextEmbedder& embedder, const EvalArguments& arguments) {
  Store store(arguments.store);
  ingest_corpus(store, embedder, arguments);
  CollectionInfo info = store.collection(arguments.collection);
  auto questions = parse_eval_questions(read_file(arguments.questions));
  Retriever retriever(store, &embedder);
  Packer packer(store, &embedder);
  EmbedderCounter counter(embedder);
  std::vector<std::string> names = {arguments.collection};

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
  options.reorder = false;
  measure("fused", options, false);
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
