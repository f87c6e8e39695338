#include "kernels/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/error.h"

namespace apud {

namespace {

struct Candidate {
  float logit;
  int32_t id;
};

/// Better first; equal logits by lower id, so that every cut is reproducible.
bool better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

bool is_allowed(const SamplingRow& row, size_t id) {
  return row.allowed.empty() || ((row.allowed[id / 64] >> (id % 64)) & 1);
}

/// The allowed tokens with finite logits, in order of id.
std::vector<Candidate> candidates_of(std::span<const float> logits, const SamplingRow& row) {
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  bool any_allowed = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!is_allowed(row, i)) continue;
    any_allowed = true;
    if (std::isfinite(logits[i])) candidates.push_back({logits[i], static_cast<int32_t>(i)});
  }
  APUD_CHECK(any_allowed, "the mask of allowed tokens leaves one");
  if (candidates.empty()) {
    throw Error(ErrorKind::kBadData,
                fmt::format("all {} logits are NaN or infinite", logits.size()),
                "the model file is damaged or its weights overflow");
  }
  return candidates;
}

/// Penalties of the tokens seen so far; `candidates` is in order of id.
void apply_penalties(const SamplingRow& row, std::vector<Candidate>& candidates) {
  if (row.seen.empty() ||
      (row.repetition_penalty == 1 && row.presence_penalty == 0 && row.frequency_penalty == 0)) {
    return;
  }
  std::vector<int32_t> seen(row.seen.begin(), row.seen.end());
  std::sort(seen.begin(), seen.end());
  auto at = candidates.begin();
  for (size_t i = 0; i < seen.size();) {
    size_t end = i;
    while (end < seen.size() && seen[end] == seen[i]) ++end;
    at = std::lower_bound(at, candidates.end(), seen[i],
                          [](const Candidate& c, int32_t id) { return c.id < id; });
    if (at == candidates.end()) return;
    if (at->id == seen[i]) {
      float& logit = at->logit;
      logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
      logit -= row.presence_penalty + row.frequency_penalty * static_cast<float>(end - i);
    }
    i = end;
  }
}

float log_sum_exp(const std::vector<Candidate>& candidates) {
  float best = -std::numeric_limits<float>::infinity();
  for (const Candidate& c : candidates) best = std::max(best, c.logit);
  double sum = 0;
  for (const Candidate& c : candidates) sum += std::exp(c.logit - best);
  return best + static_cast<float>(std::log(sum));
}

/// The worst candidate of the smallest set of best ones that holds `share` of the mass, found by
/// halving: O(n) expected, no sort.
Candidate nucleus_end(std::vector<Candidate> candidates, double share, float best,
                      double inverse_t) {
  auto mass = [&](size_t begin, size_t end) {
    double sum = 0;
    for (size_t i = begin; i < end; ++i) {
      sum += std::exp((static_cast<double>(candidates[i].logit) - best) * inverse_t);
    }
    return sum;
  };
  size_t low = 0, high = candidates.size();
  double wanted = share * mass(low, high), have = 0;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    auto at = [&](size_t i) { return candidates.begin() + static_cast<std::ptrdiff_t>(i); };
    std::nth_element(at(low), at(middle), at(high), better);
    double left = mass(low, middle);
    if (have + left >= wanted) {
      high = middle;
    } else {
      have += left;
      low = middle;
    }
  }
  return candidates[low];
}

}  // namespace

double uniform_from(uint64_t seed, uint64_t counter) {
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  uint32_t x[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  for (int round = 0; round < 10; ++round) {
    uint64_t a = 0xD2511F53ull * x[0], b = 0xCD9E8D57ull * x[2];
    uint32_t y0 = static_cast<uint32_t>(b >> 32) ^ x[1] ^ key[0];
    uint32_t y2 = static_cast<uint32_t>(a >> 32) ^ x[3] ^ key[1];
    x[1] = static_cast<uint32_t>(b);
    x[3] = static_cast<uint32_t>(a);
    x[0] = y0;
    x[2] = y2;
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  uint64_t bits = static_cast<uint64_t>(x[1]) << 32 | x[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

SampledToken sample_row(std::span<const float> logits, const SamplingRow& row) {
  APUD_CHECK(row.allowed.empty() || row.allowed.size() >= (logits.size() + 63) / 64,
             "the mask covers the vocabulary");
  std::vector<Candidate> candidates = candidates_of(logits, row);
  float normaliser = log_sum_exp(candidates);
  auto result = [&](int32_t id) {
    return SampledToken{id, logits[static_cast<size_t>(id)] - normaliser};
  };
  apply_penalties(row, candidates);
  Candidate best = *std::min_element(candidates.begin(), candidates.end(), better);
  if (!(row.temperature > 0)) return result(best.id);

  double inverse_t = 1.0 / static_cast<double>(row.temperature);
  auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - best.logit) * inverse_t);
  };
  // Each cut is found as its worst survivor, then applied in order of id: the draw below walks the
  // survivors by id whatever the cuts were.
  auto keep_up_to = [&](const Candidate& last) {
    std::erase_if(candidates, [&](const Candidate& c) { return better(last, c); });
  };
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < candidates.size()) {
    std::vector<Candidate> order = candidates;
    auto nth = order.begin() + (row.top_k - 1);
    std::nth_element(order.begin(), nth, order.end(), better);
    keep_up_to(*nth);
  }
  if (row.min_p > 0) {
    double limit = std::min(static_cast<double>(row.min_p), 1.0);
    std::erase_if(candidates, [&](const Candidate& c) { return weight(c) < limit; });
  }
  if (row.top_p < 1 && candidates.size() > 1) {
    keep_up_to(nucleus_end(candidates, std::max(row.top_p, 0.0f), best.logit, inverse_t));
  }

  double total = 0;
  for (const Candidate& c : candidates) total += weight(c);
  double target = uniform_from(row.seed, row.counter) * total;
  double sum = 0;
  for (const Candidate& c : candidates) {
    sum += weight(c);
    if (sum > target) return result(c.id);
  }
  return result(best.id);  // only when rounding keeps sum at target
}

std::vector<SampledToken> most_probable(std::span<const float> logits, const SamplingRow& row,
                                        int count) {
  APUD_CHECK(row.allowed.empty() || row.allowed.size() >= (logits.size() + 63) / 64,
             "the mask covers the vocabulary");
  std::vector<Candidate> candidates = candidates_of(logits, row);
  float normaliser = log_sum_exp(candidates);
  size_t kept = std::min(static_cast<size_t>(count), candidates.size());
  auto end = candidates.begin() + static_cast<std::ptrdiff_t>(kept);
  std::partial_sort(candidates.begin(), end, candidates.end(), better);
  std::vector<SampledToken> out;
  for (auto at = candidates.begin(); at != end; ++at)
    out.push_back({at->id, at->logit - normaliser});
  return out;
}

}  // namespace apud
