// Mean and standard deviation.
#pragma once

#include <cmath>
#include <span>

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

}  // namespace apud
