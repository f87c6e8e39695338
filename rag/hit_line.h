// The line of a hit that shows best why it was found, for output in the shape of grep.
//
// Threads: pure function.
#pragma once

#include <string>
#include <string_view>

#include "rag/retriever.h"

namespace apud {

struct HitLine {
  std::string text;  // without its line break
  Anchor from;       // where it stands
};

/// The line that holds most of the query's words; of equal ones that of the sentence nearest in
/// meaning, where the search knows it (Hit::sentences), else the first with text. A line of more
/// than 320 columns (a paragraph, a table in one line) is cut to its best sentence by the same
/// measure and those around it that have room; "…" stands where it was cut.
HitLine best_line(const Hit& hit, std::string_view query);

}  // namespace apud
