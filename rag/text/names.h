// Exact names in questions: error codes, article and part numbers, identifiers, file names. Who
// asks for E14 wants what says E14; neither a sentence's vector nor its tokens know such words.
//
// Threads: free functions on values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace apud {

/// Chunks that hold a name which says what is asked for; one that more hold is a common word.
inline constexpr int kMostHolders = 8;

/// Words of the text that name one thing: with letters and digits (E14, HL-3004; not 5kg or 2nd),
/// of five digits and more (20417), joined by underscores (fetch_stock) or as a file's name is
/// (resolv.conf). In order, each once.
std::vector<std::string> exact_names(std::string_view text);
/// Whether the name stands in the text, as the keyword index reads both.
bool holds_name(std::string_view text, std::string_view name);

}  // namespace apud
