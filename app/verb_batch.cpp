// `apud batch`: many questions, answered several at once as one ragged batch, printed in order.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <deque>
#include <map>

#include "app/clock.h"
#include "app/answer.h"
#include "app/batch_input.h"
#include "app/generation.h"
#include "app/json_text.h"
#include "app/opening.h"
#include "app/progress.h"
#include "app/prompts.h"
#include "app/runtime.h"
#include "app/signals.h"

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
      : runtime_(runtime), options_(runtime.options), terminal_(runtime.terminal) {}
  int run();

 private:
  Runtime::EngineWish wish(int jobs) const {
    return {jobs, options_.settings.beams, kMaxBeams, !options_.batch.no_save};
  }
  void open_output(int input);
  std::map<std::string, int64_t> answered();
  void drop_failures(off_t whole);
  void start(Slot& slot);
  void finish(Slot& slot, Answer answer);
  void fail(Slot& slot, const std::string& message, const std::string& code);
  void emit_ready();
  void write_line(const std::string& line);

  Runtime& runtime_;
  const Options& options_;
  Terminal& terminal_;
  FileDescriptor output_;
  std::deque<Slot> slots_;
  int64_t answered_count_ = 0;
  int64_t bad_ = 0;
  bool some_without_evidence_ = false;
  int64_t generated_tokens_ = 0;
  std::vector<std::string> default_collections_;
};

std::string item_key(const ordered_json& id, int64_t index) {
  return id.is_null() ? fmt::format("#{}", index) : dump_json(id);
}

void BatchRun::open_output(int input) {
  const std::string& path = options_.batch.output;
  if (path == "-") return;
  struct stat from = {}, to = {};
  if (::fstat(input, &from) == 0 && ::stat(path.c_str(), &to) == 0 && S_ISREG(from.st_mode) &&
      from.st_dev == to.st_dev && from.st_ino == to.st_ino) {
    throw Error(ErrorKind::kUsage, path + " is the file of the questions", "choose another -o");
  }
  int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (options_.batch.resume ? 0 : O_TRUNC);
  output_ = FileDescriptor(::open(path.c_str(), flags, 0600));
  if (!output_.valid()) throw io_error("cannot write", path, errno);
}

/// Keys of the questions that the output file answers, with how often (an id may stand twice in the
/// input). A torn last line and the lines of questions that failed leave the file: they are asked
/// again.
std::map<std::string, int64_t> BatchRun::answered() {
  std::map<std::string, int64_t> keys;
  if (!options_.batch.resume) return keys;
  const std::string& path = options_.batch.output;
  if (path == "-") throw Error(ErrorKind::kUsage, "--resume needs an output file", "add -o FILE");
  FileDescriptor in(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  off_t good = 0;
  bool failures = false;
  if (in.valid()) {
    LineReader reader(in.get(), path);
    int64_t number = 0;
    while (auto line = reader.next()) {
      ++number;
      ordered_json json = parse_json(*line);
      bool whole = json.is_object() && json.contains("index");
      if (!whole && reader.torn()) break;
      if (!whole)
        throw Error(ErrorKind::kBadData,
                    fmt::format("{}:{}: not an answer line of apud batch", path, number),
                    "choose another -o file");
      good += static_cast<off_t>(line->size()) + 1;
      if (reader.torn()) --good;
      if (json.contains("error"))
        failures = true;
      else
        ++keys[item_key(json.value("id", ordered_json()), json["index"].get<int64_t>())];
    }
  }
  if (failures) {
    drop_failures(good);
    return keys;
  }
  if (::ftruncate(output_.get(), good) != 0 || ::lseek(output_.get(), 0, SEEK_END) < 0)
    throw io_error("cannot continue", path, errno);
  if (good > 0) {
    char last = 0;
    if (::pread(in.get(), &last, 1, good - 1) == 1 && last != '\n') write_line("");
  }
  return keys;
}

/// Replaces the output file by one of its answers alone, and goes on in that.
void BatchRun::drop_failures(off_t whole) {
  const Path path = std::filesystem::canonical(options_.batch.output);
  Path fresh_path = path;
  fresh_path += fmt::format(".tmp-{}", ::getpid());
  FileDescriptor in(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st {};
  if (!in.valid() || ::fstat(in.get(), &st) != 0)
    throw io_error("cannot read", path.string(), errno);
  output_ = FileDescriptor(
      ::open(fresh_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, st.st_mode & 0777));
  if (!output_.valid()) throw io_error("cannot write", fresh_path.string(), errno);
  try {
    LineReader reader(in.get(), path.string());
    for (off_t at = 0; at < whole;) {
      auto line = reader.next();
      if (!line) throw Interrupted();
      at += static_cast<off_t>(line->size()) + 1;
      if (!parse_json(*line).contains("error")) write_line(*line);
    }
    if (::fsync(output_.get()) != 0 || ::rename(fresh_path.c_str(), path.c_str()) != 0)
      throw io_error("cannot continue", path.string(), errno);
  } catch (...) {
    ::unlink(fresh_path.c_str());
    throw;
  }
}

void BatchRun::write_line(const std::string& line) {
  if (!output_.valid()) {
    terminal_.out(line + "\n");
    terminal_.flush();
    return;
  }
  std::string bytes = line + "\n";
  std::string_view rest = bytes;
  while (!rest.empty()) {
    ssize_t n = ::write(output_.get(), rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw io_error("cannot write", options_.batch.output, errno);
    rest.remove_prefix(static_cast<size_t>(n));
  }
}

void BatchRun::fail(Slot& slot, const std::string& message, const std::string& code) {
  ordered_json out;
  out["id"] = slot.item.id;
  out["index"] = slot.item.index;
  out["error"] = {{"code", code}, {"message", message}};
  slot.line = dump_json(out);
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
    write_line(slots_.front().line);
    slots_.pop_front();
  }
}

int BatchRun::run() {
  int jobs = 0;
  if (options_.batch.jobs != "auto") {
    char* end = nullptr;
    long value = std::strtol(options_.batch.jobs.c_str(), &end, 10);
    if (*end || value < 1 || value > 256) {
      throw Error(ErrorKind::kUsage,
                  "--jobs " + options_.batch.jobs + ": expected auto or a number from 1 to 256");
    }
    jobs = static_cast<int>(value);
  }
  FileDescriptor file;
  int fd = STDIN_FILENO;
  if (options_.batch.input != "-") {
    file = open_regular(options_.batch.input);
    fd = file.get();
    // Reading blocks like any file from here on.
    ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  } else if (terminal_.state().stdin_tty) {
    throw Error(ErrorKind::kUsage, "batch reads questions from a pipe or a file",
                "apud batch -i questions.jsonl");
  }
  // What can fail fails before the output file is touched.
  check_sampling(options_, 1);
  default_collections_ = runtime_.collections();
  runtime_.preload_embedder(default_collections_);
  runtime_.chat_model();
  if (jobs == 0)
    jobs = runtime_.more_are_free(wish(kAutoJobs), wish(kAutoJobsGpu)) ? kAutoJobsGpu : kAutoJobs;
  open_output(fd);
  std::map<std::string, int64_t> have = answered();
  runtime_.want_engine(wish(jobs));
  runtime_.preload_engine();
  LineReader reader(fd, options_.batch.input == "-" ? "standard input" : options_.batch.input);
  auto started = std::chrono::steady_clock::now();
  int64_t index = -1;
  int64_t skipped = 0;
  bool more = true;
  int running = 0;
  while (more || !slots_.empty()) {
    // A finished answer behind a slow one waits in memory: the window bounds how many.
    while (more && running < jobs && slots_.size() < 4 * static_cast<size_t>(jobs) &&
           !cancel_flag().raised()) {
      // While answers are being written, only what is there already is read: `tail -f | apud
      // batch`.
      if (running > 0 && !reader.ready()) break;
      auto line = reader.next();
      if (!line) {
        more = false;
        break;
      }
      ++index;
      if (index == 0 && (line->starts_with("\xFF\xFE") || line->starts_with("\xFE\xFF"))) {
        throw Error(ErrorKind::kBadData, "the questions are in UTF-16, expected UTF-8",
                    "iconv -f UTF-16 -t UTF-8 makes it of them");
      }
      if (line->find_first_not_of(" \t\r") == std::string::npos) continue;
      Slot slot;
      slot.item.index = index;
      try {
        parse_batch_line(*line, index, slot.item);
        auto there = have.find(item_key(slot.item.id, index));
        if (there != have.end() && there->second-- > 0) {
          ++skipped;
          continue;
        }
        start(slot);
      } catch (const Interrupted&) {  // while it was reworded: what is running ends in order
        break;
      } catch (const Error& e) {
        if (e.kind() == ErrorKind::kIo || e.kind() == ErrorKind::kUnavailable) throw;
        fail(slot, e.what(), error_code_name(e.kind()));
      }
      running += slot.request.has_value();
      slots_.push_back(std::move(slot));
      emit_ready();
    }
    if (running == 0) {
      emit_ready();
      if (!more || cancel_flag().raised()) break;
      continue;
    }
    runtime_.engine().step();
    for (Slot& slot : slots_) {
      if (!slot.request) continue;
      if (auto answer = runtime_.engine().take(*slot.request)) {
        --running;
        bool cancelled = !answer->completions.empty() &&
                         answer->best().finish_reason == FinishReason::kCancelled;
        if (cancelled) {
          slot.request.reset();
          slot.done = false;
          more = false;
        } else {
          finish(slot, std::move(*answer));
        }
      }
    }
    emit_ready();
    terminal_.progress(fmt::format("{} answered · {} running", answered_count_, running));
    if (cancel_flag().raised() && running == 0) break;
  }
  terminal_.progress("", true);
  terminal_.flush();
  double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  if (options_.common.stats || terminal_.state().stderr_tty) {
    std::string line =
        fmt::format("{} answered in {:.1f} s · {:.1f} tok/s · {} at once{}", answered_count_,
                    seconds, static_cast<double>(generated_tokens_) / std::max(seconds, 1e-9), jobs,
                    skipped ? fmt::format(" · {} already there", skipped) : "");
    if (options_.common.stats && !terminal_.state().stderr_tty)
      terminal_.error(line);
    else
      terminal_.dim(line);
  }
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
