// Does a passage bear a sentence? By the share of the sentence's content words that stand in it.
//
// Threads: pure functions.
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace apud {

/// Terms of a text without stop words, as the keyword index sees them, but numbers whole: 0.8, and
/// 85000 for 85,000.00.
std::set<std::string> content_terms(std::string_view text);
/// A rough stem for comparison only: plural and tense endings of English cut.
std::string rough_stem(const std::string& term);
/// content_terms, stemmed; of numbers with a fraction their integer part, too, 85000 for 八万五千
/// and 25 for twenty-five.
std::set<std::string> content_stems(std::string_view text);
/// Share of `sentence` (content_terms) whose stems are in `passage` (content_stems); 1 for none.
double support(const std::set<std::string>& sentence, const std::set<std::string>& passage);

}  // namespace apud
