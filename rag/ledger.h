// The evidence ledger of one conversation: every passage enters once, append-only, under an id that
// never changes, so that the prompt's prefix (and its cache) survives and old citations stay good.
// When the window runs out, one planned refinement condenses passages to their useful sentences or
// lets them leave (rag/refine.h makes the plan).
//
// A pure data structure: no store, no model. Threads: values.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "rag/packer.h"

namespace apud {

struct LedgerEntry {
  Passage passage;
  int turn = 0;      // entered in this turn, 1-based
  int tokens = 0;    // in the prompt, with its heading line
  int last_hit = 0;  // last turn whose retrieval fell into it
  int hits = 0;
  std::vector<int> cited;  // turns whose answers cited it, ascending
  bool in_prompt = true;   // false after it left (still citable)
};

/// What one rebuild of the evidence does.
struct Refinement {
  struct Change {
    int id = 0;
    std::vector<TextRange> keep;  // what stays of its parts; empty: it leaves the prompt
    int tokens = 0;               // of what stays
  };
  std::vector<Change> changes;
  int tokens_before = 0;
  int tokens_after = 0;
};

/// Pinned documents have ids made from the document's own: their text and tokens are the same in
/// every conversation. Those of other passages count from 1 and stay below.
inline constexpr int kFirstPinnedId = 10000;
int pinned_id(int64_t document);

class Ledger {
 public:
  int next_id() const { return static_cast<int>(entries_.size()) + 1; }
  /// Documents that stand in the system prompt; set before the first turn.
  void set_pinned(std::vector<Passage> pinned) { pinned_ = std::move(pinned); }
  const std::vector<Passage>& pinned() const { return pinned_; }
  /// What is in the prompt, for PackOptions::sent.
  std::vector<SentRange> sent() const;
  /// Adds a turn's new passages (ids must continue next_id(): CHECK) and notes the referred ones.
  void add_turn(int turn, std::span<const Passage> passages, std::span<const int> tokens,
                std::span<const int> referred);
  /// The answer of `turn` cited this passage. Unknown ids are ignored.
  void note_citation(int id, int turn);
  /// Shortens passages and lets them leave the prompt. Ids, places and source_text stay: quotes of
  /// earlier answers were checked against them.
  void apply(const Refinement& plan);
  /// Back to the state before turn `turn` (undo, edit).
  void truncate(int turn);
  const std::vector<LedgerEntry>& entries() const { return entries_; }
  /// All that answers may cite: pinned ones, then every passage that ever entered.
  std::vector<Passage> passages() const;
  /// Passages in the prompt that stand before the question of `turn`, in order of their ids, when
  /// the prompt begins with turn `first`: what older turns brought has moved there.
  std::vector<Passage> standing_at(int turn, int first) const;
  int prompt_tokens() const;
  /// One JSON document; from_json throws kBadData.
  std::string to_json() const;
  static Ledger from_json(const std::string& json);

 private:
  std::vector<Passage> pinned_;
  std::vector<LedgerEntry> entries_;
};

/// The text of a passage that shows `parts` of its document, joined by kGap.
std::string text_of_parts(const Passage& passage, std::span<const TextRange> parts);

}  // namespace apud
