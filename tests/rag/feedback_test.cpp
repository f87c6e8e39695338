#include "rag/feedback.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace apud {
namespace {

/// By its definition, in doubles: scores + weight x spread x cosine around the mean with the best,
/// the r-th of which counts 1 / r.
std::vector<double> by_definition(const std::vector<double>& scores, std::vector<double> rows,
                                  size_t d) {
  const size_t n = scores.size();
  for (size_t j = 0; j < d; ++j) {
    double mean = 0;
    for (size_t i = 0; i < n; ++i) mean += rows[i * d + j] / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) rows[i * d + j] -= mean;
  }
  auto product = [&](const double* a, const double* b) {
    double sum = 0;
    for (size_t j = 0; j < d; ++j) sum += a[j] * b[j];
    return sum;
  };
  for (size_t i = 0; i < n; ++i) {
    double* row = rows.data() + i * d;
    const double length = std::sqrt(product(row, row));
    for (size_t j = 0; j < d; ++j) row[j] /= length;
  }
  std::vector<size_t> best(n);
  for (size_t i = 0; i < n; ++i) best[i] = i;
  std::sort(best.begin(), best.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  std::vector<double> wanted(d, 0);
  for (size_t r = 0; r < std::min(n, kFeedbackBest); ++r) {
    for (size_t j = 0; j < d; ++j) wanted[j] += rows[best[r] * d + j] / static_cast<double>(r + 1);
  }
  double mean = 0, spread = 0;
  for (double s : scores) mean += s / static_cast<double>(n);
  for (double s : scores) spread += (s - mean) * (s - mean) / static_cast<double>(n);
  std::vector<double> out = scores;
  for (size_t i = 0; i < n; ++i) {
    out[i] += kFeedbackWeight * std::sqrt(spread) * product(rows.data() + i * d, wanted.data()) /
              std::sqrt(product(wanted.data(), wanted.data()));
  }
  return out;
}

TEST(Feedback, IsNearnessToTheBestAroundTheMean) {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal(0, 1);
  for (size_t n : {2u, 3u, 7u, 40u}) {
    const size_t d = 16;
    std::vector<double> scores;
    std::vector<float> rows;
    for (size_t i = 0; i < n; ++i) {
      scores.push_back(normal(random));
      // All in one corner, as candidates of a question are.
      for (size_t j = 0; j < d; ++j) rows.push_back(3 + normal(random));
    }
    const std::vector<double> got = with_feedback(scores, rows, d);
    const std::vector<double> want =
        by_definition(scores, std::vector<double>(rows.begin(), rows.end()), d);
    ASSERT_EQ(got.size(), n);
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(got[i], want[i], 1e-4) << n << " " << i;
  }
}

TEST(Feedback, WhatIsLikeTheBestOnePassesWhatIsNot) {
  const std::vector<double> scores = {1.0, 0.5, 0.49, 0.1, 0.1};
  const std::vector<float> rows = {1, 0,   0,   /* off */ 0, 1,   0,  /* near */ .9f, .1f, 0,
                                   0, .9f, .1f, /* off */ 0, .9f, .2f};
  const std::vector<double> out = with_feedback(scores, rows, 3);
  EXPECT_GT(out[2], out[1]);
  EXPECT_GT(out[0], out[2]);
}

TEST(Feedback, WithoutVectorsOrRivalsScoresStay) {
  EXPECT_TRUE(with_feedback({}, {}, 4).empty());
  EXPECT_EQ(with_feedback(std::vector<double>{.7}, std::vector<float>{0, 1}, 2),
            std::vector<double>{.7});
  const std::vector<double> scores = {.7, .3};
  EXPECT_EQ(with_feedback(scores, std::vector<float>(4, 0.0f), 2), scores);
  // A chunk without a vector gets nothing and moves no other's mean.
  const std::vector<double> three =
      with_feedback(std::vector<double>{.7, .3, .5}, std::vector<float>{1, 0, 0, 0, 0, 1}, 2);
  EXPECT_EQ(three[1], .3);
  EXPECT_GT(three[0], .7);
  EXPECT_LT(three[2], .5);
}

}  // namespace
}  // namespace apud
