// What an answer cost and what it reused: everything behind the one dim line, `-v`, `/stats` and
// the JSON of docs/json.md.
//
// Threads: values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace apud {

/// Prompt tokens by where their KV came from, and tokens written.
struct Usage {
  int prompt = 0;         // tokens of the prompt
  int cached = 0;         // reused: the three tiers together
  int cached_device = 0;  // pages that the executor held
  int cached_host = 0;    // moved back from host memory (executors with memory of their own)
  int cached_disk = 0;    // restored from files
  int computed = 0;       // prompt tokens run (prompt - cached)
  int generated = 0;      // all samples together, reasoning included
  int reasoning = 0;      // of generated
};

struct Timing {
  double queue = 0;    // seconds from submit to the first step
  double restore = 0;  // reading pages back from disk
  double ttft = 0;     // submit to first token
  double tpot = 0;     // per token after the first; 0 with fewer than two
  double total = 0;
  double tokens_per_second() const { return tpot > 0 ? 1 / tpot : 0; }
  double prefill_tokens_per_second = 0;  // computed prompt tokens over the time they took
};

/// Why a reuse that could be expected did not happen.
struct CacheBreak {
  enum class Cause {
    kTemplate,   // the template rewrote an earlier turn
    kReasoning,  // what was thought before the last answer is left out of later prompts
    kSystemPrompt,
    kEvidence,      // passages of an earlier turn changed or moved
    kEdited,        // undo, edit, regenerate
    kTurnsDropped,  // the window was full
    kEvicted,       // the pages were given to something else
    kOtherModel,
  };
  Cause cause = Cause::kTemplate;
  int position = 0;           // first token that differs (kEvicted: first that was recomputed)
  std::string expected_text;  // a few tokens from there, as they were
  std::string new_text;       // and as they are now
};
const char* cache_break_name(CacheBreak::Cause cause);

/// A tier below the executor's memory held more of the prompt: whether it was used, and why.
struct TierChoice {
  std::string tier;  // "host", "disk"
  int tokens = 0;    // that it held beyond the tiers above
  bool used = false;
  /// Predicted from measured rates. 0: not measured yet; the tier is used, its first pages are
  /// timed, and where the rest is faster computed, that is a choice of its own.
  double restore_seconds = 0;
  double compute_seconds = 0;
};

/// One rebuild of a conversation's evidence: which passages (ids) it shortened or let go.
struct EvidenceRefined {
  std::vector<int> condensed;
  std::vector<int> left;
  int tokens_before = 0;
  int tokens_after = 0;
};

struct Receipt {
  Usage usage;
  Timing timing;
  std::optional<CacheBreak> cache_break;
  std::optional<EvidenceRefined> refined;
  int dropped_turns = 0;  // turns of the history that no longer fit
  std::vector<TierChoice> tiers;
  int ignored_files = 0;  // of the disk tier, met and not used: damaged, or not what they claim
  std::string not_saved;  // why pages were not written to disk, empty when they were
  std::string model;
  std::string executor;
  uint64_t kv_bytes = 0;  // device memory of the KV pages
  uint64_t executor_bytes = 0;
  uint64_t seed = 0;
};

/// "1.2k reused · 210 read · 113 written · first word 0.4 s · 24 tok/s": at most 80 columns.
std::string receipt_line(const Receipt& receipt);
/// Several lines for `-v`, `/stats` and `session show`.
std::string receipt_details(const Receipt& receipt);
/// JSON object {usage, timing, cache_break?, …} as in docs/json.md.
std::string receipt_json(const Receipt& receipt);
/// What receipt_json wrote, members missing or of other types left at their defaults; absent where
/// the text is no JSON object with a usage. For showing the receipts of saved answers.
std::optional<Receipt> receipt_from_json(const std::string& text);

}  // namespace apud
