// The engine: requests in, text out. Continuous batching with chunked prefill over paged KV, a
// prefix tree that every request leaves its pages in, a disk tier behind it, sampling and
// streaming.
//
// Usage:
//   Engine engine(model, make_cpu_executor(model->program(), model->weights(), {}), {});
//   Request request;
//   request.prompt = ids;                       // Conversation::prompt() or tokenizer().encode()
//   request.on_text = [](const TextPiece& piece) { write(piece.text); return true; };
//   Answer answer = engine.generate(request);   // or submit() several, then wait() or
//   step()+take()
//
// Ownership: the engine owns executor and KV memory and shares the model. Memory is taken whole by
// the constructor. Threads: one thread at a time; CancelFlags may be raised from anywhere.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "engine/disk_cache.h"
#include "engine/receipt.h"
#include "engine/text_stream.h"
#include "kernels/backend.h"
#include "models/model.h"

namespace apud {

struct EngineOptions {
  int context = 4096;             // tokens a sequence may have; more than the model's is refused
  uint64_t kv_bytes = 0;          // KV memory; 0: two contexts, so that a second conversation stays
  std::optional<KvType> kv_type;  // absent: the executor's default
  int max_batch_sequences = 8;    // sequences that run at once (each may use up to `context`)
  int step_tokens = 0;            // prompt tokens a step may read; 0: the executor's maximum
  int mixed_step_tokens = 64;  // the same while other answers are being written: bounds their stall
  bool prefix_cache = true;    // false: every prompt is computed from scratch (comparisons)
  uint64_t host_bytes = 0;     // host tier; only executors with memory of their own have one
  DiskCacheOptions disk;       // disk.folder empty: no disk tier
};

struct SamplingOptions {
  float temperature = 0;  // 0: greedy
  int top_k = 0;          // 0: off
  float top_p = 1;
  float min_p = 0;
  /// Penalties count the tokens of the answer so far, not the prompt's: quoting evidence is no
  /// fault.
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;

  bool penalises() const {
    return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0;
  }
};

/// Most beams of a request.
inline constexpr int kMaxBeams = 8;

struct TextPiece {
  std::string_view text;  // whole UTF-8
  int sample = 0;         // which of the n samples
  bool reasoning = false;
};

struct Request {
  std::vector<int32_t> prompt;  // not empty
  SamplingOptions sampling;
  int max_tokens = 0;             // 0: as many as the context holds
  std::vector<std::string> stop;  // stop strings (UTF-8); the answer ends before them
  int n = 1;                      // samples, sharing the prompt's pages
  int best_of = 0;                // > n: draw so many, return the n of highest mean log-probability
  /// 2 to kMaxBeams: beam search instead of drawing. Returns that many hypotheses, best first, each
  /// with its score; the text comes whole, at the end. Not with n, best_of, a temperature, cuts or
  /// penalties.
  int beams = 1;
  std::optional<uint64_t> seed;               // absent: drawn, and reported in the answer
  bool ignore_end = false;                    // benchmarks: run to max_tokens whatever is generated
  std::optional<ReasoningMarkers> reasoning;  // split reasoning off the answer
  /// Constrained decoding: which tokens may follow those generated so far, bits as
  /// SamplingRow::allowed, valid until the request ends; an empty span allows all. Called before
  /// each token of each sample, on the engine's thread.
  std::function<std::span<const uint64_t>(std::span<const int32_t> generated)> allowed;
  std::function<bool(const TextPiece&)> on_text;  // false stops the answer (kCancelled)
  std::function<void(int done, int total)>
      on_prefill;  // prompt tokens ready (reused ones included)
  const CancelFlag* cancel = nullptr;
  bool save = true;               // pages may go to the disk tier
  std::vector<std::string> tags;  // what the prompt was made from ("doc:17", "session:ab12")
};

/// Throws kUsage naming what contradicts request.beams; nothing where that is 1.
void check_beams(const Request& request);

enum class FinishReason { kStop, kLength, kStopString, kCancelled, kError };
const char* finish_reason_name(
    FinishReason reason);  // "stop", "length", "stop_string", "cancelled", "error"

struct Completion {
  std::vector<int32_t> tokens;  // generated, an end token not included
  std::string text;             // answer, without reasoning and stop string
  std::string reasoning;
  FinishReason finish_reason = FinishReason::kStop;
  std::string stop_string;      // the one that was met
  int answer_begin = 0;         // tokens[answer_begin ..] are the answer, those before reasoning
  std::vector<float> logprobs;  // of `tokens`, natural log
  /// Of a beam search: sum of log-probabilities over tokens, the end token counted in both.
  std::optional<double> score;
  double mean_logprob() const;
};

struct Answer {
  uint64_t id = 0;
  /// n or beams of them: best first with best_of or beams, else in sample order.
  std::vector<Completion> completions;
  Receipt receipt;             // usage, timing, seed
  std::optional<Error> error;  // set with FinishReason::kError
  const Completion& best() const { return completions.front(); }
};

struct ScoreItem {
  std::vector<int32_t> prompt;        // not empty
  std::vector<int32_t> continuation;  // not empty
};

class Engine {
 public:
  /// Throws apud::Error: kUsage for a context beyond the model's or KV memory too small for one
  /// context (with the numbers), kBusy when memory cannot be had.
  Engine(std::shared_ptr<const Model> model, std::unique_ptr<Executor> executor,
         const EngineOptions& options);
  ~Engine();  // gives pages on their way to disk until 60 ms after the last answer, or from now

  const Model& model() const;
  const Executor& executor() const;
  const EngineOptions& options() const;  // with defaults filled in
  uint64_t kv_bytes() const;

  /// Queues a request. Throws kUsage when prompt + 1 exceeds the context ("prompt 5,210 tokens,
  /// context 4,096"), when the prompt is empty or holds an id outside the vocabulary, and for beams
  /// beside what they exclude or more than max_batch_sequences.
  uint64_t submit(Request request);
  /// One step for everything that runs: prompt chunks and one token per answer. Returns false when
  /// nothing is left to do. Throws when the machine fails (device lost): all that ran ends with it.
  bool step();
  /// The finished answer, once; absent while it runs.
  std::optional<Answer> take(uint64_t id);
  /// Steps until `id` is finished. Failures are in Answer::error.
  Answer wait(uint64_t id);
  /// submit + wait; throws Answer::error where set.
  Answer generate(Request request);
  int running() const;  // requests not yet finished

  /// Log-probabilities (natural) of each continuation's tokens after its prompt, in order. Items
  /// that share a prefix compute it once. Not while requests run (CHECK).
  std::vector<std::vector<float>> score(std::span<const ScoreItem> items,
                                        const CancelFlag* cancel = nullptr);
  /// exp(mean negative log-probability) of tokens[1..], in windows of at most the context, each
  /// starting from scratch.
  double perplexity(std::span<const int32_t> tokens, const CancelFlag* cancel = nullptr);

  /// Computes the KV of `tokens` and keeps it from eviction (pinned documents). Returns tokens
  /// pinned.
  int pin(std::span<const int32_t> tokens, std::span<const std::string> tags = {});
  void unpin(std::span<const int32_t> tokens);
  /// Tokens at the start of `tokens` whose KV this process or the disk holds.
  struct Reusable {
    int device = 0;  // held by the executor
    int total = 0;   // with host memory and disk
  };
  Reusable reusable(std::span<const int32_t> tokens);
  /// Forgets everything reusable in this process (the disk tier stays).
  void clear_cache();
  /// Gives pages waiting for the disk up to `budget_ms`; chats call it after each answer. Returns
  /// why some were not written and was not told yet; empty where nothing failed.
  std::string save_pending(int budget_ms);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Bytes of KV of one token, all layers.
uint64_t kv_bytes_per_token(const Program& program, KvType type);

}  // namespace apud
