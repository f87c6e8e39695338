// Words of a text as the keyword index sees them: Latin words folded, identifiers whole and in
// parts, CJK runs as bigrams (measured in rag.md section 3: hit@10 .35 -> .64 over unicode61).
//
// Threads: free functions, re-entrant.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace apud {

struct Term {
  std::string_view text;  // folded; valid during the callback
  size_t begin = 0;       // bytes of the source
  size_t end = 0;
  bool same_position = false;  // another reading of the term before it
};

/// Calls `emit` for each term in order; stops when it returns false. Linear; ill-formed UTF-8
/// separates words. Terms are at most 128 bytes (longer ones are cut).
void for_each_term(std::string_view text, const std::function<bool(const Term&)>& emit);
std::vector<std::string> terms_of(std::string_view text);
/// Words too common to search for (English and Chinese function words and question words), as
/// for_each_term folds them, before stemming.
bool is_stop_word(std::string_view term);

}  // namespace apud
