// Scoring, perplexity and pinning: sequences that run to their end at once, outside the scheduler.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "engine/engine.h"
#include "engine/impl/engine_impl.h"

namespace apud {
namespace {

// Rows of logits held at once: 64 rows of a 150,000-token vocabulary are 38 MB.
constexpr int kMaxOutputRows = 64;

}  // namespace

/// Runs sequences together, a step at a time, until all are computed. share: with the prefix tree.
void Engine::Impl::run_scored(std::span<Scored> sequences, bool share, const CancelFlag* cancel) {
  auto release_all = [&] {
    for (Scored& sequence : sequences) memory->release(sequence.kv);
  };
  try {
    for (Scored& sequence : sequences) {
      if (share) {
        int limit = std::min(sequence.first_output, static_cast<int>(sequence.tokens.size()));
        memory->match(sequence.kv, sequence.tokens, limit);
        memory->restore(sequence.kv, sequence.tokens, limit);
      }
    }
    for (;;) {
      if (cancel && cancel->raised()) break;
      std::vector<int32_t> tokens, output_rows;
      std::vector<SequenceSlice> slices;
      std::vector<std::pair<Scored*, int>> row_of;  // sequence and position of each output row
      std::vector<std::pair<Scored*, int>> stepped;
      for (Scored& sequence : sequences) {
        int left = static_cast<int>(sequence.tokens.size()) - sequence.kv.computed;
        int room = options.step_tokens - static_cast<int>(tokens.size());
        int before = std::max(0, sequence.first_output - sequence.kv.computed);
        int rows_left = kMaxOutputRows - static_cast<int>(output_rows.size());
        int count = std::min({left, room, before + rows_left});
        if (count <= 0) continue;
        memory->grow(sequence.kv, sequence.kv.computed + count);
        SequenceSlice slice;
        slice.first_row = static_cast<int>(tokens.size());
        slice.token_count = count;
        slice.position = sequence.kv.computed;
        for (size_t g = 0; g < model->program().kv_groups.size(); ++g) {
          slice.pages[g] = sequence.kv.pages;
        }
        slices.push_back(slice);
        for (int i = 0; i < count; ++i) {
          int position = sequence.kv.computed + i;
          if (position >= sequence.first_output) {
            output_rows.push_back(static_cast<int32_t>(tokens.size()));
            row_of.emplace_back(&sequence, position);
          }
          tokens.push_back(sequence.tokens[static_cast<size_t>(position)]);
        }
        stepped.emplace_back(&sequence, count);
      }
      if (slices.empty()) break;
      logits.resize(output_rows.size() * static_cast<size_t>(vocab));
      executor->run({tokens, slices, output_rows}, &memory->store(), logits);
      for (auto [sequence, count] : stepped) {
        sequence->kv.computed += count;
        if (share) memory->publish(sequence->kv, sequence->tokens);
      }
      for (size_t i = 0; i < row_of.size(); ++i) {
        row_of[i].first->sink(
            row_of[i].second,
            std::span(logits).subspan(i * static_cast<size_t>(vocab), static_cast<size_t>(vocab)));
      }
    }
  } catch (...) {
    release_all();
    throw;
  }
  release_all();
}

std::vector<std::vector<float>> Engine::score(std::span<const ScoreItem> items,
                                              const CancelFlag* cancel) {
  Impl& impl = *impl_;
  APUD_CHECK(impl.running.empty() && impl.waiting.empty(), "scoring while requests run");
  std::vector<std::vector<float>> result(items.size());
  std::vector<Impl::Scored> all;
  for (size_t i = 0; i < items.size(); ++i) {
    const ScoreItem& item = items[i];
    impl.check_tokens(item.prompt);
    impl.check_tokens(item.continuation);
    result[i].assign(item.continuation.size(), 0);
    auto sink = [&impl, &result, i, &item](int position, std::span<const float> logits) {
      auto at = static_cast<size_t>(position) + 1 - item.prompt.size();
      double value = log_softmax_at(logits, item.continuation[at]);
      if (std::isnan(value)) {
        throw Error(ErrorKind::kBadData, "the model's output is not a number",
                    "the model file may be damaged (apud model info)");
      }
      result[i][at] = static_cast<float>(value);
    };
    bool same_prompt = i > 0 && item.continuation.size() == 1 &&
                       items[i - 1].continuation.size() == 1 && items[i - 1].prompt == item.prompt;
    if (same_prompt) {
      // One row of logits answers for every candidate token.
      auto earlier = std::move(all.back().sink);
      all.back().sink = [earlier, sink](int position, std::span<const float> logits) {
        earlier(position, logits);
        sink(position, logits);
      };
      continue;
    }
    Impl::Scored scored;
    scored.tokens = item.prompt;
    scored.tokens.insert(scored.tokens.end(), item.continuation.begin(),
                         item.continuation.end() - 1);
    if (static_cast<int>(scored.tokens.size()) > impl.options.context) {
      throw Error(ErrorKind::kUsage,
                  "an item to score has " + std::to_string(scored.tokens.size()) +
                      " tokens, the context " + std::to_string(impl.options.context));
    }
    scored.first_output = static_cast<int>(item.prompt.size()) - 1;
    scored.sink = std::move(sink);
    all.push_back(std::move(scored));
  }
  size_t done = 0;
  while (done < all.size()) {
    // As many as fit; their prompts' common beginning is in the tree after the first.
    size_t count = 0;
    int pages = 0;
    size_t most = options().prefix_cache && done == 0
                      ? 1
                      : static_cast<size_t>(options().max_batch_sequences);
    while (done + count < all.size() && count < most) {
      pages += kv_blocks(static_cast<int>(all[done + count].tokens.size())) + 1;
      if (count > 0 && pages > impl.memory->page_count()) break;
      ++count;
    }
    impl.memory->available(pages);
    impl.run_scored(std::span(all).subspan(done, count), options().prefix_cache, cancel);
    done += count;
    if (cancel && cancel->raised()) break;
  }
  return result;
}

double Engine::perplexity(std::span<const int32_t> tokens, const CancelFlag* cancel) {
  Impl& impl = *impl_;
  APUD_CHECK(impl.running.empty() && impl.waiting.empty(), "scoring while requests run");
  impl.check_tokens(tokens);
  if (tokens.size() < 2) throw Error(ErrorKind::kUsage, "perplexity needs at least 2 tokens");
  double sum = 0;
  int64_t count = 0;
  auto window = static_cast<size_t>(impl.options.context);
  for (size_t from = 0; from + 1 < tokens.size(); from += window) {
    auto part = tokens.subspan(from, std::min(window, tokens.size() - from));
    if (part.size() < 2) break;
    std::vector<Impl::Scored> one(1);
    one[0].tokens.assign(part.begin(), part.end() - 1);
    one[0].sink = [&](int position, std::span<const float> logits) {
      sum -= log_softmax_at(logits, part[static_cast<size_t>(position) + 1]);
      ++count;
    };
    impl.run_scored(one, false, cancel);
    if (cancel && cancel->raised()) break;
  }
  return count > 0 ? std::exp(sum / static_cast<double>(count)) : 0;
}

int Engine::pin(std::span<const int32_t> tokens, std::span<const std::string> tags) {
  Impl& impl = *impl_;
  APUD_CHECK(impl.running.empty() && impl.waiting.empty(), "pinning while requests run");
  impl.check_tokens(tokens);
  if (!impl.options.prefix_cache) {
    throw Error(ErrorKind::kUsage, "nothing can be pinned while the prefix cache is off");
  }
  if (static_cast<int>(tokens.size()) >= impl.options.context) {
    throw Error(ErrorKind::kUsage,
                "a pinned text has " + std::to_string(tokens.size()) + " tokens, the context " +
                    std::to_string(impl.options.context),
                "pin a shorter document or raise --ctx");
  }
  std::vector<Impl::Scored> one(1);
  one[0].tokens.assign(tokens.begin(), tokens.end());
  one[0].first_output = static_cast<int>(tokens.size());
  impl.run_scored(one, true, nullptr);
  int pinned = impl.memory->tree().pin(tokens);
  if (impl.memory->disk()) {
    KvSequence kv;
    impl.memory->match(kv, tokens, pinned);
    impl.memory->save(kv, tokens, tags);
    impl.memory->release(kv);
  }
  return pinned;
}

void Engine::unpin(std::span<const int32_t> tokens) { impl_->memory->tree().unpin(tokens); }

}  // namespace apud
