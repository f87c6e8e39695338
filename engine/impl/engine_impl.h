// Inside of Engine: requests' beginnings and ends (engine.cpp), steps (step.cpp), beam search
// (beams.cpp), scoring and pinning (score.cpp).
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
  void accept(Sample& sample, const SampledToken& token);
  void note_token(Sample& sample);
  bool is_end(const Job& job, int32_t token) const;
  TextStream::Piece write(const Job& job, Continuation& text, const SampledToken& token) const;
  void emit(Sample& sample, const TextStream::Piece& piece);
  void finish(Sample& sample, FinishReason reason);
  void fail(Job& job, const Error& error);
  void retire(Sample* sample);

  // step.cpp
  int plan(std::vector<int>& chunks);
  void run_step(const std::vector<int>& chunks);
  void sample_rows(const Batch& batch, std::span<const SamplingRow> rows,
                   std::span<Sample* const> owners, std::span<SampledToken> out,
                   std::vector<char>& failed);
  std::span<const float> row_logits(size_t row) const {
    return std::span(logits).subspan(row * static_cast<size_t>(vocab), static_cast<size_t>(vocab));
  }
  struct SearchStep {
    Job* job;
    std::vector<Sample*> beams;                  // that ran
    std::vector<std::span<const float>> logits;  // after the last token of each
    std::vector<SamplingRow> rows;
  };
  std::vector<SearchStep> searches_of(std::span<const SamplingRow> rows,
                                      std::span<Sample* const> owners) const;
  void hand_over(EngineClock::duration step);

  // beams.cpp
  int places(const Sample& sample) const;
  int pages_wanted(const Sample& sample) const;
  void advance_beams(const SearchStep& step);
  void part(Job& job, std::span<Sample* const> beams, std::span<std::vector<Continuation>> next,
            std::span<const std::vector<int32_t>> ids);
  void offer(Job& job, const Sample& beam, Continuation text, double sum, int length,
             FinishReason reason);
  void end_beams(Job& job, std::optional<FinishReason> unfinished);

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
  std::vector<float> logits;  // of scoring, of beams, of rows sampled one by one
};

}  // namespace apud
