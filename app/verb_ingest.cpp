// `apud ingest`: files into a collection, with progress.
#include <fmt/format.h>

#include <algorithm>

#include "app/json_text.h"
#include "app/memory.h"
#include "app/progress.h"
#include "app/runtime.h"
#include "app/signals.h"
#include "base/utf8.h"
#include "rag/ingest.h"

namespace apud {

namespace {

LoadStatus parse_load_status(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');  // who types no-text means that
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(LoadStatus::kSecret); ++i) {
    auto status = static_cast<LoadStatus>(i);
    if (name == load_status_name(status)) return status;
    names.push_back(load_status_name(status));
  }
  throw Error(ErrorKind::kUsage, "--fail-on " + name + ": unknown kind",
              fmt::format("one of {}", fmt::join(names, ", ")));
}

std::string event_json(const FileEvent& event) {
  ordered_json out = {{"path", event.path},
                      {"outcome", file_outcome_name(event.outcome)},
                      {"status", load_status_name(event.status)},
                      {"reason", event.reason},
                      {"chunks", event.chunks},
                      {"tokens", event.tokens}};
  if (!event.pages_without_text.empty()) out["pages_without_text"] = event.pages_without_text;
  return dump_json(out);
}

/// A dry run has indexed nothing.
const char* shown_outcome(FileOutcome outcome, bool dry_run) {
  if (dry_run && outcome == FileOutcome::kIndexed) return "new";
  if (dry_run && outcome == FileOutcome::kReplaced) return "changed";
  return file_outcome_name(outcome);
}

/// A folder of scans would else be silently empty: why nothing of them is found is said here.
std::string scans_warning(const std::vector<std::string>& scans) {
  constexpr size_t kNamed = 3;
  std::string names;
  for (size_t i = 0; i < std::min(kNamed, scans.size()); ++i)
    names += (i > 0 ? ", " : "") + printable(Path(scans[i]).filename().string(), true);
  if (scans.size() > kNamed) names += ", …";
  return fmt::format("no text on any page, nothing to find in {}: {} (scans? ocrmypdf adds text)",
                     scans.size() == 1 ? "one file" : with_commas(scans.size()) + " files", names);
}

std::string time_left(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

}  // namespace

int verb_ingest(Runtime& runtime) {
  const Options& o = runtime.options;
  Terminal& terminal = runtime.terminal;
  IngestOptions ingest_options;
  ingest_options.collection =
      o.common.collections.empty() ? o.settings.collection : o.common.collections.front();
  check_not_reserved(ingest_options.collection);
  ingest_options.jobs = o.ingest.jobs;
  ingest_options.prune = o.ingest.prune;
  ingest_options.dry_run = o.ingest.dry_run;
  ingest_options.wait = o.ingest.wait;
  ingest_options.walk.include = o.ingest.include;
  ingest_options.walk.exclude = o.ingest.exclude;
  ingest_options.walk.hidden = o.ingest.hidden;
  ingest_options.walk.no_ignore = o.ingest.no_ignore;
  for (const std::string& name : o.ingest.fail_on)
    ingest_options.fail_on.push_back(parse_load_status(name));
  std::vector<Path> paths(o.ingest.paths.begin(), o.ingest.paths.end());

  Store& store = runtime.writer();
  std::optional<CollectionInfo> known = store.find_collection(ingest_options.collection);
  // An existing collection keeps its embedder; a new one takes the configured one.
  EngineEmbedder& embedder = known && !known->embedder.name.empty()
                                 ? runtime.embedder_of(*known)
                                 : runtime.embedder(o.settings.embedder);
  if (!known) ingest_options.chunking = chunk_options_for(embedder.max_tokens(), o.settings.chunk);
  std::vector<std::string> taken;  // paths, for --pin
  std::vector<std::string> scans;
  IngestReport report = ingest(
      store, embedder, paths, ingest_options,
      [&](const IngestProgress& progress) {
        if (progress.event) {
          const FileEvent& event = *progress.event;
          if (event.status == LoadStatus::kOk) taken.push_back(event.path);
          if (event.status == LoadStatus::kNoText && event.chunks == 0) scans.push_back(event.path);
          if (o.ingest.jsonl) {
            terminal.out(event_json(event) + "\n");
            terminal.flush();
          }
          std::string line = fmt::format("{:<9} {}", shown_outcome(event.outcome, o.ingest.dry_run),
                                         printable(event.path, true));
          if (!event.reason.empty()) line += " (" + event.reason + ")";
          bool listed = event.outcome != FileOutcome::kUnchanged || o.common.verbose;
          if (o.ingest.dry_run && !o.ingest.jsonl && listed)
            terminal.out_text(line + "\n");  // what was asked for
          else if (o.common.verbose)
            terminal.note(line);
        }
        double seconds = std::max(progress.seconds, 1e-3);
        double files_per_s = static_cast<double>(progress.files_done) / seconds;
        std::string line =
            fmt::format("{}/{} files · {:.1f} files/s · {:.1f} chunks/s",
                        with_commas(progress.files_done), with_commas(progress.files_total),
                        files_per_s, static_cast<double>(progress.chunks_done) / seconds);
        if (progress.files_done > 0 && progress.files_total > progress.files_done) {
          line += fmt::format(" · {} left", time_left(static_cast<double>(progress.files_total -
                                                                          progress.files_done) /
                                                      files_per_s));
        }
        terminal.progress(line);
      },
      &cancel_flag());
  terminal.progress("", true);

  std::string summary;
  auto add = [&](FileOutcome outcome, const char* word) {
    if (int64_t n = report.count(outcome))
      summary += fmt::format("{}{} {}", summary.empty() ? "" : ", ", with_commas(n), word);
  };
  add(FileOutcome::kIndexed, "new");
  add(FileOutcome::kReplaced, "changed");
  add(FileOutcome::kUnchanged, "unchanged");
  add(FileOutcome::kMoved, "moved");
  add(FileOutcome::kDuplicate, "duplicate");
  add(FileOutcome::kEmpty, "empty");
  add(FileOutcome::kVanished, "vanished");
  add(FileOutcome::kPruned, "pruned");
  if (summary.empty()) summary = "no files";
  if (report.chunks > 0) {
    summary += fmt::format(" · {} chunks · {} tokens", with_commas(report.chunks),
                           with_commas(report.tokens));
  }
  terminal.note(fmt::format("{}{}: {} · {:.1f} s", o.ingest.dry_run ? "(dry run) " : "",
                            ingest_options.collection, summary, report.seconds));
  if (o.common.verbose && report.embedded > 0) {
    terminal.note(
        fmt::format("embedder: {} texts, busy {:.1f} s, idle {:.1f} s ({:.0f}%)",
                    with_commas(report.embedded), report.embed_seconds, report.idle_seconds,
                    100 * report.idle_seconds / (report.embed_seconds + report.idle_seconds)));
  }
  if (!report.skips.empty()) {
    std::string skips;
    for (const IngestReport::SkipCount& skip : report.skips) {
      skips +=
          fmt::format("{}{} {}", skips.empty() ? "" : ", ", with_commas(skip.files), skip.reason);
    }
    terminal.note("skipped: " + skips + (o.common.verbose ? "" : " (-v names them)"));
  }
  if (report.count(FileOutcome::kVanished) > 0) {
    terminal.note("vanished files are no longer found and kept; --prune removes them");
  }
  if (!scans.empty()) terminal.warn(scans_warning(scans));
  for (const std::string& warning : report.warnings) terminal.warn(warning);
  terminal.flush();
  if (o.ingest.pin && !o.ingest.dry_run && !report.cancelled)
    pin_paths(runtime, ingest_options.collection, taken);
  if (report.cancelled) return ending_signal() ? 128 + ending_signal() : 130;
  if (report.failed || report.all_skipped) return 65;
  return 0;
}

}  // namespace apud
