#include "rag/ingest/pipeline.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "base/check.h"
#include "base/child.h"
#include "base/utf8.h"

namespace apud {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kWindowItems = 64;          // documents between parsing and writing
constexpr size_t kWindowBytes = 64u << 20;   // of their text
constexpr size_t kEmbedTexts = 128;          // texts gathered so that lengths can be sorted
constexpr size_t kEmbedCall = 32;            // texts of one call: cancelling waits for one
constexpr size_t kScriptSample = 64u << 10;  // bytes of a document looked at for its script

/// A document on its way through the stages.
struct Job {
  WorkItem item;
  LoadedFile file;
  bool same_content = false;  // as the store's version: only touched
  std::vector<NewChunk> chunks;
  std::vector<std::vector<std::string>> texts;  // (chunks) to embed, in parts: one without codes
  std::vector<std::string> keys;                // (n) that need vectors
  std::vector<size_t> key_chunk;                // (n) index into chunks and texts
  std::vector<float> vectors;                   // (n, dimension)
  std::vector<std::string> codes;               // (n) packed; none where the embedder has none
  int64_t characters = 0;
  int64_t cjk = 0;
};

class Pipeline {
 public:
  Pipeline(Store& store, WriteLock& lock, TextEmbedder& embedder, std::vector<WorkItem> work,
           PipelineOptions options, const SettledCallback& settled)
      : store_(store),
        lock_(lock),
        embedder_(embedder),
        work_(std::move(work)),
        options_(std::move(options)),
        settled_(settled),
        parsed_(work_.size()),
        known_keys_(options_.known_keys.begin(), options_.known_keys.end()) {}

  PipelineTotals run() {
    const auto start = Clock::now();
    std::vector<std::thread> parsers;
    parsers.reserve(static_cast<size_t>(options_.jobs));
    for (int i = 0; i < options_.jobs; ++i)
      parsers.emplace_back([this] { guard([this] { parse_loop(); }); });
    std::thread writer([this] { guard([this] { write_loop(); }); });
    guard([this] { embed_loop(); });
    {
      std::lock_guard hold(mutex_);
      embedding_done_ = true;
      stop_ = true;  // a cancel ended it: parsers that wait for a place in the window get none
    }
    changed_.notify_all();
    for (std::thread& t : parsers) t.join();
    writer.join();
    if (failure_) std::rethrow_exception(failure_);
    totals_.idle_seconds =
        std::chrono::duration<double>(Clock::now() - start).count() - totals_.embed_seconds;
    return totals_;
  }

 private:
  template <typename Body>
  void guard(const Body& body) {
    try {
      body();
    } catch (...) {
      std::lock_guard hold(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stop_ = true;
    }
    changed_.notify_all();
  }

  bool cancelled() const { return options_.cancel && options_.cancel->raised(); }

  void parse_loop() {
    ChildReuse reuse;  // HTML pages in turn in one child
    for (;;) {
      size_t index;
      {
        std::unique_lock hold(mutex_);
        changed_.wait(hold, [&] {
          return stop_ || next_parse_ == work_.size() ||
                 (next_parse_ < written_ + kWindowItems &&
                  (window_bytes_ < kWindowBytes || next_parse_ == written_));
        });
        if (stop_ || next_parse_ == work_.size()) return;
        index = next_parse_++;
      }
      auto job = cancelled() ? nullptr : parse(std::move(work_[index]));
      {
        std::lock_guard hold(mutex_);
        if (!job) {
          stop_ = true;  // cancelled: what is parsed already is not lost, a rerun does it again
        } else {
          window_bytes_ += job->file.document.text.size();
          chunks_parsed_ += static_cast<int64_t>(job->chunks.size());
          parsed_[index] = std::move(job);
        }
      }
      changed_.notify_all();
    }
  }

  std::unique_ptr<Job> parse(WorkItem item) {
    auto job = std::make_unique<Job>();
    job->item = std::move(item);
    job->file = load_file(job->item.entry.path, options_.loading);
    if (cancelled()) return nullptr;
    Document& document = job->file.document;
    const auto& known = job->item.known;
    job->same_content = known && !known->vanished && !document.skipped() &&
                        known->duplicate_of == 0 && known->content_hash == job->file.sha256 &&
                        known->loader == document.loader;
    if (document.skipped() || job->same_content) return job;
    Chunks cut = chunk_document(document, options_.chunking, [this](std::string_view text) {
      return embedder_.count_tokens(text);
    });
    for (const Chunk& chunk : cut.chunks) {
      const Section& section = cut.sections[chunk.section];
      NewChunk fresh{chunk.begin, chunk.end, section.heading, section.path, chunk.tokens, {}};
      std::string text = embedded_text(document, cut, chunk);
      fresh.embedded_hash = text_key(text);
      if (options_.token_centers.empty()) {
        job->texts.push_back({std::move(text)});
      } else {
        job->texts.push_back(embedded_parts(document, cut, chunk));
      }
      job->chunks.push_back(std::move(fresh));
    }
    for (size_t pos = 0; pos < std::min(document.text.size(), kScriptSample);) {
      Utf8Char c = utf8_decode(document.text, pos);
      pos += c.size;
      if (c.code <= ' ') continue;
      ++job->characters;
      job->cjk += is_cjk(c.code);
    }
    return job;
  }

  /// Next parsed document in order; null when there is none any more. With `wait` false also when
  /// it is not ready yet.
  std::unique_ptr<Job> take_parsed(bool wait) {
    std::unique_lock hold(mutex_);
    if (wait)
      changed_.wait(hold,
                    [&] { return stop_ || next_embed_ == work_.size() || parsed_[next_embed_]; });
    if (stop_ || next_embed_ == work_.size() || !parsed_[next_embed_]) return nullptr;
    return std::move(parsed_[next_embed_++]);
  }

  void embed_loop() {
    for (;;) {
      std::vector<std::unique_ptr<Job>> jobs;
      size_t texts = 0;
      while (texts < kEmbedTexts) {
        auto job = take_parsed(jobs.empty());
        if (!job) break;
        for (size_t i = 0; i < job->texts.size(); ++i) {
          const std::string& key = job->chunks[i].embedded_hash;
          if (!known_keys_.insert(key).second) continue;
          job->keys.push_back(key);
          job->key_chunk.push_back(i);
        }
        texts += job->keys.size();
        jobs.push_back(std::move(job));
      }
      if (jobs.empty()) return;
      if (!embed(jobs)) return;
      {
        std::lock_guard hold(mutex_);
        for (auto& job : jobs) embedded_.push_back(std::move(job));
      }
      changed_.notify_all();
    }
  }

  /// False when cancelled.
  bool embed(std::vector<std::unique_ptr<Job>>& jobs) {
    size_t dimension = static_cast<size_t>(embedder_.dimension());
    struct Text {
      Job* job;
      size_t key;
    };
    std::vector<Text> all;
    const bool coded = !options_.token_centers.empty();
    for (auto& job : jobs) {
      job->vectors.resize(job->keys.size() * dimension);
      if (coded) job->codes.resize(job->keys.size());
      for (size_t k = 0; k < job->keys.size(); ++k) all.push_back({job.get(), k});
    }
    auto bytes = [](const Text& t) {
      const NewChunk& chunk = t.job->chunks[t.job->key_chunk[t.key]];
      return chunk.end - chunk.begin + chunk.heading.size();
    };
    std::stable_sort(all.begin(), all.end(),
                     [&](const Text& a, const Text& b) { return bytes(a) < bytes(b); });
    auto start = Clock::now();
    for (size_t begin = 0; begin < all.size(); begin += kEmbedCall) {
      if (cancelled() || stopped()) return false;
      const std::span<const Text> call =
          std::span(all).subspan(begin, std::min(kEmbedCall, all.size() - begin));
      std::vector<float> out(call.size() * dimension);
      if (coded) {
        std::vector<std::vector<std::string>> texts;
        for (const Text& t : call)
          texts.push_back(std::move(t.job->texts[t.job->key_chunk[t.key]]));
        embedder_.embed_parts(
            texts, EmbedKind::kPassage, out,
            [&](size_t i, std::span<const float> rows, std::span<const int> parts) {
              call[i].job->codes[call[i].key] =
                  TokenCodes::of(options_.token_centers, texts[i], rows, parts).pack();
            });
      } else {
        std::vector<std::string> texts;
        for (const Text& t : call)
          texts.push_back(std::move(t.job->texts[t.job->key_chunk[t.key]].front()));
        embedder_.embed(texts, EmbedKind::kPassage, out);
      }
      for (size_t i = 0; i < call.size(); ++i) {
        std::copy_n(out.data() + i * dimension, dimension,
                    call[i].job->vectors.data() + call[i].key * dimension);
      }
    }
    totals_.embed_seconds += std::chrono::duration<double>(Clock::now() - start).count();
    totals_.embedded += static_cast<int64_t>(all.size());
    return true;
  }

  bool stopped() {
    std::lock_guard hold(mutex_);
    return stop_;
  }

  void write_loop() {
    for (;;) {
      std::unique_ptr<Job> job;
      int64_t parsed;
      {
        std::unique_lock hold(mutex_);
        // What is embedded is written even after a cancel: it is finished work.
        changed_.wait(hold, [&] { return failure_ || !embedded_.empty() || embedding_done_; });
        if (failure_ || embedded_.empty()) return;
        job = std::move(embedded_.front());
        embedded_.pop_front();
        parsed = chunks_parsed_;
      }
      FileEvent event = write(*job);
      settled_(event, parsed);
      {
        std::lock_guard hold(mutex_);
        ++written_;
        window_bytes_ -= job->file.document.text.size();
      }
      changed_.notify_all();
    }
  }

  FileEvent write(Job& job) {
    const Document& document = job.file.document;
    const auto& known = job.item.known;
    FileEvent event;
    event.path = job.item.path;
    event.status = document.status;
    event.reason = document.reason;
    event.pages_without_text = document.pages_without_text;
    if (job.same_content) {
      store_.touch_document(lock_, known->id, job.file.mtime_ns,
                            static_cast<int64_t>(job.file.size));
      event.outcome = FileOutcome::kUnchanged;
      event.chunks = known->chunks;
      event.tokens = known->tokens;
      return event;
    }
    if (document.skipped()) {
      // An earlier good version stays: the file may be half written, locked or broken for a moment.
      event.outcome = FileOutcome::kSkipped;
      return event;
    }
    DocumentInfo info;
    info.collection = options_.collection;
    info.path = job.item.path;
    info.title = document.title;
    info.loader = document.loader;
    info.status = document.status;
    info.reason = document.reason;
    info.content_hash = job.file.sha256;
    info.size = static_cast<int64_t>(job.file.size);
    info.mtime_ns = job.file.mtime_ns;
    auto owner = options_.owners.find(info.content_hash);
    if (owner != options_.owners.end() && !job.chunks.empty() &&
        owner->second.second != info.path) {
      info.duplicate_of = owner->second.first;
      info.reason = event.reason = "duplicate of " + owner->second.second;
      Document nothing;
      store_.put_document(lock_, info, nothing, {}, {}, {});
      event.outcome = FileOutcome::kDuplicate;
      return event;
    }
    int64_t id =
        store_.put_document(lock_, info, document, job.chunks, job.keys, job.vectors, job.codes);
    if (!job.chunks.empty()) options_.owners[info.content_hash] = {id, info.path};
    event.chunks = static_cast<int64_t>(job.chunks.size());
    for (const NewChunk& c : job.chunks) event.tokens += c.tokens;
    bool replaced = known && known->chunks > 0;
    if (replaced && event.reason.empty() && known->content_hash == info.content_hash)
      event.reason.append("the same file, read anew by ").append(info.loader);
    event.outcome = job.chunks.empty() ? FileOutcome::kEmpty
                    : replaced         ? FileOutcome::kReplaced
                                       : FileOutcome::kIndexed;
    totals_.chunks += event.chunks;
    totals_.tokens += event.tokens;
    totals_.characters += job.characters;
    totals_.cjk += job.cjk;
    return event;
  }

  Store& store_;
  WriteLock& lock_;
  TextEmbedder& embedder_;
  std::vector<WorkItem> work_;  // an item is moved out by the parser that takes its index
  PipelineOptions options_;     // owners: the writer's alone
  const SettledCallback& settled_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Job>> parsed_;  // by index
  std::deque<std::unique_ptr<Job>> embedded_;
  size_t next_parse_ = 0;
  size_t next_embed_ = 0;
  size_t written_ = 0;
  size_t window_bytes_ = 0;
  int64_t chunks_parsed_ = 0;
  bool embedding_done_ = false;
  bool stop_ = false;
  std::exception_ptr failure_;

  std::unordered_set<std::string> known_keys_;  // the embedding thread's alone
  PipelineTotals totals_;  // embed_seconds, embedded: embedding thread; the rest: writer
};

}  // namespace

PipelineTotals run_pipeline(Store& store, WriteLock& lock, TextEmbedder& embedder,
                            std::vector<WorkItem> work, PipelineOptions options,
                            const SettledCallback& settled) {
  return Pipeline(store, lock, embedder, std::move(work), std::move(options), settled).run();
}

}  // namespace apud
