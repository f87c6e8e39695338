// `apud batch`: many questions, answered several at once as one ragged batch, printed in order.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>

#include "app/answer.h"
#include "app/batch_input.h"
#include "app/batch_output.h"
#include "app/clock.h"
#include "app/generation.h"
#include "app/json_text.h"
#include "app/opening.h"
#include "app/progress.h"
#include "app/prompts.h"
#include "app/runtime.h"
#include "app/signals.h"
#include "base/ascii.h"

namespace apud {

namespace {

// A card's step of eight rows takes little longer than one of four (docs/performance.md); on
// processors time goes by rows.
constexpr int kAutoJobs = 4, kAutoJobsGpu = 8;

/// A line's place in the output order: running, or its text.
struct Slot {
  BatchItem item;
  std::optional<uint64_t> request;  // running in the engine
  Finished finished;
  std::string line;  // JSON when done
  bool done = false;
};

class BatchRun {
 public:
  explicit BatchRun(Runtime& runtime)
      : runtime_(runtime),
        options_(runtime.options),
        terminal_(runtime.terminal),
        output_(runtime.terminal, runtime.options.batch.output) {}
  int run();

 private:
  Runtime::EngineWish wish(int jobs) const {
    return {jobs, options_.settings.beams, kMaxBeams, !options_.batch.no_save};
  }
  int wanted_jobs() const;
  void prepare();
  bool room();
  bool take_line();
  void start(Slot& slot);
  void finish(Slot& slot, Answer answer);
  void fail(Slot& slot, const std::string& message, const std::string& code);
  void step();
  void emit_ready();
  void say_throughput(double seconds);

  Runtime& runtime_;
  const Options& options_;
  Terminal& terminal_;
  FileDescriptor input_;  // of -i
  std::optional<LineReader> reader_;
  BatchOutput output_;
  std::map<std::string, int64_t> have_;  // with --resume: answers that are there
  std::deque<Slot> slots_;
  int jobs_ = 0;
  int running_ = 0;
  int64_t index_ = -1;  // of the line taken last
  bool more_ = true;    // of the input
  int64_t skipped_ = 0;
  int64_t answered_count_ = 0;
  int64_t bad_ = 0;
  bool some_without_evidence_ = false;
  int64_t generated_tokens_ = 0;
  std::vector<std::string> default_collections_;
};

void BatchRun::fail(Slot& slot, const std::string& message, const std::string& code) {
  slot.line = dump_json({{"schema", kJsonSchema},
                         {"id", slot.item.id},
                         {"index", slot.item.index},
                         {"error", {{"code", code}, {"message", message}}}});
  slot.done = true;
  ++bad_;
}

void BatchRun::start(Slot& slot) {
  const BatchItem& item = slot.item;
  slot.finished.question = item.question;
  slot.finished.model = runtime_.chat_model().installed.id;
  std::vector<std::string> collections = options_.common.no_docs    ? std::vector<std::string>{}
                                         : item.collections.empty() ? default_collections_
                                                                    : item.collections;
  for (const std::string& name : item.collections) runtime_.store().collection(name);
  EvidenceRequest request;
  request.question = item.question;
  request.collections = collections;
  request.evidence_tokens = runtime_.evidence_tokens();
  request.answer_tokens =
      item.max_tokens.value_or(options_.generation.max_tokens.value_or(options_.settings.answer));
  request.context = runtime_.context();
  std::string asked = !item.system.empty() ? item.system : options_.batch.system;
  Opening opening = make_opening(runtime_, system_prompt(options_, asked, !collections.empty()),
                                 collections, request.answer_tokens);
  Ledger ledger = opening.ledger();
  request.ledger = &ledger;
  request.retry = true;
  Conversation conversation =
      Conversation::start(runtime_.chat_model().model, opening.system, unix_now());
  slot.finished.evidence = gather_evidence(runtime_, conversation, request);
  slot.finished.warnings = opening.warnings;
  for (const std::string& warning : slot.finished.evidence.warnings)
    slot.finished.warnings.push_back(warning);
  slot.finished.pinned = opening.pinned;
  if (slot.finished.evidence.abstained) {
    slot.finished.refused = true;
    slot.finished.checked.text = "Not in the documents.";
    finish(slot, Answer{});
    return;
  }
  conversation.add_user(item.question, slot.finished.evidence.frame, unix_now());
  Prompt prompt = conversation.prompt(request.context - request.answer_tokens,
                                      options_.settings.think == "off" ? Think::kOff : Think::kOn);
  Request generate = make_request(options_, prompt, request.answer_tokens, 0);
  if (item.temperature) generate.sampling.temperature = static_cast<float>(*item.temperature);
  generate.beams = item.beams.value_or(options_.settings.beams);
  if (item.seed) generate.seed = item.seed;
  generate.save = !options_.batch.no_save;
  generate.tags = evidence_tags(citable(slot.finished));
  restrict_citations(generate, *runtime_.chat_model().model, citable(slot.finished));
  slot.request = runtime_.engine().submit(std::move(generate));
}

void BatchRun::finish(Slot& slot, Answer answer) {
  slot.request.reset();
  if (answer.error) return fail(slot, answer.error->what(), error_code_name(answer.error->kind()));
  Finished& f = slot.finished;
  f.answer = std::move(answer);
  if (!f.answer.completions.empty()) {
    const Completion& best = f.answer.best();
    generated_tokens_ += static_cast<int64_t>(best.tokens.size());
    check_finished(f, best, citable(f));
  }
  some_without_evidence_ |= f.refused;
  ordered_json out = parse_json(answer_json(f, true));
  ordered_json line;
  line["id"] = slot.item.id;
  line["index"] = slot.item.index;
  for (const auto& [key, value] : out.items()) {
    if (key != "id") line[key] = value;
  }
  slot.line = dump_json(line);
  slot.done = true;
  ++answered_count_;
}

void BatchRun::emit_ready() {
  while (!slots_.empty() && slots_.front().done) {
    output_.write_line(slots_.front().line);
    slots_.pop_front();
  }
}

/// 0: auto.
int BatchRun::wanted_jobs() const {
  if (options_.batch.jobs == "auto") return 0;
  char* end = nullptr;
  long value = std::strtol(options_.batch.jobs.c_str(), &end, 10);
  if (*end || value < 1 || value > 256) {
    throw Error(ErrorKind::kUsage,
                "--jobs " + options_.batch.jobs + ": expected auto or a number from 1 to 256");
  }
  return static_cast<int>(value);
}

/// What can fail fails before the output file is touched.
void BatchRun::prepare() {
  jobs_ = wanted_jobs();
  bool named = options_.batch.input != "-";
  if (options_.batch.resume && options_.batch.output == "-")
    throw Error(ErrorKind::kUsage, "--resume needs an output file", "add -o FILE");
  if (named) {
    input_ = open_questions(options_.batch.input);
  } else if (terminal_.state().stdin_tty) {
    throw Error(ErrorKind::kUsage, "batch reads questions from a pipe or a file",
                "apud batch -i questions.jsonl");
  }
  int fd = named ? input_.get() : STDIN_FILENO;
  check_sampling(options_, 1);
  default_collections_ = runtime_.collections();
  runtime_.preload_embedder(default_collections_);
  runtime_.chat_model();
  if (jobs_ == 0)
    jobs_ = runtime_.more_are_free(wish(kAutoJobs), wish(kAutoJobsGpu)) ? kAutoJobsGpu : kAutoJobs;
  runtime_.want_engine(wish(jobs_));
  runtime_.preload_engine();
  reader_.emplace(fd, named ? options_.batch.input : "standard input");
  if (const auto& first = reader_->peek()) check_encoding(*first);
  if (cancel_flag().raised()) throw Interrupted();
  output_.open(fd, options_.batch.resume);
  if (options_.batch.resume) have_ = output_.answered();
}

/// A finished answer behind a slow one waits in memory: the window bounds how many. While answers
/// are being written, only what is there already is read: `tail -f | apud batch`.
bool BatchRun::room() {
  return more_ && running_ < jobs_ && slots_.size() < 4 * static_cast<size_t>(jobs_) &&
         !cancel_flag().raised() && (running_ == 0 || reader_->ready());
}

/// Takes the next line of the input. False: nothing can be taken at present.
bool BatchRun::take_line() {
  auto line = reader_->next();
  if (!line) {
    more_ = false;
    return false;
  }
  ++index_;
  if (is_blank(*line)) return true;
  Slot slot;
  slot.item.index = index_;
  try {
    parse_batch_line(*line, index_, slot.item);
    auto there = have_.find(item_key(slot.item.id, index_));
    if (there != have_.end() && there->second-- > 0) {
      ++skipped_;
      return true;
    }
    start(slot);
  } catch (const Interrupted&) {  // while it was reworded: what is running ends in order
    return false;
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::kIo || e.kind() == ErrorKind::kUnavailable) throw;
    fail(slot, e.what(), error_code_name(e.kind()));
  }
  running_ += slot.request.has_value();
  slots_.push_back(std::move(slot));
  return true;
}

/// One step of the engine, and what it finished.
void BatchRun::step() {
  runtime_.engine().step();
  for (Slot& slot : slots_) {
    if (!slot.request) continue;
    auto answer = runtime_.engine().take(*slot.request);
    if (!answer) continue;
    --running_;
    if (!answer->completions.empty() && answer->best().finish_reason == FinishReason::kCancelled) {
      slot.request.reset();
      more_ = false;
    } else {
      finish(slot, std::move(*answer));
    }
  }
  terminal_.progress(fmt::format("{} answered · {} running", answered_count_, running_));
}

void BatchRun::say_throughput(double seconds) {
  if (!options_.common.stats && !terminal_.state().stderr_tty) return;
  std::string line =
      fmt::format("{} answered in {:.1f} s · {:.1f} tok/s · {} at once{}", answered_count_, seconds,
                  static_cast<double>(generated_tokens_) / std::max(seconds, 1e-9), jobs_,
                  skipped_ ? fmt::format(" · {} already there", skipped_) : "");
  if (options_.common.stats && !terminal_.state().stderr_tty)
    terminal_.error(line);
  else
    terminal_.dim(line);
}

int BatchRun::run() {
  prepare();
  auto started = std::chrono::steady_clock::now();
  do {
    while (room() && take_line()) emit_ready();
    if (running_ > 0) step();
    emit_ready();
  } while (running_ > 0 || (more_ && !cancel_flag().raised()));
  terminal_.progress("", true);
  terminal_.flush();
  say_throughput(std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
  if (cancel_flag().raised()) return ending_signal() ? 128 + ending_signal() : 130;
  if (bad_ > 0) {
    terminal_.warn(fmt::format("{} of {} lines failed: `error` in the output says why", bad_,
                               bad_ + answered_count_));
    return 65;
  }
  return some_without_evidence_ ? 1 : 0;
}

}  // namespace

int verb_batch(Runtime& runtime) { return BatchRun(runtime).run(); }

}  // namespace apud
