#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "base/error.h"

namespace apud {
namespace {

std::vector<float> random_logits(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(count);
  for (float& x : logits) x = normal(generator);
  return logits;
}

/// The distribution by its definition: full sort, double precision.
std::map<int32_t, double> expected(const std::vector<float>& logits, const SamplingRow& row) {
  std::vector<std::pair<double, int32_t>> order;
  std::map<int32_t, int> counts;
  for (int32_t id : row.seen) ++counts[id];
  for (size_t i = 0; i < logits.size(); ++i) {
    double x = logits[i];
    auto id = static_cast<int32_t>(i);
    if (auto it = counts.find(id); it != counts.end()) {
      x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
      x -= row.presence_penalty + row.frequency_penalty * it->second;
    }
    order.push_back({-x / row.temperature, id});
  }
  std::sort(order.begin(), order.end());
  if (row.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(row.top_k)));
  double best = order[0].first, total = 0;
  std::vector<double> p;
  for (auto& [x, id] : order) p.push_back(std::exp(best - x));
  if (row.min_p > 0) {
    while (p.back() < row.min_p) p.pop_back();
  }
  total = std::accumulate(p.begin(), p.end(), 0.0);
  double sum = 0;
  size_t kept = 0;
  while (kept < p.size() && sum < row.top_p * total) sum += p[kept++];
  if (row.top_p >= 1) kept = p.size(), sum = total;
  std::map<int32_t, double> result;
  for (size_t i = 0; i < kept; ++i) result[order[i].second] = p[i] / sum;
  return result;
}

void expect_distribution(const std::vector<float>& logits, SamplingRow row, int draws = 40000) {
  auto wanted = expected(logits, row);
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) {
    row.counter = static_cast<uint64_t>(i);
    ++counts[sample_row(logits, row).id];
  }
  for (auto& [id, count] : counts) {
    ASSERT_TRUE(wanted.contains(id)) << "token " << id << " must never be drawn";
  }
  for (auto& [id, p] : wanted) {
    double sigma = std::sqrt(p * (1 - p) / draws);
    EXPECT_NEAR(static_cast<double>(counts[id]) / draws, p, 5 * sigma + 1e-9) << "token " << id;
  }
}

TEST(Sampling, PhiloxKnownAnswer) {
  // Random123's kat_vectors: philox4x32-10, zero counter and key: 6627e8d5 e169c58d ...
  EXPECT_EQ(uniform_from(0, 0), static_cast<double>(0xe169c58d6627e8d5ull >> 11) * 0x1p-53);
  EXPECT_NE(uniform_from(1, 0), uniform_from(0, 0));
  EXPECT_NE(uniform_from(0, 1), uniform_from(0, 0));
  EXPECT_NE(uniform_from(1ull << 32, 0), uniform_from(0, 0));
}

TEST(Sampling, GreedyTakesTheLowestOfEqualsAndSkipsNan) {
  std::vector<float> logits = {1, 5, 5, std::numeric_limits<float>::quiet_NaN(), -1};
  SampledToken token = sample_row(logits, {});
  EXPECT_EQ(token.id, 1);
  double z = std::exp(1 - 5.0) + 2 + std::exp(-1 - 5.0);
  EXPECT_NEAR(token.logprob, -std::log(z), 1e-6);
}

TEST(Sampling, LogprobIsOfTheRawLogits) {
  auto logits = random_logits(1000, 1);
  SamplingRow row;
  row.temperature = 0.3f;
  row.top_k = 5;
  row.seed = 7;
  SampledToken token = sample_row(logits, row);
  double z = 0;
  for (float x : logits) z += std::exp(static_cast<double>(x));
  EXPECT_NEAR(token.logprob, logits[static_cast<size_t>(token.id)] - std::log(z), 1e-5);
}

TEST(Sampling, EveryCutDrawsFromItsDistribution) {
  auto logits = random_logits(50, 2);
  SamplingRow row;
  row.temperature = 1.5f;
  row.seed = 99;
  expect_distribution(logits, row);
  SamplingRow k = row;
  k.top_k = 7;
  expect_distribution(logits, k);
  SamplingRow p = row;
  p.top_p = 0.8f;
  expect_distribution(logits, p);
  SamplingRow m = row;
  m.min_p = 0.1f;
  expect_distribution(logits, m);
  SamplingRow all = row;
  all.top_k = 20;
  all.min_p = 0.02f;
  all.top_p = 0.9f;
  // Of those that are drawn often: what the cuts leave out would hide a wrong penalty.
  std::vector<int32_t> best(logits.size());
  std::iota(best.begin(), best.end(), 0);
  std::sort(best.begin(), best.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  std::vector<int32_t> seen = {best[0], best[0], best[0], best[1], best[4], 7};
  all.seen = seen;
  all.repetition_penalty = 1.3f;
  all.presence_penalty = 0.2f;
  all.frequency_penalty = 0.3f;
  expect_distribution(logits, all);
}

TEST(Sampling, EachPenaltyLowersWhatWasSeen) {
  const std::vector<float> logits = {2, 1.5f, 1, -0.5f, -1, 0.2f};
  const std::vector<int32_t> seen = {0, 3, 0, 1, 0};
  SamplingRow row;
  row.temperature = 1.2f;
  row.seed = 5;
  row.seen = seen;
  SamplingRow repetition = row, presence = row, frequency = row;
  repetition.repetition_penalty = 1.6f;
  presence.presence_penalty = 0.8f;
  frequency.frequency_penalty = 0.4f;
  for (const SamplingRow& each : {repetition, presence, frequency})
    expect_distribution(logits, each);
}

TEST(Sampling, TiesAtACutGoToTheLowerIds) {
  std::vector<float> logits(100, 1.0f);
  SamplingRow row;
  row.temperature = 1;
  row.top_k = 4;
  for (uint64_t i = 0; i < 200; ++i) {
    row.counter = i;
    EXPECT_LT(sample_row(logits, row).id, 4);
  }
}

TEST(Sampling, MaskForbids) {
  auto logits = random_logits(130, 3);
  std::vector<uint64_t> mask(3, 0);
  mask[2] = 2;  // token 129 only
  SamplingRow row;
  row.allowed = mask;
  EXPECT_EQ(sample_row(logits, row).id, 129);
  EXPECT_NEAR(sample_row(logits, row).logprob, 0, 1e-6);
  row.temperature = 2;
  EXPECT_EQ(sample_row(logits, row).id, 129);
}

TEST(Sampling, NoFiniteLogitIsAnError) {
  std::vector<float> logits(8, std::numeric_limits<float>::quiet_NaN());
  logits[3] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(sample_row(logits, {}), Error);
}

TEST(Sampling, TheMostProbableComeFirstWithTheirLogprobs) {
  auto logits = random_logits(1000, 9);
  logits[17] = logits[400] = 60;  // a tie
  logits[5] = std::numeric_limits<float>::quiet_NaN();
  auto best = most_probable(logits, {}, 12);
  ASSERT_EQ(best.size(), 12u);
  EXPECT_EQ(best[0].id, 17);
  EXPECT_EQ(best[1].id, 400);
  EXPECT_NEAR(best[0].logprob, std::log(0.5), 1e-5);
  for (size_t i = 1; i < best.size(); ++i) {
    EXPECT_LE(best[i].logprob, best[i - 1].logprob);
    SamplingRow only;  // as a draw of that token would say
    std::vector<uint64_t> without(16, ~uint64_t{0});
    for (size_t k = 0; k < i; ++k)
      without[static_cast<size_t>(best[k].id) / 64] &= ~(uint64_t{1} << (best[k].id % 64));
    only.allowed = without;
    EXPECT_EQ(sample_row(logits, only).id, best[i].id);
  }
  std::vector<uint64_t> mask(16);
  mask[6] = uint64_t{1} << 16;  // 400 alone
  SamplingRow row;
  row.allowed = mask;
  auto alone = most_probable(logits, row, 12);
  ASSERT_EQ(alone.size(), 1u);
  EXPECT_EQ(alone[0].id, 400);
  EXPECT_NEAR(alone[0].logprob, 0, 1e-6);
  EXPECT_THROW(most_probable(std::vector<float>(4, NAN), {}, 2), Error);
}

TEST(Sampling, SameSeedSameTokens) {
  auto logits = random_logits(150000, 4);
  SamplingRow row;
  row.temperature = 0.7f;
  row.top_p = 0.95f;
  row.seed = 123;
  std::vector<int32_t> first, second;
  for (uint64_t i = 0; i < 16; ++i) {
    row.counter = i;
    first.push_back(sample_row(logits, row).id);
    second.push_back(sample_row(logits, row).id);
  }
  EXPECT_EQ(first, second);
  EXPECT_GT(*std::max_element(first.begin(), first.end()),
            *std::min_element(first.begin(), first.end()));
}

}  // namespace
}  // namespace apud
