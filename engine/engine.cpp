#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <set>

#include "base/check.h"
#include "base/hash.h"
#include "base/numbers.h"
#include "base/utf8.h"
#include "engine/impl/engine_impl.h"

namespace apud {
namespace {

uint64_t random_seed() {
  std::random_device device;
  // 53 bits: survives every JSON reader.
  return ((static_cast<uint64_t>(device()) << 32) | device()) >> 11;
}

}  // namespace

uint64_t kv_bytes_per_token(const Program& program, KvType type) {
  uint64_t bytes = 0;
  for (const KvGroup& group : program.kv_groups) {
    uint64_t heads =
        2ull * static_cast<uint64_t>(group.layers) * static_cast<uint64_t>(group.kv_heads);
    auto dim = static_cast<uint64_t>(group.head_dim);
    switch (type) {
      case KvType::kF16:
      case KvType::kBF16:
        bytes += heads * dim * 2;
        break;
      case KvType::kF32:
        bytes += heads * dim * 4;
        break;
      case KvType::kI8:
        bytes += heads * (dim + 4);
        break;  // a float scale per token and head
    }
  }
  return bytes;
}

// --- Start ---------------------------------------------------------------------------------------

Engine::Impl::Impl(std::shared_ptr<const Model> the_model, std::unique_ptr<Executor> the_executor,
                   const EngineOptions& the_options)
    : model(std::move(the_model)), executor(std::move(the_executor)), options(the_options) {
  const Program& program = model->program();
  if (program.is_encoder()) {
    throw Error(ErrorKind::kUsage,
                model->config().name + " is an embedding model: it writes no text",
                "choose a chat model (apud model list)");
  }
  if (options.context < 2 || options.context > program.max_positions) {
    throw Error(ErrorKind::kUsage,
                fmt::format("context {} for {}: expected 2 to {}", with_commas(options.context),
                            model->config().name, with_commas(program.max_positions)),
                "lower --ctx");
  }
  if (options.max_batch_sequences < 1 || options.step_tokens < 0 || options.mixed_step_tokens < 1) {
    throw Error(ErrorKind::kUsage, "batch sequences and step tokens must be at least 1");
  }
  int most = executor->max_step_tokens();
  options.max_batch_sequences = std::min(options.max_batch_sequences, most);
  options.step_tokens = options.step_tokens == 0 ? most : std::min(options.step_tokens, most);
  options.mixed_step_tokens = std::min(options.mixed_step_tokens, options.step_tokens);
  if (!options.kv_type) options.kv_type = executor->default_kv_type();
  vocab = program.values[static_cast<size_t>(program.result)].cols;

  uint64_t page = kv_bytes_per_token(program, *options.kv_type) * kKvPageTokens;
  // One more than a context: the copy of a shared partial page exists beside its original.
  int least = kv_blocks(options.context) + 1;
  if (options.kv_bytes == 0) options.kv_bytes = page * static_cast<uint64_t>(2 * least);
  if (options.kv_bytes / page < static_cast<uint64_t>(least)) {
    throw Error(ErrorKind::kUsage,
                fmt::format("KV memory of {} MiB is too small: a context of {} tokens needs {} MiB",
                            options.kv_bytes >> 20, with_commas(options.context),
                            (page * static_cast<uint64_t>(least) + (1 << 20) - 1) >> 20),
                "lower --ctx or allow more KV memory");
  }
  KvMemory::Options kv;
  kv.pages = static_cast<int>(std::min<uint64_t>(options.kv_bytes / page, 1u << 30));
  kv.type = *options.kv_type;
  kv.prefix_cache = options.prefix_cache;
  kv.host_bytes = options.host_bytes;
  kv.disk = options.disk;
  memory = std::make_unique<KvMemory>(*model, *executor, kv);
}

Engine::Impl::~Impl() {
  // A shell that waits for the answer's last token waits no longer than this.
  auto now = EngineClock::now();
  auto since = now - last_answer < kLeaveWithin ? last_answer : now;
  auto deadline = since + kLeaveWithin;
  for (Sample* sample : running) memory->release(sample->kv);
  memory->save_until(deadline);
  if (DiskCache* disk = memory->disk()) {
    auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - EngineClock::now());
    disk->flush(std::max(left, std::chrono::milliseconds(0)), true);
  }
}

void Engine::Impl::check_tokens(std::span<const int32_t> tokens) const {
  if (tokens.empty()) throw Error(ErrorKind::kUsage, "the prompt is empty");
  for (int32_t token : tokens) {
    if (token < 0 || token >= vocab) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("token {} in the prompt: the vocabulary has {}", token, vocab));
    }
  }
}

uint64_t Engine::Impl::submit(Request request) {
  check_tokens(request.prompt);
  int prompt = static_cast<int>(request.prompt.size());
  if (prompt + 1 > options.context) {
    throw Error(ErrorKind::kUsage,
                fmt::format("the prompt has {} tokens, the context {}", with_commas(prompt),
                            with_commas(options.context)),
                "shorten the question or the evidence, or raise --ctx");
  }
  if (request.n < 1 || request.max_tokens < 0) {
    throw Error(ErrorKind::kUsage, "n must be at least 1 and max_tokens not negative");
  }
  check_beams(request);
  if (request.beams > options.max_batch_sequences) {
    throw Error(ErrorKind::kUsage, fmt::format("{} beams: at most {} sequences run at once",
                                               request.beams, options.max_batch_sequences));
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty() || !utf8_valid(stop)) {
      throw Error(ErrorKind::kUsage,
                  "stop string " + printable(stop, true) + ": expected UTF-8 text");
    }
  }
  auto job = std::make_unique<Job>();
  job->id = next_id++;
  job->submitted = EngineClock::now();
  job->request = std::move(request);
  Request& kept = job->request;
  uint64_t seed = kept.seed ? *kept.seed : random_seed();
  job->receipt.seed = seed;
  job->receipt.model = model->config().name;
  job->receipt.executor = executor->name();
  job->receipt.kv_bytes = memory->bytes();
  job->receipt.executor_bytes = executor->memory_bytes();
  int room = options.context - prompt;
  if (kept.beams > 1) job->beams.emplace(kept.beams);
  for (int i = 0; i < std::max({kept.n, kept.best_of, kept.beams}); ++i) {
    auto sample = std::make_unique<Sample>(job.get(), i, TextStream(kept.stop, kept.reasoning));
    sample->seed = i == 0 ? seed : xxh3_64(&seed, sizeof seed, static_cast<uint64_t>(i));
    sample->tokens = kept.prompt;
    sample->max_generated = kept.max_tokens == 0 ? room : std::min(room, kept.max_tokens);
    if (i == 0 || !job->beams) waiting.push_back(sample.get());
    job->samples.push_back(std::move(sample));
  }
  uint64_t id = job->id;
  jobs.emplace(id, std::move(job));
  return id;
}

// --- Admission -----------------------------------------------------------------------------------

/// True while another sequence is computing a prefix that this one shares: it then starts from
/// those pages instead of computing them a second time.
bool Engine::Impl::wait_for_prefix(const Sample& sample) const {
  if (!options.prefix_cache) return false;
  std::span<const int32_t> tokens = sample.tokens;
  tokens = tokens.first(tokens.size() - 1);
  for (const Sample* other : running) {
    if (!other->prefilling() || other->tokens[0] != tokens[0]) continue;
    auto differ = std::mismatch(tokens.begin(), tokens.end(), other->tokens.begin(),
                                other->tokens.begin() + other->prompt_size());
    int shared = static_cast<int>(differ.first - tokens.begin());
    if (shared > other->kv.computed) return true;
  }
  return false;
}

/// Takes pages for a sample, or leaves everything as it was.
bool Engine::Impl::try_admit(Sample& sample) {
  int limit = sample.prompt_size() - 1;  // the last token is run for its logits
  memory->match(sample.kv, sample.tokens, limit);
  int device = sample.kv.computed;
  int wanted = pages_wanted(sample);
  for (const Sample* other : running) wanted += pages_wanted(*other);
  if (memory->available(wanted) < wanted) {
    memory->release(sample.kv);
    return false;
  }
  KvMemory::Restored restored = memory->restore(sample.kv, sample.tokens, limit);
  Job& job = *sample.job;
  if (!job.admitted) {
    job.admitted = true;
    job.started = EngineClock::now();
    job.prefill_from = job.prefill_to = job.started;
    job.receipt.usage.cached_device = device;
    job.receipt.usage.cached_host = restored.host;
    job.receipt.usage.cached_disk = restored.disk;
    job.receipt.timing.restore = restored.seconds;
    job.receipt.tiers = std::move(restored.tiers);
    job.receipt.ignored_files = restored.ignored;
  }
  running.push_back(&sample);
  if (sample.index == 0 && job.request.on_prefill) {
    job.request.on_prefill(sample.kv.computed, sample.prompt_size());
  }
  return true;
}

void Engine::Impl::admit() {
  for (auto it = waiting.begin(); it != waiting.end();) {
    Sample* sample = *it;
    int taken = places(*sample);
    for (const Sample* other : running) taken += places(*other);
    if (taken > options.max_batch_sequences) return;
    if (wait_for_prefix(*sample)) {
      ++it;
      continue;
    }
    if (!try_admit(*sample)) {
      if (!running.empty()) return;  // in order of arrival: nobody is overtaken for lack of memory
      Job& job = *sample->job;
      fail(
          job,
          Error(ErrorKind::kBusy,
                fmt::format("too little KV memory for this request: {} pages wanted, {} not pinned",
                            pages_wanted(*sample), memory->available(memory->page_count())),
                "unpin documents, shorten the request, take fewer beams, or allow more KV memory"));
      it = waiting.begin();
      continue;
    }
    it = waiting.erase(it);
  }
}

// --- Ends ----------------------------------------------------------------------------------------

void Engine::Impl::retire(Sample* sample) {
  std::erase(running, sample);
  std::erase(waiting, sample);
  Job& job = *sample->job;
  for (const auto& other : job.samples) {
    if (!other->done) return;
  }
  if (job.request.save && memory->disk()) job.receipt.not_saved = memory->take_save_problem();
  answers.emplace(job.id, finish_job(job));
  jobs.erase(job.id);
}

void Engine::Impl::finish(Sample& sample, FinishReason reason) {
  Completion& completion = sample.completion;
  if (reason == FinishReason::kStopString) completion.stop_string = sample.stream.stop_string();
  emit(sample, sample.stream.finish());
  completion.finish_reason = reason;
  sample.done = true;
  memory->publish(sample.kv, sample.tokens);
  if (sample.job->request.save) memory->save(sample.kv, sample.tokens, sample.job->request.tags);
  memory->release(sample.kv);
  last_answer = EngineClock::now();
  retire(&sample);
}

void Engine::Impl::fail(Job& job, const Error& error) {
  job.error = error;
  std::vector<Sample*> open;
  for (auto& sample : job.samples) {
    if (!sample->done) open.push_back(sample.get());
  }
  for (Sample* sample : open) {
    sample->done = true;
    sample->completion.finish_reason = FinishReason::kError;
    memory->release(sample->kv);
  }
  for (Sample* sample : open) {
    std::erase(running, sample);
    std::erase(waiting, sample);
  }
  retire(open.back());
}

void Engine::Impl::cancel_raised() {
  std::vector<Sample*> raised;
  auto look = [&](Sample* sample) {
    const CancelFlag* flag = sample->job->request.cancel;
    if (flag && flag->raised()) raised.push_back(sample);
  };
  for (Sample* sample : running) look(sample);
  for (Sample* sample : waiting) look(sample);
  std::set<Job*> searches;  // whose samples end together
  for (Sample* sample : raised) {
    if (sample->job->beams) {
      searches.insert(sample->job);
    } else {
      finish(*sample, FinishReason::kCancelled);
    }
  }
  for (Job* search : searches) end_beams(*search, FinishReason::kCancelled);
}

void Engine::Impl::emit(Sample& sample, const TextStream::Piece& piece) {
  sample.completion.text += piece.answer;
  sample.completion.reasoning += piece.reasoning;
  const auto& on_text = sample.job->request.on_text;
  if (!on_text) return;
  bool go_on = true;
  if (!piece.reasoning.empty()) go_on = on_text({piece.reasoning, sample.index, true});
  if (!piece.answer.empty()) go_on = on_text({piece.answer, sample.index, false}) && go_on;
  if (!go_on) sample.stop_asked = true;
}

/// Takes the time of a sample's next token.
void Engine::Impl::note_token(Sample& sample) {
  auto now = EngineClock::now();
  if (sample.first_token == EngineClock::time_point()) sample.first_token = now;
  sample.last_token = now;
  Job& job = *sample.job;
  if (!job.answered) {
    job.answered = true;
    job.prefill_to = now;
    memory->measured_prefill(job.computed_here,
                             std::chrono::duration<double>(now - job.prefill_from).count());
  }
}

bool Engine::Impl::is_end(const Job& job, int32_t token) const {
  const std::vector<int32_t>& ends = model->tokenizer().stop_tokens();
  return !job.request.ignore_end && std::find(ends.begin(), ends.end(), token) != ends.end();
}

/// Appends a token; returns what of its text may be shown.
TextStream::Piece Engine::Impl::write(const Job& job, Continuation& text,
                                      const SampledToken& token) const {
  const Tokenizer& tokenizer = model->tokenizer();
  Completion& completion = text.completion;
  completion.tokens.push_back(token.id);
  completion.logprobs.push_back(token.logprob);
  std::string bytes = tokenizer.decode_token(token.id);
  if (bytes.empty() && job.request.reasoning && tokenizer.is_control(token.id)) {
    // Reasoning markers may be control tokens.
    std::string mark = tokenizer.decode_token(token.id, true);
    if (mark == job.request.reasoning->open || mark == job.request.reasoning->close) bytes = mark;
  }
  bool thought = text.stream.thinking();
  TextStream::Piece piece = text.stream.push(bytes);
  if (thought || text.stream.thinking() || text.stream.after_reasoning()) {
    completion.answer_begin = static_cast<int>(completion.tokens.size());
  }
  return piece;
}

/// Takes a sampled token into the answer and ends the answer where it must.
void Engine::Impl::accept(Sample& sample, const SampledToken& token) {
  note_token(sample);
  if (is_end(*sample.job, token.id)) {
    finish(sample, FinishReason::kStop);
    return;
  }
  sample.tokens.push_back(token.id);
  emit(sample, write(*sample.job, sample, token));
  if (sample.stream.stopped()) {
    finish(sample, FinishReason::kStopString);
  } else if (sample.stop_asked) {
    finish(sample, FinishReason::kCancelled);
  } else if (static_cast<int>(sample.completion.tokens.size()) >= sample.max_generated) {
    finish(sample, FinishReason::kLength);
  }
}

// --- Public --------------------------------------------------------------------------------------

Engine::Engine(std::shared_ptr<const Model> model, std::unique_ptr<Executor> executor,
               const EngineOptions& options)
    : impl_(std::make_unique<Impl>(std::move(model), std::move(executor), options)) {}
Engine::~Engine() = default;
const Model& Engine::model() const { return *impl_->model; }
const Executor& Engine::executor() const { return *impl_->executor; }
const EngineOptions& Engine::options() const { return impl_->options; }
uint64_t Engine::kv_bytes() const { return impl_->memory->bytes(); }
uint64_t Engine::submit(Request request) { return impl_->submit(std::move(request)); }
bool Engine::step() { return impl_->step(); }
int Engine::running() const { return static_cast<int>(impl_->jobs.size()); }

std::optional<Answer> Engine::take(uint64_t id) {
  auto found = impl_->answers.find(id);
  if (found == impl_->answers.end()) return std::nullopt;
  Answer answer = std::move(found->second);
  impl_->answers.erase(found);
  return answer;
}

Answer Engine::wait(uint64_t id) {
  for (;;) {
    if (std::optional<Answer> answer = take(id)) return std::move(*answer);
    APUD_CHECK(impl_->jobs.contains(id), "waiting for a request that exists and was not taken");
    step();
  }
}

Answer Engine::generate(Request request) {
  Answer answer = wait(submit(std::move(request)));
  if (answer.error) throw *answer.error;
  return answer;
}

Engine::Reusable Engine::reusable(std::span<const int32_t> tokens) {
  Reusable result;
  if (!impl_->options.prefix_cache) return result;
  result.device = impl_->memory->tree().match_length(tokens);
  result.total = impl_->memory->reachable(tokens, result.device);
  return result;
}

void Engine::clear_cache() { impl_->memory->clear(); }

std::string Engine::save_pending(int budget_ms) {
  impl_->memory->save_until(EngineClock::now() + std::chrono::milliseconds(budget_ms));
  return impl_->memory->take_save_problem();
}

}  // namespace apud
