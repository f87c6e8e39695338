// Mean and standard deviation, also of values of which a few are of another kind.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace apud {

struct Spread {
  double mean = 0;
  double deviation = 0;  // of the values themselves, not of a population that they are drawn from
};

/// {0, 0} for none.
inline Spread spread_of(std::span<const double> values) {
  if (values.empty()) return {};
  const auto n = static_cast<double>(values.size());
  Spread spread;
  for (double v : values) spread.mean += v / n;
  double squares = 0;
  for (double v : values) squares += (v - spread.mean) * (v - spread.mean);
  spread.deviation = std::sqrt(squares / n);
  return spread;
}

/// Of the values less those that lie far above the rest: beyond three deviations, as the median one
/// from the median tells them (Hampel's identifier), which no few of them can move.
inline Spread spread_without_high_outliers(std::span<const double> values) {
  if (values.empty()) return {};
  auto median = [](std::vector<double> of) {
    const auto middle = of.begin() + static_cast<std::ptrdiff_t>(of.size() / 2);
    std::nth_element(of.begin(), middle, of.end());
    return *middle;
  };
  const double centre = median({values.begin(), values.end()});
  std::vector<double> away, kept;
  for (double v : values) away.push_back(std::abs(v - centre));
  const double most = 3 * 1.4826 * median(away);  // 1.4826: deviations of a normal distribution
  for (double v : values) {
    if (most == 0 || v - centre <= most) kept.push_back(v);
  }
  return spread_of(kept);
}

}  // namespace apud
