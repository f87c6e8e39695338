// The marks that answers cite passages with: [3], [1, 4], [2-5].
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace apud {

/// A mark at text[pos] == '[': its ids and the byte after ']'. No ids: not a mark.
struct Mark {
  std::vector<int> ids;
  size_t end = 0;
  bool open = false;  // the text ends inside what may become a mark
};

Mark read_mark(std::string_view text, size_t pos);

}  // namespace apud
