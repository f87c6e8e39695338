// A text run as one sequence, some tokens a step, with the logits of every position.
#pragma once

#include <algorithm>
#include <chrono>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace apud::test {

/// Calls done(at, logits, seconds) behind each step, whose tokens begin at `at`, with the logits of
/// all of them and what the executor took.
template <typename Done>
void run_one_sequence(Executor& executor, std::span<const int32_t> ids, KvType type, size_t step,
                      Done&& done) {
  const Program& program = executor.program();
  const auto vocab = static_cast<size_t>(program.values[static_cast<size_t>(program.result)].cols);
  std::vector<int32_t> pages((ids.size() + kKvPageTokens - 1) / kKvPageTokens);
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<int> counts(program.kv_groups.size(), static_cast<int>(pages.size()));
  auto kv = executor.make_kv(counts, type);
  std::vector<float> logits;
  for (size_t at = 0; at < ids.size(); at += step) {
    const size_t count = std::min(step, ids.size() - at);
    SequenceSlice slice{0, static_cast<int>(count), static_cast<int>(at), {}};
    for (auto& group : slice.pages) group = pages;
    std::vector<int32_t> rows(count);
    std::iota(rows.begin(), rows.end(), 0);
    logits.resize(count * vocab);
    const auto start = std::chrono::steady_clock::now();
    executor.run({ids.subspan(at, count), std::span(&slice, 1), rows}, kv.get(), logits);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    done(at, logits, taken.count());
  }
}

}  // namespace apud::test
