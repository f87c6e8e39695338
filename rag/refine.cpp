#include "rag/refine.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_map>

#include "rag/chunker.h"
#include "rag/text/support.h"

namespace apud {
namespace {

constexpr size_t kMostRounds = 40;  // older ones have had their turn
constexpr double kWorthKeeping =
    0.15;                          // share of a round's words; below, the sentence is of no use
constexpr double kCited = 0.5;     // added where the round's answer cited the passage
constexpr double kQuestion = 0.5;  // weights of a sentence's share of the question's words,
constexpr double kAnswer = 0.5;    //   and of the answer's

struct Piece {
  size_t entry = 0;  // into the ledger's entries
  TextRange range;
  std::set<std::string> stems;
  int tokens = 0;
  bool kept = false;
};

/// Rare words say more: idf over the sentences that compete.
class Weights {
 public:
  explicit Weights(std::span<const Piece> pieces) : total_(static_cast<double>(pieces.size())) {
    for (const Piece& piece : pieces) {
      for (const std::string& stem : piece.stems) ++frequency_[stem];
    }
  }
  double of(const std::string& stem) const {
    auto found = frequency_.find(stem);
    double frequency = found == frequency_.end() ? 0 : found->second;
    return std::log(1 + (total_ + 1) / (frequency + 1));
  }
  /// Share of the weight of `wanted` that `held` has; 0 for nothing wanted.
  double share(const std::set<std::string>& wanted, const std::set<std::string>& held) const {
    double all = 0, shared = 0;
    for (const std::string& stem : wanted) {
      double weight = of(stem);
      all += weight;
      if (held.contains(stem)) shared += weight;
    }
    return all > 0 ? shared / all : 0;
  }

 private:
  double total_;
  std::unordered_map<std::string, double> frequency_;
};

std::vector<Piece> pieces_of(const Ledger& ledger, const TokenCounter& counter) {
  std::vector<Piece> pieces;
  for (size_t e = 0; e < ledger.entries().size(); ++e) {
    const LedgerEntry& entry = ledger.entries()[e];
    if (!entry.in_prompt) continue;
    for (const TextRange& part : entry.passage.parts) {
      std::string text = text_of_parts(entry.passage, std::span(&part, 1));
      for (const Sentence& s : split_sentences(text)) {
        Piece piece;
        piece.entry = e;
        piece.range = {part.begin + s.begin, part.begin + s.end};
        std::string_view words = std::string_view(text).substr(s.begin, s.end - s.begin);
        piece.stems = content_stems(words);
        piece.tokens = counter.count(words) + 1;
        pieces.push_back(std::move(piece));
      }
    }
  }
  return pieces;
}

/// Kept sentences as parts: neighbours joined where nothing but space lay between them.
std::vector<TextRange> joined(const Passage& passage, std::span<const Piece* const> kept) {
  std::vector<TextRange> parts;
  for (const Piece* piece : kept) {
    bool next = false;
    if (!parts.empty()) {
      TextRange between{parts.back().end, piece->range.begin};
      next = text_of_parts(passage, std::span(&between, 1)).find_first_not_of(" \t\n") ==
             std::string::npos;
    }
    if (next) {
      parts.back().end = piece->range.end;
    } else {
      parts.push_back(piece->range);
    }
  }
  return parts;
}

int rendered_tokens(Passage passage, std::span<const TextRange> parts,
                    const TokenCounter& counter) {
  passage.text = text_of_parts(passage, parts);
  return counter.count(render_evidence(std::span(&passage, 1)));
}

}  // namespace

Refinement plan_refinement(const Ledger& ledger, std::span<const EvidenceRound> rounds,
                           const TokenCounter& counter, const RefineOptions& options) {
  Refinement plan;
  const std::vector<LedgerEntry>& entries = ledger.entries();
  plan.tokens_before = ledger.prompt_tokens();
  std::vector<Piece> pieces = pieces_of(ledger, counter);
  Weights weights(pieces);
  if (rounds.size() > kMostRounds) rounds = rounds.last(kMostRounds);

  // Each round's sentences, best first.
  struct Wish {
    size_t piece;
    double worth;
  };
  std::vector<std::vector<Wish>> wishes;
  for (auto round = rounds.rbegin(); round != rounds.rend(); ++round) {  // the newest first
    std::set<std::string> question = content_stems(round->question);
    std::set<std::string> answer = content_stems(round->answer);
    std::vector<Wish> mine;
    for (size_t p = 0; p < pieces.size(); ++p) {
      const LedgerEntry& entry = entries[pieces[p].entry];
      double worth = weights.share(question, pieces[p].stems);
      if (!answer.empty()) {
        worth = kQuestion * worth + kAnswer * weights.share(answer, pieces[p].stems);
      }
      if (worth < kWorthKeeping) continue;
      if (std::binary_search(entry.cited.begin(), entry.cited.end(), round->turn)) worth += kCited;
      mine.push_back({p, worth});
    }
    std::stable_sort(mine.begin(), mine.end(),
                     [](const Wish& a, const Wish& b) { return a.worth > b.worth; });
    wishes.push_back(std::move(mine));
  }

  int spent = 0;
  std::vector<bool> begun(entries.size(), false);
  auto take = [&](size_t p) {
    Piece& piece = pieces[p];
    if (piece.kept) return;
    int cost = piece.tokens;
    if (!begun[piece.entry]) cost += rendered_tokens(entries[piece.entry].passage, {}, counter);
    if (spent + cost > options.target) return;
    spent += cost;
    piece.kept = begun[piece.entry] = true;
  };
  size_t longest = 0;
  for (const std::vector<Wish>& mine : wishes) longest = std::max(longest, mine.size());
  for (size_t rank = 0; rank < longest; ++rank) {
    for (const std::vector<Wish>& mine : wishes) {
      if (rank < mine.size()) take(mine[rank].piece);
    }
  }

  for (size_t e = 0; e < entries.size(); ++e) {
    if (!entries[e].in_prompt) continue;
    std::vector<const Piece*> kept;
    bool all = true;
    for (const Piece& piece : pieces) {
      if (piece.entry != e) continue;
      if (piece.kept) kept.push_back(&piece);
      all = all && piece.kept;
    }
    if (all && !kept.empty()) {
      plan.tokens_after += entries[e].tokens;
      continue;
    }
    Refinement::Change change;
    change.id = entries[e].passage.id;
    change.keep = joined(entries[e].passage, kept);
    if (!change.keep.empty())
      change.tokens = rendered_tokens(entries[e].passage, change.keep, counter);
    plan.tokens_after += change.tokens;
    plan.changes.push_back(std::move(change));
  }
  return plan;
}

}  // namespace apud
