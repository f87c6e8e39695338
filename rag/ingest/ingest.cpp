// What an ingest has to do, decided before anything is changed; then the pipeline; then the rest.
#include "rag/ingest.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/thread_pool.h"
#include "rag/index.h"
#include "rag/ingest/calibrate.h"
#include "rag/ingest/pipeline.h"
#include "rag/token_match.h"

namespace apud {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kFreeSpaceFloor = 64u << 20;  // bytes; below, a transaction may not finish
constexpr double kEnglishOnlyLimit = 0.05;  // share of CJK that an English-only embedder may meet

Path absolute_root(const Path& path) {
  std::error_code error;
  Path absolute = std::filesystem::absolute(path, error).lexically_normal();
  std::string text = absolute.string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

bool beneath(std::string_view path, std::string_view root) {
  if (path == root || root == "/") return true;
  return path.size() > root.size() && path.substr(0, root.size()) == root &&
         path[root.size()] == '/';
}

bool gone(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) != 0 && (errno == ENOENT || errno == ENOTDIR);
}

ChunkOptions parse_settings(const std::string& settings, const std::string& collection) {
  ChunkOptions options;
  int end = 0;
  int got = std::sscanf(settings.c_str(), "chunker/1 %d %d %d%n", &options.target_tokens,
                        &options.max_tokens, &options.overlap_tokens, &end);
  if (got != 3 || chunker_settings(options) != settings) {
    throw Error(ErrorKind::kBadData,
                fmt::format("collection '{}' was cut with '{}', which this apud does not know",
                            collection, settings),
                "ingest the documents into a new collection");
  }
  return options;
}

/// One run: plan, then act.
class Run {
 public:
  Run(Store& store, TextEmbedder& embedder, std::span<const Path> paths,
      const IngestOptions& options, const IngestCallback& callback, const CancelFlag* cancel)
      : store_(store),
        embedder_(embedder),
        options_(options),
        callback_(callback),
        cancel_(cancel) {
    for (const Path& path : paths) roots_.push_back(absolute_root(path));
  }

  IngestReport run() {
    if (roots_.empty())
      throw Error(ErrorKind::kUsage, "nothing to ingest", "name a file or folder");
    walk_roots();
    std::unique_ptr<WriteLock> lock;
    if (!options_.dry_run) {
      check_space();
      lock = std::make_unique<WriteLock>(store_, options_.wait, cancel_);
    }
    open_collection(lock.get());
    plan();
    report_.files = static_cast<int64_t>(entries_.size());
    progress_.files_total = report_.files;
    tick(nullptr);
    for (const DocumentInfo* d : unchanged_) settle_unchanged(*d);
    if (options_.dry_run) {
      pretend();
    } else {
      act(*lock);
    }
    finish();
    return std::move(report_);
  }

 private:
  bool cancelled() const { return cancel_ && cancel_->raised(); }

  void check_space() {
    uint64_t left = free_space(store_.path());
    if (left < kFreeSpaceFloor) {
      throw Error(ErrorKind::kIo,
                  fmt::format("{} MB free where the document store lies ({})", left >> 20,
                              store_.path().string()),
                  "free space there, or set XDG_DATA_HOME to a larger disk");
    }
  }

  void walk_roots() {
    WalkOptions walking = options_.walk;
    walking.cancel = cancel_;
    std::unordered_set<std::string> seen;
    for (const Path& root : roots_) {
      WalkCallbacks callbacks;
      callbacks.file = [&](WalkEntry&& entry) {
        // Roots may overlap; a file is taken once.
        if (seen.insert(entry.path.string()).second) entries_.push_back(std::move(entry));
      };
      callbacks.skipped = [&](const Path&, WalkSkip reason) { ++skips_[walk_skip_name(reason)]; };
      if (!walk(root, walking, callbacks)) report_.cancelled = true;
    }
  }

  void open_collection(WriteLock* lock) {
    EmbedderIdentity identity{embedder_.fingerprint(), embedder_.name(), embedder_.dimension()};
    chunking_ = options_.chunking.value_or(chunk_options_for(embedder_.max_tokens()));
    auto found = store_.find_collection(options_.collection);
    if (!found) {
      if (lock)
        found = store_.create_collection(*lock, options_.collection, identity,
                                         chunker_settings(chunking_));
    } else if (found->embedder.fingerprint != identity.fingerprint) {
      throw Error(
          ErrorKind::kUsage,
          fmt::format("collection '{}' belongs to the embedder {}, not {}", found->name,
                      found->embedder.name, identity.name),
          fmt::format("use --embedder {}, choose another collection with -k, or remove this one "
                      "(apud coll rm {})",
                      found->embedder.name, found->name));
    } else if (options_.chunking && chunker_settings(chunking_) != found->chunker) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("collection '{}' is cut with '{}', not '{}'", found->name,
                              found->chunker, chunker_settings(chunking_)),
                  "ingest into a new collection to change the sizes of chunks");
    } else {
      chunking_ = parse_settings(found->chunker, found->name);
    }
    if (found) {
      collection_ = *found;
      known_ = store_.documents(found->id);
    }
  }

  void plan() {
    std::unordered_map<std::string, DocumentInfo*> by_path;
    for (DocumentInfo& d : known_) by_path[d.path] = &d;
    std::unordered_set<std::string> present;
    std::unordered_set<int64_t> sizes;
    for (const WalkEntry& e : entries_) {
      present.insert(e.path.string());
      sizes.insert(static_cast<int64_t>(e.size));
    }

    // Files that are no longer there. Still there but not selected this time is not gone.
    // One that is gone from another root only counts where it turns up here: a folder renamed.
    std::vector<DocumentInfo*> missing;
    std::unordered_multimap<int64_t, DocumentInfo*> missing_by_size;
    for (DocumentInfo& d : known_) {
      if (present.count(d.path)) continue;
      bool ours = std::any_of(roots_.begin(), roots_.end(),
                              [&](const Path& r) { return beneath(d.path, r.string()); });
      // Documents elsewhere cost a stat only where a file here may be theirs.
      if ((!ours && !sizes.count(d.size)) || !gone(d.path)) continue;
      if (ours) missing.push_back(&d);
      if (d.chunks > 0) missing_by_size.emplace(d.size, &d);
    }

    // A stat is enough where size and time agree and the loader is today's; duplicates also need
    // their original.
    std::unordered_set<int64_t> kept;
    auto same_stat = [](const DocumentInfo& d, const WalkEntry& e) {
      return d.size == static_cast<int64_t>(e.size) && d.mtime_ns == e.mtime_ns &&
             !outdated_loader(d.loader);
    };
    std::unordered_set<int64_t> missing_ids;
    for (DocumentInfo* d : missing) missing_ids.insert(d->id);
    for (const DocumentInfo& d : known_) {
      if (d.duplicate_of == 0 && d.chunks > 0 && !d.vanished && !present.count(d.path) &&
          !missing_ids.count(d.id)) {
        kept.insert(d.id);  // outside this run
      }
    }
    for (const WalkEntry& e : entries_) {
      auto at = by_path.find(e.path.string());
      if (at != by_path.end() && same_stat(*at->second, e) && at->second->duplicate_of == 0)
        kept.insert(at->second->id);
    }
    std::unordered_set<int64_t> moved;
    for (WalkEntry& e : entries_) {
      std::string path = e.path.string();
      auto at = by_path.find(path);
      DocumentInfo* known = at == by_path.end() ? nullptr : at->second;
      if (known && same_stat(*known, e) &&
          (known->duplicate_of == 0 || kept.count(known->duplicate_of))) {
        (known->vanished ? returned_ : unchanged_).push_back(known);
        continue;
      }
      if (!known) {
        std::string hash;
        auto [from, to] = missing_by_size.equal_range(static_cast<int64_t>(e.size));
        for (auto it = from; it != to; ++it) {
          if (moved.count(it->second->id)) continue;
          if (hash.empty()) hash = try_hash(e.path);
          if (hash == it->second->content_hash) {
            moved.insert(it->second->id);
            moves_.push_back({it->second, path, e.mtime_ns});
            break;
          }
        }
        if (!moves_.empty() && moves_.back().path == path) continue;
      }
      WorkItem item{std::move(e), std::move(path), std::nullopt};
      if (known) item.known = *known;
      work_.push_back(std::move(item));
    }
    for (DocumentInfo* d : missing) {
      if (!moved.count(d->id)) vanished_.push_back(d);
    }
    guard_roots();
    for (const DocumentInfo& d : known_) {
      if (kept.count(d.id) && d.duplicate_of == 0 && d.chunks > 0 && !d.vanished) {
        owners_[d.content_hash] = {d.id, d.path};
      }
    }
    for (const Move& m : moves_) owners_[m.document->content_hash] = {m.document->id, m.path};
  }

  /// An unmounted disk or a wrong folder must not empty a collection.
  void guard_roots() {
    if (options_.prune) return;
    for (const Path& root : roots_) {
      int64_t had = 0, lost = 0;
      for (const DocumentInfo& d : known_) had += !d.vanished && beneath(d.path, root.string());
      for (const DocumentInfo* d : vanished_)
        lost += !d->vanished && beneath(d->path, root.string());
      if (lost * 2 > had) {
        throw Error(
            ErrorKind::kNoInput,
            fmt::format("{} of {} known files are gone from {}; nothing was changed", lost, had,
                        root.string()),
            "is the disk mounted? If they are really gone: apud ingest --prune, or apud doc rm");
      }
    }
  }

  static std::string try_hash(const Path& path) {
    try {
      return sha256_file_hex(path);
    } catch (const Error&) {
      return "?";  // unreadable: the loader will say why
    }
  }

  void act(WriteLock& lock) {
    for (const Path& root : roots_) store_.add_root(lock, collection_.id, root.string());
    int64_t before = store_.generation(collection_.id);
    VectorIndex index = open_vector_index(store_, collection_);
    for (const DocumentInfo* d : returned_) {
      store_.set_vanished(lock, std::span(&d->id, 1), false);
      settle({d->path, FileOutcome::kIndexed, d->status, "is back", {}, d->chunks, d->tokens});
    }
    for (const Move& m : moves_) {
      store_.move_document(lock, m.document->id, m.path, m.mtime_ns);
      settle({m.path,
              FileOutcome::kMoved,
              m.document->status,
              "was " + m.document->path,
              {},
              m.document->chunks,
              m.document->tokens});
    }
    PipelineOptions pipeline;
    pipeline.collection = collection_.id;
    pipeline.jobs = options_.jobs > 0 ? options_.jobs : usable_cpus();
    pipeline.chunking = chunking_;
    pipeline.loading = options_.loading;
    pipeline.cancel = cancel_;
    if (embedder_.token_width() > 0 && !work_.empty()) {
      TokenCenters& centers = pipeline.token_centers;
      centers = stored_centers(store_, embedder_);
      if (centers.empty()) {
        centers = TokenCenters::measure(embedder_);
        store_.set_token_centers(lock, embedder_.fingerprint(), centers.values());
      }
    }
    pipeline.known_keys =
        store_.vector_keys(embedder_.fingerprint(), !pipeline.token_centers.empty());
    pipeline.owners = std::move(owners_);
    PipelineTotals totals =
        run_pipeline(store_, lock, embedder_, std::move(work_), std::move(pipeline),
                     [this](const FileEvent& event, int64_t parsed) {
                       progress_.chunks_total = parsed;
                       settle(event);
                     });
    report_.chunks = totals.chunks;
    report_.tokens = totals.tokens;
    report_.embedded = totals.embedded;
    report_.embed_seconds = totals.embed_seconds;
    report_.idle_seconds = totals.idle_seconds;
    if (totals.characters > 0) {
      report_.cjk_share = static_cast<double>(totals.cjk) / static_cast<double>(totals.characters);
    }
    if (!cancelled()) remove_vanished(lock);
    store_.drop_leftovers(lock);
    if (store_.generation(collection_.id) != before) {
      refresh_vector_index(index, store_, collection_.id);
      CollectionInfo now = store_.collection(options_.collection);
      try {
        index.save(vector_index_path(now.uuid),
                   {now.uuid, now.embedder.fingerprint, now.generation});
      } catch (const Error& e) {
        report_.warnings.push_back(
            fmt::format("index not saved, it will be rebuilt when needed: {}", e.what()));
      }
    }
    // Small changes hardly move the two numbers; measuring them costs up to 96 short embeddings.
    CollectionInfo now = store_.collection(options_.collection);
    int64_t drift = std::abs(now.chunks - now.calibration.chunks);
    if (options_.calibrate && !cancelled() && drift * 5 > now.calibration.chunks) {
      Calibration measured = calibrate(store_, embedder_, now, index, cancel_);
      if (!cancelled()) store_.set_calibration(lock, now.id, measured);
    }
  }

  void remove_vanished(WriteLock& lock) {
    std::vector<int64_t> ids;
    for (const DocumentInfo* d : vanished_) ids.push_back(d->id);
    if (options_.prune) {
      for (const DocumentInfo& d : known_) {
        bool ours = std::any_of(roots_.begin(), roots_.end(),
                                [&](const Path& r) { return beneath(d.path, r.string()); });
        if (d.vanished && ours && std::find(ids.begin(), ids.end(), d.id) == ids.end() &&
            gone(d.path)) {
          ids.push_back(d.id);
        }
      }
      store_.remove_documents(lock, ids);
      if (!ids.empty()) store_.purge(lock);
    } else {
      store_.set_vanished(lock, ids, true);
    }
    for (const DocumentInfo* d : vanished_) {
      if (d->vanished && !options_.prune) continue;  // said in an earlier run
      settle({d->path,
              options_.prune ? FileOutcome::kPruned : FileOutcome::kVanished,
              d->status,
              "",
              {},
              d->chunks,
              d->tokens});
    }
  }

  void pretend() {
    for (const DocumentInfo* d : returned_)
      settle({d->path, FileOutcome::kIndexed, d->status, "is back", {}, d->chunks, d->tokens});
    for (const Move& m : moves_) {
      settle({m.path,
              FileOutcome::kMoved,
              m.document->status,
              "was " + m.document->path,
              {},
              m.document->chunks,
              m.document->tokens});
    }
    for (const WorkItem& w : work_) {
      bool replaced = w.known && w.known->chunks > 0;
      settle({w.path,
              replaced ? FileOutcome::kReplaced : FileOutcome::kIndexed,
              LoadStatus::kOk,
              "",
              {},
              0,
              0});
    }
    for (const DocumentInfo* d : vanished_) {
      if (!d->vanished || options_.prune) {
        settle({d->path,
                options_.prune ? FileOutcome::kPruned : FileOutcome::kVanished,
                d->status,
                "",
                {},
                d->chunks,
                d->tokens});
      }
    }
  }

  void settle_unchanged(const DocumentInfo& d) {
    settle({d.path, FileOutcome::kUnchanged, d.status, d.reason, {}, d.chunks, d.tokens});
  }

  void settle(const FileEvent& event) {
    ++report_.counts[static_cast<int>(event.outcome)];
    if (event.outcome == FileOutcome::kSkipped) ++skips_[load_status_name(event.status)];
    if (event.outcome == FileOutcome::kIndexed || event.outcome == FileOutcome::kReplaced) {
      progress_.chunks_done += event.chunks;
    }
    if (std::find(options_.fail_on.begin(), options_.fail_on.end(), event.status) !=
        options_.fail_on.end()) {
      report_.failed = true;
    }
    if (event.outcome != FileOutcome::kVanished && event.outcome != FileOutcome::kPruned)
      ++progress_.files_done;
    tick(&event);
  }

  void tick(const FileEvent* event) {
    if (!callback_) return;
    progress_.event = event;
    progress_.seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    callback_(progress_);
  }

  void finish() {
    for (const auto& [reason, files] : skips_) report_.skips.push_back({reason, files});
    std::stable_sort(report_.skips.begin(), report_.skips.end(),
                     [](const auto& a, const auto& b) { return a.files > b.files; });
    int64_t skipped = report_.count(FileOutcome::kSkipped);
    report_.all_skipped = !report_.cancelled && !cancelled() && !options_.dry_run &&
                          (report_.files == 0 ? !skips_.empty() : skipped == report_.files);
    report_.cancelled = report_.cancelled || cancelled();
    if (!embedder_.multilingual() && report_.cjk_share > kEnglishOnlyLimit) {
      report_.warnings.push_back(
          fmt::format("{:.0f}% of the new text is Chinese, Japanese or Korean, which the embedder "
                      "{} does not know: "
                      "use a multilingual one (--embedder e5-small-q4) with a new -k",
                      report_.cjk_share * 100, embedder_.name()));
    }
    report_.seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  }

  struct Move {
    DocumentInfo* document;
    std::string path;
    int64_t mtime_ns;
  };

  Store& store_;
  TextEmbedder& embedder_;
  const IngestOptions& options_;
  const IngestCallback& callback_;
  const CancelFlag* cancel_;
  Clock::time_point start_ = Clock::now();
  std::vector<Path> roots_;
  std::vector<WalkEntry> entries_;
  std::map<std::string, int64_t> skips_;
  CollectionInfo collection_;
  ChunkOptions chunking_;
  std::vector<DocumentInfo> known_;
  std::vector<const DocumentInfo*> unchanged_, returned_;
  std::vector<Move> moves_;
  std::vector<WorkItem> work_;
  std::vector<DocumentInfo*> vanished_;
  std::unordered_map<std::string, std::pair<int64_t, std::string>> owners_;
  IngestProgress progress_;
  IngestReport report_;
};

}  // namespace

const char* file_outcome_name(FileOutcome outcome) {
  switch (outcome) {
    case FileOutcome::kIndexed:
      return "indexed";
    case FileOutcome::kReplaced:
      return "replaced";
    case FileOutcome::kUnchanged:
      return "unchanged";
    case FileOutcome::kMoved:
      return "moved";
    case FileOutcome::kDuplicate:
      return "duplicate";
    case FileOutcome::kEmpty:
      return "empty";
    case FileOutcome::kSkipped:
      return "skipped";
    case FileOutcome::kVanished:
      return "vanished";
    case FileOutcome::kPruned:
      return "pruned";
  }
  return "?";
}

IngestReport ingest(Store& store, TextEmbedder& embedder, std::span<const Path> paths,
                    const IngestOptions& options, const IngestCallback& progress,
                    const CancelFlag* cancel) {
  return Run(store, embedder, paths, options, progress, cancel).run();
}

}  // namespace apud
