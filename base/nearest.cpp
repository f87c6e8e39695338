#include "base/nearest.h"

#include <algorithm>
#include <numeric>

namespace apud {

namespace {
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}
}  // namespace

std::vector<std::string> nearest_names(const std::string& wanted,
                                       const std::vector<std::string>& names) {
  // Names are short; a hostile one is cut so that the distance stays cheap.
  std::string name = wanted.substr(0, 200);
  std::vector<std::pair<size_t, std::string>> ranked;
  for (const std::string& candidate : names) {
    size_t distance = edit_distance(name, candidate.substr(0, 200));
    bool contains = !name.empty() && candidate.find(name) != std::string::npos;
    bool near = distance * 2 <= std::max(name.size(), candidate.size()) || contains;
    if (near || names.size() <= 3) ranked.push_back({contains ? 0 : distance, candidate});
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<std::string> out;
  for (size_t i = 0; i < ranked.size() && i < 3; ++i) out.push_back(ranked[i].second);
  return out;
}

}  // namespace apud
