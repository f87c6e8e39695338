// What a person typed, as searches: plain questions, and the syntax of `apud search`.
//
// Threads: free functions on values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace apud {

/// FTS5 expression that matches any of the text's words; stop words are left out unless there is
/// nothing else. Empty when the text has no word. `columns` like "{body path}" or empty: all.
std::string any_word_match(std::string_view text, std::string_view columns = {});

/// `"a phrase" word -without -"that phrase" path:GLOB after:2024-01-31 before:2025-01-01`.
struct SearchQuery {
  std::string text;                   // words and phrases without the operators: what is embedded
  std::vector<std::string> required;  // phrases that must stand in a hit
  std::vector<std::string> excluded;  // words or phrases that must not
  std::vector<std::string> paths;     // globs; a hit's path matches one of them
  std::optional<int64_t> after_ns;    // of the file's modification time
  std::optional<int64_t> before_ns;
  bool filters() const {
    return !required.empty() || !excluded.empty() || !paths.empty() || after_ns || before_ns;
  }
};
/// Throws kUsage for an open quote or a date that is none.
SearchQuery parse_search_query(std::string_view typed);
/// FTS5 expression for one phrase; empty when it has no word.
std::string phrase_match(std::string_view phrase);
/// Shell-like glob over a whole path or its end: * within a name, ** over folders, ?.
bool path_glob(std::string_view glob, std::string_view path);

}  // namespace apud
