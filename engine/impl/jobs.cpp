#include "engine/impl/jobs.h"

#include <algorithm>
#include <cmath>

namespace apud {
namespace {

double seconds(EngineClock::time_point from, EngineClock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

double Completion::mean_logprob() const {
  if (logprobs.empty()) return 0;
  double sum = 0;
  for (float value : logprobs) sum += value;
  return sum / static_cast<double>(logprobs.size());
}

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "error";
}

double log_softmax_at(std::span<const float> logits, int32_t token) {
  float highest = logits[0];
  for (float value : logits) highest = std::max(highest, value);
  double sum = 0;
  for (float value : logits) sum += std::exp(static_cast<double>(value) - highest);
  return static_cast<double>(logits[static_cast<size_t>(token)]) - highest - std::log(sum);
}

Answer finish_job(Job& job) {
  Answer answer;
  answer.id = job.id;
  answer.error = job.error;
  answer.receipt = std::move(job.receipt);
  Usage& usage = answer.receipt.usage;
  Timing& timing = answer.receipt.timing;
  auto now = EngineClock::now();
  usage.prompt = static_cast<int>(job.request.prompt.size());
  usage.cached = usage.cached_device + usage.cached_host + usage.cached_disk;
  usage.computed = job.computed_here;
  timing.queue = seconds(job.submitted, job.admitted ? job.started : now);
  timing.total = seconds(job.submitted, now);
  double spread = 0;
  int steps = 0;
  bool first = true;
  for (auto& sample : job.samples) {
    int generated = static_cast<int>(sample->tokens.size()) - sample->prompt_size();
    usage.generated += generated;
    usage.reasoning += sample->completion.answer_begin;
    if (generated > 0) {
      double ttft = seconds(job.submitted, sample->first_token);
      timing.ttft = first ? ttft : std::min(timing.ttft, ttft);
      first = false;
      spread += seconds(sample->first_token, sample->last_token);
      steps += generated - 1;
    }
    answer.completions.push_back(std::move(sample->completion));
  }
  if (steps > 0) timing.tpot = spread / steps;
  double prefill = seconds(job.prefill_from, job.prefill_to);
  if (usage.computed > 0 && prefill > 0) {
    timing.prefill_tokens_per_second = usage.computed / prefill;
  }
  for (Completion& other : job.other_beams) answer.completions.push_back(std::move(other));
  if (job.request.best_of > job.request.n) {
    std::stable_sort(answer.completions.begin(), answer.completions.end(),
                     [](const Completion& a, const Completion& b) {
                       return a.mean_logprob() > b.mean_logprob();
                     });
    answer.completions.resize(static_cast<size_t>(job.request.n));
  }
  return answer;
}

}  // namespace apud
