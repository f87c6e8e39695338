// Inside of Engine: scheduling and steps (engine.cpp), scoring and pinning (score.cpp).
#pragma once

#include <deque>
#include <map>

#include "engine/impl/jobs.h"

namespace apud {

/// From the last token to the end of the process, what tearing down costs left over.
constexpr std::chrono::milliseconds kLeaveWithin{60};

struct Engine::Impl {
  Impl(std::shared_ptr<const Model> model, std::unique_ptr<Executor> executor,
       const EngineOptions& options);
  ~Impl();

  uint64_t submit(Request request);
  bool step();

  // engine.cpp
  void admit();
  bool try_admit(Sample& sample);
  bool wait_for_prefix(const Sample& sample) const;
  void cancel_raised();
  int plan(std::vector<int>& chunks);
  void run_step(const std::vector<int>& chunks);
  void sample_rows(const Batch& batch, std::span<const SamplingRow> rows,
                   std::span<Sample* const> owners, std::span<SampledToken> out,
                   std::vector<char>& failed);
  void accept(Sample& sample, const SampledToken& token);
  void emit(Sample& sample, const TextStream::Piece& piece);
  void finish(Sample& sample, FinishReason reason);
  void fail(Job& job, const Error& error);
  void retire(Sample* sample);
  void hand_over(EngineClock::duration step);

  // score.cpp: sequences run outside the scheduler, to the end
  struct Scored {
    std::vector<int32_t> tokens;
    int first_output = 0;  // rows from this position on are wanted; tokens.size(): none
    KvSequence kv;
    std::function<void(int position, std::span<const float> logits)> sink;
  };
  void run_scored(std::span<Scored> sequences, bool share, const CancelFlag* cancel);
  void check_tokens(std::span<const int32_t> tokens) const;

  std::shared_ptr<const Model> model;
  std::unique_ptr<Executor> executor;
  EngineOptions options;
  int vocab = 0;
  std::unique_ptr<KvMemory> memory;

  uint64_t next_id = 1;
  std::map<uint64_t, std::unique_ptr<Job>> jobs;  // not finished
  std::map<uint64_t, Answer> answers;             // finished, not taken
  std::deque<Sample*> waiting;                    // in order of arrival
  std::vector<Sample*> running;                   // in order of admission
  EngineClock::time_point last_answer;            // finished
  EngineClock::duration hand_over_credit{1};      // time that may go into pages for the disk
  std::vector<float> logits;                      // of scoring and of rows sampled one by one
};

}  // namespace apud
