// Questions with known answers run through retrieval as `ask` would run them; one setting's figures
// alone or beside another's. Shared by `eval` and `coll reindex`.
//
// Threads: one thread.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "app/json_text.h"
#include "app/runtime.h"
#include "rag/eval.h"

namespace apud {

/// All questions under the settings of `runtime`, in order. With EvalOptions::answers the chat
/// model answers each. Throws Interrupted when stopped: half of the questions measure something
/// else.
std::vector<Judged> judge_all(Runtime& runtime, const std::vector<EvalQuestion>& questions,
                              const std::string& collection);

struct Comparison {
  std::string table;    // a line per measure
  ordered_json scores;  // docs/json.md: eval
  bool worse = false;   // beyond chance in a measure that is no cost
  bool better = false;
};
/// theirs: the other setting's, under `title`; empty: none.
Comparison compare(const EvalOptions& options, std::span<const Judged> mine,
                   std::span<const Judged> theirs, const std::string& title);

}  // namespace apud
