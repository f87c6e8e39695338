// Names nearest to one that does not exist, for advice in errors.
//
// Threads: free functions.
#pragma once

#include <string>
#include <vector>

namespace apud {

/// At most three of `names`, by edit distance (Levenshtein), nearest first; only near ones
/// (distance at most half the length, or one contains the other). All of `names` when there are at
/// most three.
std::vector<std::string> nearest_names(const std::string& wanted,
                                       const std::vector<std::string>& names);

}  // namespace apud
