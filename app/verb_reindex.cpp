// `apud coll reindex`: a collection cut and embedded anew beside the live one, compared, swapped
// in.
#include <fmt/format.h>

#include "app/evaluate.h"
#include "app/progress.h"
#include "app/signals.h"
#include "rag/index.h"
#include "rag/reindex.h"

namespace apud {

namespace {

constexpr size_t kNamedLosses = 10;

int finish(Runtime& runtime, ordered_json out, const std::string& table, bool swapped) {
  Terminal& terminal = runtime.terminal;
  out["swapped"] = swapped;
  terminal.out(runtime.options.common.json ? dump_json(out) + "\n" : table);
  terminal.flush();
  return swapped ? 0 : 1;
}

}  // namespace

int reindex_collection(Runtime& runtime, const std::string& name) {
  const Options& o = runtime.options;
  Terminal& terminal = runtime.terminal;
  std::vector<EvalQuestion> questions;
  if (!o.eval.questions.empty()) {
    questions = parse_eval_questions(read_file(o.eval.questions, 256u << 20));
    if (questions.empty()) throw Error(ErrorKind::kBadData, o.eval.questions + ": no questions");
  }
  Store& store = runtime.writer();
  CollectionInfo live = store.collection(name);
  EngineEmbedder& embedder = runtime.embedder(o.settings.embedder);
  ReindexOptions options;
  options.chunking = chunk_options_for(embedder.max_tokens(), o.settings.chunk);
  terminal.note(fmt::format("{}: from {}, {} to {}, {}", name, live.embedder.name, live.chunker,
                            embedder.name(), chunker_settings(options.chunking)));
  Shadow shadow = build_shadow(
      store, embedder, name, options,
      [&](const IngestProgress& p) {
        terminal.progress(fmt::format("{}/{} files · {} chunks", with_commas(p.files_done),
                                      with_commas(p.files_total), with_commas(p.chunks_done)));
      },
      &cancel_flag());
  terminal.progress("", true);
  if (shadow.report.cancelled) {
    terminal.note("stopped; the same command goes on from here");
    throw Interrupted();
  }
  for (const std::string& warning : shadow.report.warnings) terminal.warn(warning);
  const std::string shadow_name = Store::shadow_name(name);
  CollectionInfo built = store.collection(shadow_name);
  if (!shadow.lost.empty()) {
    for (size_t i = 0; i < std::min(shadow.lost.size(), kNamedLosses); ++i)
      terminal.warn("cannot be read anew: " + shadow.lost[i]);
    throw Error(ErrorKind::kBadData,
                fmt::format("not swapped: {} of {} documents would be lost", shadow.lost.size(),
                            live.documents),
                "mend or remove them (apud doc rm), then run it again: only they are read");
  }
  ordered_json out = {{"schema", kJsonSchema},        {"collection", name},
                      {"embedder", embedder.name()},  {"chunker", built.chunker},
                      {"documents", built.documents}, {"chunks", built.chunks}};
  std::string table;
  if (!questions.empty()) {
    runtime.want_engine({.save = false});
    std::vector<Judged> mine = judge_all(runtime, questions, shadow_name);
    std::vector<Judged> theirs = judge_all(runtime, questions, name);
    Comparison comparison = compare(o.eval, mine, theirs, "live");
    table = comparison.table;
    out["scores"] = comparison.scores;
    if (!comparison.better || comparison.worse) {
      WriteLock lock(store);
      store.remove_collection(lock, shadow_name);
      terminal.note(fmt::format(
          "not swapped: {}; {} stays as it was",
          comparison.worse ? "worse in what is marked" : "no measure is better beyond chance",
          name));
      return finish(runtime, std::move(out), table, false);
    }
  }
  WriteLock lock(store);
  store.adopt_shadow(lock, name, shadow.generation);
  remake_vector_index(store, store.collection(name));
  terminal.note(fmt::format("swapped: {} has {} chunks, was {}", name, with_commas(built.chunks),
                            with_commas(live.chunks)));
  return finish(runtime, std::move(out), table, true);
}

}  // namespace apud
