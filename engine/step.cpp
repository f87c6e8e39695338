// A step of the engine: who gets how many tokens, the run, and what becomes of each row.
#include <algorithm>

#include "engine/impl/engine_impl.h"

namespace apud {

/// How many tokens each running sequence gets in the next step. Answers being written come first,
/// one token each; prompts share the rest in order of arrival. While answers are written, prompts
/// get few tokens a step, so that no reader waits for somebody else's long prompt.
int Engine::Impl::plan(std::vector<int>& chunks) {
  chunks.assign(running.size(), 0);
  int total = 0;
  for (size_t i = 0; i < running.size(); ++i) {
    if (running[i]->prefilling()) continue;
    chunks[i] = 1;
    ++total;
  }
  int budget = total > 0 ? std::min(options.mixed_step_tokens, executor->max_step_tokens() - total)
                         : options.step_tokens;
  for (size_t i = 0; i < running.size() && budget > 0; ++i) {
    const Sample& sample = *running[i];
    if (!sample.prefilling()) continue;
    chunks[i] = std::min(budget, sample.prompt_size() - sample.kv.computed);
    budget -= chunks[i];
    total += chunks[i];
  }
  return total;
}

/// Draws a token for every row but those of beams, whose logits are left in `logits`. A row without
/// a finite logit fails alone, not with its neighbours.
void Engine::Impl::sample_rows(const Batch& batch, std::span<const SamplingRow> rows,
                               std::span<Sample* const> owners, std::span<SampledToken> out,
                               std::vector<char>& failed) {
  failed.assign(rows.size(), 0);
  if (rows.empty()) {
    executor->run(batch, &memory->store(), {});
    return;
  }
  bool searching = std::any_of(owners.begin(), owners.end(),
                               [](const Sample* owner) { return owner->job->beams.has_value(); });
  if (!searching) {
    try {
      executor->run_sampled(batch, &memory->store(), rows, out);
      return;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kBadData) throw;
    }
    // Running the step again writes the same values to the same places.
  }
  logits.resize(rows.size() * static_cast<size_t>(vocab));
  executor->run(batch, &memory->store(), logits);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (owners[i]->job->beams) continue;
    try {
      out[i] = sample_row(row_logits(i), rows[i]);
    } catch (const Error& error) {
      failed[i] = 1;
      if (!owners[i]->job->error) owners[i]->job->error = error;
    }
  }
}

void Engine::Impl::run_step(const std::vector<int>& chunks) {
  std::vector<int32_t> tokens, output_rows;
  std::vector<SequenceSlice> slices;
  std::vector<SamplingRow> rows;
  std::vector<Sample*> owners, stepped;
  std::vector<int> counts;
  for (size_t i = 0; i < running.size(); ++i) {
    if (chunks[i] == 0) continue;
    Sample& sample = *running[i];
    memory->grow(sample.kv, sample.kv.computed + chunks[i]);
    SequenceSlice slice;
    slice.first_row = static_cast<int>(tokens.size());
    slice.token_count = chunks[i];
    slice.position = sample.kv.computed;
    for (size_t g = 0; g < model->program().kv_groups.size(); ++g) slice.pages[g] = sample.kv.pages;
    slices.push_back(slice);
    auto from = sample.tokens.begin() + sample.kv.computed;
    tokens.insert(tokens.end(), from, from + chunks[i]);
    stepped.push_back(&sample);
    counts.push_back(chunks[i]);
    if (sample.kv.computed + chunks[i] < static_cast<int>(sample.tokens.size())) continue;
    output_rows.push_back(static_cast<int32_t>(tokens.size()) - 1);
    const SamplingOptions& options = sample.job->request.sampling;
    SamplingRow row;
    row.temperature = options.temperature;
    row.top_k = options.top_k;
    row.top_p = options.top_p;
    row.min_p = options.min_p;
    row.repetition_penalty = options.repetition_penalty;
    row.presence_penalty = options.presence_penalty;
    row.frequency_penalty = options.frequency_penalty;
    if (options.penalises()) row.seen = sample.completion.tokens;
    if (sample.job->request.allowed)
      row.allowed = sample.job->request.allowed(sample.completion.tokens);
    row.seed = sample.seed;
    row.counter = sample.tokens.size();
    rows.push_back(row);
    owners.push_back(&sample);
  }
  std::vector<SampledToken> drawn(rows.size());
  std::vector<char> failed;
  sample_rows({tokens, slices, output_rows}, rows, owners, drawn, failed);

  for (size_t i = 0; i < stepped.size(); ++i) {
    Sample& sample = *stepped[i];
    bool prefill = sample.prefilling();
    sample.kv.computed += counts[i];
    if (!prefill) continue;
    memory->publish(sample.kv, sample.tokens);
    Job& job = *sample.job;
    if (sample.index == 0) {
      job.computed_here += counts[i];
      if (job.request.on_prefill) job.request.on_prefill(sample.kv.computed, sample.prompt_size());
      if (job.request.save)
        memory->save(sample.kv, sample.tokens, job.request.tags, sample.prefilling());
    }
  }
  std::vector<SearchStep> searches = searches_of(rows, owners);
  std::vector<Job*> broken;  // samples and job of a failed one are gone afterwards: last
  for (size_t i = 0; i < owners.size(); ++i) {
    if (owners[i]->job->beams) continue;
    if (!owners[i]->job->error) {
      accept(*owners[i], drawn[i]);
    } else if (failed[i] &&
               std::find(broken.begin(), broken.end(), owners[i]->job) == broken.end()) {
      broken.push_back(owners[i]->job);
    }
  }
  for (Job* job : broken) fail(*job, *job->error);
  for (SearchStep& search : searches) advance_beams(search);
}

/// The searches among the rows, each with its beams and their logits.
std::vector<Engine::Impl::SearchStep> Engine::Impl::searches_of(
    std::span<const SamplingRow> rows, std::span<Sample* const> owners) const {
  std::vector<SearchStep> searches;
  for (size_t i = 0; i < rows.size(); ++i) {
    Job* job = owners[i]->job;
    if (!job->beams) continue;
    auto found = std::find_if(searches.begin(), searches.end(),
                              [&](const SearchStep& step) { return step.job == job; });
    if (found == searches.end()) found = searches.insert(found, SearchStep{job, {}, {}, {}});
    found->beams.push_back(owners[i]);
    found->logits.push_back(row_logits(i));
    found->rows.push_back(rows[i]);
  }
  return searches;
}

/// Hands pages to the disk's writer: that costs a copy each, and what runs pays at most a twentieth
/// of its time for it. A long prompt's pages so go while it is read.
void Engine::Impl::hand_over(EngineClock::duration step) {
  constexpr int kShare = 20;
  constexpr std::chrono::milliseconds kMost(100);
  hand_over_credit = std::min<EngineClock::duration>(hand_over_credit + step / kShare, kMost);
  while (memory->saving() && hand_over_credit > EngineClock::duration::zero()) {
    auto start = EngineClock::now();
    if (!memory->save_step()) return;
    hand_over_credit -= EngineClock::now() - start;
  }
}

bool Engine::Impl::step() {
  cancel_raised();
  admit();
  if (running.empty()) return !waiting.empty();
  std::vector<int> chunks;
  plan(chunks);
  auto start = EngineClock::now();
  try {
    run_step(chunks);
  } catch (const Error& error) {
    // The machine failed, not one request: everything that ran ends with the same error.
    while (!running.empty()) fail(*running.front()->job, error);
    throw;
  }
  hand_over(EngineClock::now() - start);
  return !running.empty() || !waiting.empty();
}

}  // namespace apud
