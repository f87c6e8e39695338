// `apud search`: passages, grep-shaped.
#include <fmt/format.h>

#include <set>

#include "app/answer.h"
#include "app/json_text.h"
#include "app/progress.h"
#include "app/runtime.h"
#include "base/ascii.h"
#include "base/utf8.h"
#include "rag/hit_line.h"

namespace apud {

int verb_search(Runtime& runtime) {
  const Options& o = runtime.options;
  Terminal& terminal = runtime.terminal;
  std::string query;
  for (const std::string& word : o.search.words) query += (query.empty() ? "" : " ") + word;
  query = utf8_repair(query);
  if (is_blank(query)) throw Error(ErrorKind::kUsage, "empty query", "apud search \"words\"");
  std::vector<std::string> names = runtime.collections();
  if (names.empty()) {
    throw Error(ErrorKind::kNoInput, "no documents yet", "apud ingest FOLDER takes some in");
  }
  RetrieveOptions retrieve = retrieve_options(o.settings);
  retrieve.mode = parse_search_mode(o.search.mode);
  retrieve.k = o.search.count;
  retrieve.candidates = std::max(100, 2 * o.search.count);
  retrieve.query_syntax = true;
  Retrieval found;
  if (retrieve.mode == SearchMode::kBm25) {
    Retriever keyword(runtime.store(), nullptr);  // no embedder is loaded for words alone
    found = keyword.retrieve(query, names, retrieve);
  } else {
    found = runtime.retriever(names).retrieve(query, names, retrieve);
  }
  if (o.common.json) {
    ordered_json out;
    out["schema"] = kJsonSchema;
    out["query"] = found.query;
    out["results"] = ordered_json::array();
    for (const Hit& hit : found.hits) {
      auto known = [](int number) { return number > 0 ? ordered_json(number) : ordered_json(); };
      ordered_json one = {{"path", hit.path},
                          {"line", known(hit.from.line)},
                          {"page", known(hit.from.page)},
                          {"collection", hit.collection_name},
                          {"heading", hit.heading_path},
                          {"score", hit.score}};
      if (!hit.from.member.empty()) one["member"] = hit.from.member;
      one["dense"] = hit.dense ? ordered_json(*hit.dense) : ordered_json();
      one["bm25"] = hit.bm25 ? ordered_json(*hit.bm25) : ordered_json();
      one["text"] = hit.text;
      out["results"].push_back(one);
    }
    out["below_line"] = found.below_line;
    out["timing"] = {{"embed_ms", found.embed_ms}, {"search_ms", found.search_ms}};
    terminal.out(dump_json(out) + "\n");
  } else if (o.search.files_only) {
    std::set<std::string> seen;
    for (const Hit& hit : found.hits) {
      if (seen.insert(hit.path).second) terminal.out_text(shown_path(hit.path) + "\n");
    }
  } else {
    for (const Hit& hit : found.hits) {
      HitLine line = best_line(hit, found.query);
      terminal.out_text(place_of(shown_path(hit.path), line.from) + ": " +
                        printable(line.text, true) + "\n");
      if (o.common.verbose) {
        terminal.note(fmt::format("    score {:.3f} dense {} bm25 {} · {}", hit.score,
                                  hit.dense ? fmt::format("{:.3f}", *hit.dense) : "-",
                                  hit.bm25 ? fmt::format("{:.2f}", *hit.bm25) : "-",
                                  hit.heading_path));
      }
    }
  }
  terminal.flush();
  for (const std::string& warning : found.warnings) terminal.warn(warning);
  if (o.common.verbose) {
    terminal.note(fmt::format(
        "embed {:.1f} ms · search {:.1f} ms · best cosine {:.3f}, relevance {:.3f}, "
        "abstain line {:.3f}",
        found.embed_ms, found.search_ms, found.best_dense, found.relevance, found.abstain_line));
  }
  return found.hits.empty() ? 1 : 0;
}

}  // namespace apud
