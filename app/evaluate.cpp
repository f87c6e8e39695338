#include "app/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <unordered_map>

#include "app/answer.h"
#include "app/clock.h"
#include "app/generation.h"
#include "app/opening.h"
#include "app/progress.h"
#include "app/signals.h"
#include "base/stopwatch.h"
#include "rag/packer.h"

namespace apud {

namespace {

using Clock = std::chrono::steady_clock;

bool holds_gold(const EvalQuestion& question, const std::string& path, const std::string& text) {
  return std::any_of(question.gold.begin(), question.gold.end(),
                     [&](const auto& gold) { return gold_matches(gold, path, text); });
}

/// One question under the settings of `runtime`, as `ask` would treat it.
Judged judge(Runtime& runtime, const EvalQuestion& question, const std::string& collection) {
  const Options& o = runtime.options;
  EvidenceRequest request;
  request.question = question.question;
  request.collections = {collection};
  request.evidence_tokens = o.settings.evidence > 0 ? o.settings.evidence : kMostEvidence;
  request.k = std::max(request.k, o.eval.top);
  auto start = Clock::now();
  Evidence evidence = search_evidence(runtime, request);
  std::optional<Conversation> conversation;
  if (o.eval.answers) {
    request.answer_tokens = o.generation.max_tokens.value_or(o.settings.answer);
    request.context = runtime.context();
    Opening opening = make_opening(runtime, system_prompt(o, "", true), request.collections,
                                   request.answer_tokens);
    conversation.emplace(
        Conversation::start(runtime.chat_model().model, opening.system, unix_now()));
    if (evidence.found) pack_evidence(runtime, *conversation, request, evidence);
  } else if (evidence.found) {
    EmbedderCounter counter(runtime.embedder_of(runtime.store().collection(collection)));
    PackOptions pack;
    pack.budget = request.evidence_tokens;
    pack.sentence_vector_tokens = kSentenceVectorTokens;
    evidence.packed = runtime.packer(request.collections)
                          .pack(evidence.retrieval->hits, question.question, counter, pack);
  }
  Judged one;
  one.milliseconds = milliseconds_since(start);
  one.tokens = evidence.packed.tokens;
  one.gold_total = static_cast<int>(question.gold.size());
  for (const EvalQuestion::Gold& gold : question.gold) {
    for (const Hit& hit : evidence.retrieval->hits) {
      if (gold_matches(gold, hit.path, hit.text)) {
        one.gold_ranks.push_back(hit.rank);
        break;
      }
    }
  }
  std::sort(one.gold_ranks.begin(), one.gold_ranks.end());
  const std::vector<Passage>& passages = evidence.packed.passages;
  for (const Passage& passage : passages)
    one.packed |= holds_gold(question, passage.path, passage.source_text);
  if (!conversation || passages.empty()) return one;

  conversation->add_user(question.question, evidence.frame, unix_now());
  Prompt prompt = conversation->prompt(request.context - request.answer_tokens,
                                       o.settings.think == "off" ? Think::kOff : Think::kOn);
  Request generate = make_request(o, prompt, request.answer_tokens, 0);
  generate.save = false;
  restrict_citations(generate, *runtime.chat_model().model, passages);
  Finished finished;
  finished.evidence = evidence;
  finished.answer = runtime.engine().generate(std::move(generate));
  check_finished(finished, finished.answer.best(), passages);
  for (const Citation& citation : finished.checked.citations) {
    for (const Passage& passage : passages) {
      one.cited |=
          passage.id == citation.passage && holds_gold(question, passage.path, passage.source_text);
    }
  }
  return one;
}

/// A gold entry that names no document counts as not found for ever: more often a slip than a
/// finding.
void warn_unknown_gold(Runtime& runtime, const std::vector<EvalQuestion>& questions,
                       const std::string& collection) {
  std::unordered_multimap<std::string, std::string> paths;  // by file name
  Store& store = runtime.store();
  for (const DocumentInfo& d : store.documents(store.collection(collection).id)) {
    if (!d.vanished) paths.emplace(Path(d.path).filename().string(), d.path);
  }
  int unknown = 0;
  std::string first;
  for (const EvalQuestion& question : questions) {
    for (const EvalQuestion::Gold& gold : question.gold) {
      if (gold.path.empty()) continue;
      auto [begin, end] = paths.equal_range(Path(gold.path).filename().string());
      bool known = std::any_of(begin, end, [&](const auto& entry) {
        return gold_matches({gold.path, ""}, entry.second, "");
      });
      if (known) continue;
      if (unknown++ == 0) first = gold.path;
    }
  }
  if (unknown > 0) {
    runtime.terminal.warn(fmt::format("{} gold {} no document of {}, the first is '{}'", unknown,
                                      unknown == 1 ? "entry names" : "entries name", collection,
                                      first));
  }
}

ordered_json interval_json(const Interval& value) {
  return {{"mean", value.mean}, {"low", value.low}, {"high", value.high}};
}

}  // namespace

std::vector<Judged> judge_all(Runtime& runtime, const std::vector<EvalQuestion>& questions,
                              const std::string& collection) {
  std::vector<Judged> judged;
  warn_unknown_gold(runtime, questions, collection);
  for (const EvalQuestion& question : questions) {
    runtime.terminal.progress(
        fmt::format("{} of {} questions", judged.size() + 1, questions.size()));
    judged.push_back(judge(runtime, question, collection));
    if (cancel_flag().raised()) throw Interrupted();
  }
  runtime.terminal.progress("", true);
  return judged;
}

Comparison compare(const EvalOptions& options, std::span<const Judged> mine,
                   std::span<const Judged> theirs, const std::string& title) {
  Comparison out;
  out.scores = ordered_json::object();
  bool other = !theirs.empty();
  std::string& table = out.table;
  table = fmt::format("{:<10} {:>9}  {:<18}", "", "mean", "95% interval");
  if (other) table += fmt::format(" {:>9}  {:>10}  {:<18}", title, "difference", "95% interval");
  table.erase(table.find_last_not_of(' ') + 1);
  table += "\n";
  for (const Measure& measure : eval_measures(options.top, options.answers)) {
    auto shown = [&](double v) { return fmt::format("{:.{}f}", v, measure.cost ? 1 : 3); };
    auto range = [&](const Interval& i) { return "[" + shown(i.low) + ", " + shown(i.high) + "]"; };
    Interval value = mean_of(measure, mine);
    ordered_json row = interval_json(value);
    table += fmt::format("{:<10} {:>9}  {:<18}", measure.name, shown(value.mean), range(value));
    if (other) {
      Interval there = mean_of(measure, theirs);
      PairedDifference paired = paired_difference(measure, mine, theirs);
      bool loss = paired.lower && !measure.cost;
      out.worse |= loss;
      out.better |= paired.higher && !measure.cost;
      row["versus"] = interval_json(there);
      row["difference"] = interval_json(paired.difference);
      row["differing"] = paired.differing;
      table +=
          fmt::format(" {:>9}  {:>10}  {:<18}{}", shown(there.mean), shown(paired.difference.mean),
                      range(paired.difference), loss ? " worse" : "");
    }
    table.erase(table.find_last_not_of(' ') + 1);
    table += "\n";
    out.scores[measure.name] = row;
  }
  return out;
}

}  // namespace apud
