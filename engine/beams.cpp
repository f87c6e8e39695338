// Beam search in the engine. A request with beams has as many samples as beams; the first one reads
// the prompt, then they part: a beam that goes on in several ways gives its pages to all of them,
// and each but the first copies the last, partial page before it writes (KvMemory::grow).
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/check.h"
#include "engine/impl/engine_impl.h"

namespace apud {

void check_beams(const Request& request) {
  if (request.beams == 1) return;
  if (request.beams < 1 || request.beams > kMaxBeams) {
    throw Error(ErrorKind::kUsage,
                fmt::format("beams {}: expected 1 to {}", request.beams, kMaxBeams));
  }
  const SamplingOptions& sampling = request.sampling;
  std::string other;
  if (request.n > 1 || request.best_of > 1) {
    other = fmt::format("{} samples", std::max(request.n, request.best_of));
  } else if (sampling.temperature > 0) {
    other = fmt::format("temperature {}", sampling.temperature);
  } else if (sampling.top_k > 0) {
    other = fmt::format("top-k {}", sampling.top_k);
  } else if (sampling.top_p < 1) {
    other = fmt::format("top-p {}", sampling.top_p);
  } else if (sampling.min_p > 0) {
    other = fmt::format("min-p {}", sampling.min_p);
  } else if (sampling.penalises()) {
    other = "penalties";
  }
  if (other.empty()) return;
  throw Error(ErrorKind::kUsage,
              fmt::format("{} beams and {}: a beam search goes by the model's own probabilities, "
                          "nothing is drawn, cut or penalised",
                          request.beams, other),
              "leave out one of them (--beams 1, --temperature 0)");
}

/// Sequences that a sample takes of max_batch_sequences: all beams for a search's first one.
int Engine::Impl::places(const Sample& sample) const {
  const Job& job = *sample.job;
  if (!job.beams) return 1;
  auto first = std::find_if(running.begin(), running.end(),
                            [&](const Sample* other) { return other->job == &job; });
  return first == running.end() || *first == &sample ? job.beams->width() : 0;
}

/// Pages that a sample may come to take beyond those it has; a search's are counted at its first
/// running beam: at worst every beam parts from the others with the first token.
int Engine::Impl::pages_wanted(const Sample& sample) const {
  const Job& job = *sample.job;
  if (!job.beams) return memory->pages_to_grow(sample.kv, sample.worst_tokens());
  if (places(sample) == 0) return 0;
  int common = sample.prompt_size() / kKvPageTokens;
  int own = job.beams->width() * (kv_blocks(sample.worst_tokens()) - common);
  if (!job.answered) return own + memory->pages_to_grow(sample.kv, common * kKvPageTokens);
  std::set<int32_t> held;
  for (const auto& beam : job.samples) {
    const auto& pages = beam->kv.pages;
    if (static_cast<int>(pages.size()) > common) held.insert(pages.begin() + common, pages.end());
  }
  return own - static_cast<int>(held.size());
}

/// Offers what a beam has written to the search, and leaves its KV in the tree where it is kept.
void Engine::Impl::offer(Job& job, const Sample& beam, Continuation text, double sum, int length,
                         FinishReason reason) {
  if (reason == FinishReason::kStopString) text.completion.stop_string = text.stream.stop_string();
  TextStream::Piece rest = text.stream.finish();
  text.completion.text += rest.answer;
  text.completion.reasoning += rest.reasoning;
  text.completion.finish_reason = reason;
  if (job.beams->keep(std::move(text.completion), sum, length))
    memory->publish(beam.kv, beam.tokens);
}

/// A search's beams after a step: which go on with which tokens, which end, whether all is over.
void Engine::Impl::advance_beams(const SearchStep& step) {
  Job& job = *step.job;
  const std::vector<Sample*>& beams = step.beams;
  const std::vector<int32_t>& ends = model->tokenizer().stop_tokens();
  const int width = job.beams->width();
  const int count = job.beams->pairs(static_cast<int>(ends.size()));
  std::vector<std::vector<SampledToken>> tokens;
  std::vector<double> sums;
  try {
    for (size_t b = 0; b < beams.size(); ++b) {
      tokens.push_back(most_probable(step.logits[b], step.rows[b], count));
      sums.push_back(beams[b]->logprob_sum);
    }
  } catch (const Error& error) {
    fail(job, error);
    return;
  }
  note_token(*job.samples.front());

  const std::vector<BeamSearch::Pair> pairs = BeamSearch::best_pairs(tokens, sums, count);
  const int length = static_cast<int>(beams[0]->completion.tokens.size()) + 1;
  std::vector<std::vector<Continuation>> next(beams.size());
  std::vector<std::vector<int32_t>> ids(beams.size());
  int going_on = 0;
  for (int rank = 0; rank < static_cast<int>(pairs.size()) && going_on < width; ++rank) {
    const BeamSearch::Pair& pair = pairs[static_cast<size_t>(rank)];
    const Sample& beam = *beams[static_cast<size_t>(pair.beam)];
    if (is_end(job, pair.token.id)) {
      if (rank < width) offer(job, beam, beam, pair.sum, length, FinishReason::kStop);
      continue;
    }
    Continuation text = beam;
    TextStream::Piece piece = write(job, text, pair.token);
    text.completion.text += piece.answer;
    text.completion.reasoning += piece.reasoning;
    text.logprob_sum = pair.sum;
    if (text.stream.stopped()) {
      if (rank < width)
        offer(job, beam, std::move(text), pair.sum, length, FinishReason::kStopString);
      continue;
    }
    next[static_cast<size_t>(pair.beam)].push_back(std::move(text));
    ids[static_cast<size_t>(pair.beam)].push_back(pair.token.id);
    ++going_on;
  }
  part(job, beams, next, ids);
  if (going_on == 0 || job.beams->over(pairs.front().sum, length)) {
    end_beams(job, std::nullopt);
  } else if (length >= job.samples.front()->max_generated) {
    end_beams(job, FinishReason::kLength);
  }
}

/// Each beam goes on as next[b], by the tokens ids[b]: none ends it, each beyond the first takes
/// the place of a beam that does not run.
void Engine::Impl::part(Job& job, std::span<Sample* const> beams,
                        std::span<std::vector<Continuation>> next,
                        std::span<const std::vector<int32_t>> ids) {
  std::vector<Sample*> idle;
  for (const auto& sample : job.samples) {
    if (std::find(beams.begin(), beams.end(), sample.get()) == beams.end())
      idle.push_back(sample.get());
  }
  for (size_t b = 0; b < beams.size(); ++b) {
    if (!next[b].empty()) continue;
    memory->release(beams[b]->kv);
    std::erase(running, beams[b]);
    idle.push_back(beams[b]);
  }
  auto go_on = [](Sample& sample, Continuation& text, int32_t token) {
    static_cast<Continuation&>(sample) = std::move(text);
    sample.tokens.push_back(token);
  };
  for (size_t b = 0; b < beams.size(); ++b) {
    for (size_t k = 1; k < next[b].size(); ++k) {
      Sample* fork = idle.back();
      idle.pop_back();
      memory->fork(beams[b]->kv, fork->kv);
      fork->tokens = beams[b]->tokens;
      go_on(*fork, next[b][k], ids[b][k]);
      running.push_back(fork);
    }
    if (!next[b].empty()) go_on(*beams[b], next[b][0], ids[b][0]);
  }
}

/// Ends a search. With a reason, beams that still run are hypotheses, too; without one they have
/// lost.
void Engine::Impl::end_beams(Job& job, std::optional<FinishReason> unfinished) {
  for (const auto& beam : job.samples) {
    if (unfinished && !beam->kv.pages.empty()) {
      int length = std::max<int>(1, static_cast<int>(beam->completion.tokens.size()));
      offer(job, *beam, *beam, beam->logprob_sum, length, *unfinished);
    }
    memory->release(beam->kv);
    std::erase(running, beam.get());
    std::erase(waiting, beam.get());
  }
  std::vector<Completion> kept = job.beams->take();
  Sample& best = *job.samples.front();
  job.samples.resize(1);
  if (kept.empty()) {  // nothing had run
    kept.emplace_back();
    kept.back().finish_reason = unfinished.value_or(FinishReason::kCancelled);
  }
  best.completion = std::move(kept.front());
  job.other_beams.assign(std::make_move_iterator(kept.begin() + 1),
                         std::make_move_iterator(kept.end()));
  best.tokens = job.request.prompt;
  best.tokens.insert(best.tokens.end(), best.completion.tokens.begin(),
                     best.completion.tokens.end());
  if (job.request.on_text) {
    const Completion& text = best.completion;
    if (!text.reasoning.empty()) job.request.on_text({text.reasoning, 0, true});
    if (!text.text.empty()) job.request.on_text({text.text, 0, false});
  }
  if (job.request.save && memory->disk()) {
    KvSequence kv;
    memory->match(kv, best.tokens, static_cast<int>(best.tokens.size()));
    memory->save(kv, best.tokens, job.request.tags);
    memory->release(kv);
  }
  best.done = true;
  last_answer = EngineClock::now();
  retire(&best);
}

}  // namespace apud
