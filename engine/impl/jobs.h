// What the engine keeps of a request while it runs.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/impl/beam_search.h"
#include "engine/impl/kv_memory.h"
#include "engine/text_stream.h"

namespace apud {

using EngineClock = std::chrono::steady_clock;

struct Job;

/// What a sample has written so far: what a beam hands on where it parts.
struct Continuation {
  TextStream stream;
  Completion completion;
  double logprob_sum = 0;
};

/// One sample of a request, or one beam of its search.
struct Sample : Continuation {
  Sample(Job* of, int number, TextStream text)
      : Continuation{std::move(text), {}, 0}, job(of), index(number) {}
  Job* job;
  int index;
  uint64_t seed = 0;
  std::vector<int32_t> tokens;  // prompt and what was generated
  KvSequence kv;
  int max_generated = 0;
  bool done = false;
  bool stop_asked = false;  // on_text returned false
  EngineClock::time_point first_token, last_token;

  int prompt_size() const;
  bool prefilling() const { return kv.computed < prompt_size(); }
  /// Blocks of KV it may come to need.
  int worst_tokens() const { return prompt_size() + max_generated; }
};

struct Job {
  uint64_t id = 0;
  Request request;
  std::vector<std::unique_ptr<Sample>> samples;
  std::optional<BeamSearch> beams;      // samples are its beams, of which at first one runs
  std::vector<Completion> other_beams;  // of a finished search, behind the best one
  EngineClock::time_point submitted, started, prefill_from, prefill_to;
  bool admitted = false;  // its first sample
  bool answered = false;  // its first token is there
  int computed_here = 0;  // prompt tokens of the first sample that were run
  Receipt receipt;
  std::optional<Error> error;
};

inline int Sample::prompt_size() const { return static_cast<int>(job->request.prompt.size()); }

/// The answer of a job all of whose samples are done.
Answer finish_job(Job& job);

/// Natural log of the softmax of `logits` at `token`.
double log_softmax_at(std::span<const float> logits, int32_t token);

}  // namespace apud
