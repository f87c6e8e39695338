// Measures of retrieval for `apud eval`: recall@k, MRR, nDCG@10, with bootstrap intervals.
//
// Threads: free functions on values.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace apud {

/// One question's outcome: which ranks (1-based) held gold documents or passages.
struct Judged {
  std::vector<int> gold_ranks;  // ascending; empty: not found
  int gold_total = 1;           // relevant ones that exist
  bool packed = false;          // a gold passage reached the packed prompt
  double milliseconds = 0;
  int tokens = 0;
};

struct Interval {
  double mean = 0;
  double low = 0;  // 95%, percentile bootstrap with a fixed seed
  double high = 0;
};

struct RetrievalScores {
  Interval hit_at_1, hit_at_5, hit_at_10, recall_at_10, mrr_at_10, ndcg_at_10, packed, milliseconds,
      tokens;
  int questions = 0;
};
RetrievalScores score_retrieval(std::span<const Judged> questions);

/// A line of QUESTIONS.jsonl: {"question", "gold": [..], "id"?}. gold: path suffix, optionally
/// "#text" (a string that the passage must hold).
struct EvalQuestion {
  std::string id;
  std::string question;
  struct Gold {
    std::string path;  // suffix; empty: any
    std::string text;  // empty: any
  };
  std::vector<Gold> gold;
};
/// Throws kBadData naming the line.
std::vector<EvalQuestion> parse_eval_questions(std::string_view jsonl);
/// Does a passage (path, text) answer the gold entry? Spaces are folded.
bool gold_matches(const EvalQuestion::Gold& gold, std::string_view path, std::string_view text);

}  // namespace apud
