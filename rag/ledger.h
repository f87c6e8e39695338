// The evidence ledger of one conversation: every passage enters once, append-only, under an id that
// never changes, so that the prompt's prefix (and its cache) survives and old citations stay good.
// When the window runs out, one planned compaction drops or condenses what stopped mattering.
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
  int tokens = 0;    // in the prompt
  int last_hit = 0;  // last turn whose retrieval fell into it
  int hits = 0;
  int citations = 0;      // times an answer cited it
  bool in_prompt = true;  // false after a compaction dropped it (still citable)
};

/// What a rebuild would do.
struct Compaction {
  std::vector<int> drop;      // passage ids that leave the prompt
  std::vector<int> condense;  // ids kept with their cited or best sentences only
  int tokens_before = 0;
  int tokens_after = 0;  // estimate
};

class Ledger {
 public:
  int next_id() const { return static_cast<int>(entries_.size()) + 1; }
  /// What is in the prompt, for PackOptions::sent.
  std::vector<SentRange> sent() const;
  /// Adds a turn's new passages (ids must continue next_id(): CHECK) and notes the referred ones.
  void add_turn(int turn, std::span<const Passage> passages, std::span<const int> tokens,
                std::span<const int> referred);
  void note_citation(int id);
  /// Plan that brings the evidence to at most `target` tokens: never-cited, old, low ones first;
  /// cited ones are condensed before they are dropped; the last turn's stay.
  Compaction plan(int target, int turn) const;
  /// Applies it: dropped ones leave the prompt; `condensed` replaces texts (same ids).
  void apply(const Compaction& plan, std::span<const Passage> condensed,
             std::span<const int> condensed_tokens);
  /// Back to the state before turn `turn` (undo, edit).
  void truncate(int turn);
  const std::vector<LedgerEntry>& entries() const { return entries_; }
  std::vector<Passage> passages() const;
  int prompt_tokens() const;
  /// One JSON document; from_json throws kBadData.
  std::string to_json() const;
  static Ledger from_json(const std::string& json);

 private:
  std::vector<LedgerEntry> entries_;
};

}  // namespace apud
