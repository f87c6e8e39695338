// gitignore patterns. Source: gitignore(5), "Pattern format".
//
// Threads: const after parsing.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace apud {

/// Shell pattern against one path segment or name: * ? [a-z] [!a] [[:alpha:]] \x. Linear in
/// pattern x name at worst.
bool glob_match(std::string_view pattern, std::string_view name);

/// One list of patterns; later patterns win.
class IgnoreRules {
 public:
  IgnoreRules() = default;
  /// Parses a whole ignore file.
  explicit IgnoreRules(std::string_view content);
  void add(std::string_view line);
  bool empty() const { return rules_.empty(); }
  /// `path` is relative to the folder of the list, without leading slash. True: ignored; false:
  /// re-included by a ! pattern; absent: no pattern speaks of it.
  std::optional<bool> decide(std::string_view path, bool is_folder) const;

 private:
  struct Rule {
    std::vector<std::string> segments;  // "**" spans any number of path segments
    bool negated = false;
    bool folder_only = false;
    bool name_only = false;  // no slash in the pattern: matches the last segment
    bool literal = false;    // name_only without any special character
  };
  std::vector<Rule> rules_;
};

}  // namespace apud
