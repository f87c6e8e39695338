// Measures of retrieval for `apud eval`: recall@k, MRR, nDCG@10 and more, with bootstrap intervals,
// and two settings compared question by question.
//
// Threads: free functions on values.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace apud {

/// One question's outcome: which ranks (1-based) held gold documents or passages.
struct Judged {
  std::vector<int> gold_ranks;  // ascending; empty: not found
  int gold_total = 1;           // relevant ones that exist
  bool packed = false;          // a gold passage reached the packed prompt
  bool cited = false;           // the answer cites one; only where answers were asked for
  double milliseconds = 0;
  int tokens = 0;
};

struct Interval {
  double mean = 0;
  double low = 0;  // 95%, percentile bootstrap with a fixed seed
  double high = 0;
};

/// A figure that each question has.
struct Measure {
  std::string name;  // "recall@10", "packed", "ms"
  std::function<double(const Judged&)> of;
  bool cost = false;  // milliseconds, tokens: less is better, and more is no regression
};
/// hit@1, hit@5, hit@10, recall@`top`, mrr@10, ndcg@10, packed, with `cited` cited, ms, tokens.
std::vector<Measure> eval_measures(int top = 10, bool cited = false);
/// Mean over the questions with its interval (percentile bootstrap, Efron 1979).
Interval mean_of(const Measure& measure, std::span<const Judged> questions);

/// Two settings on the same questions: mine - theirs, question by question.
struct PairedDifference {
  Interval difference;  // of the mean: questions are resampled in pairs
  int differing = 0;    // questions whose two values differ
  /// The interval lies below (above) 0 and enough questions differ: with fewer than 6 no paired
  /// test can tell at 95% (sign test: 2 * .5^5 = .06). The paired bootstrap decides like the paired
  /// t and randomization tests on retrieval measures (Smucker, Allan & Carterette, CIKM 2007).
  bool lower = false;
  bool higher = false;
};
/// REQUIRES: the same questions in the same order.
PairedDifference paired_difference(const Measure& measure, std::span<const Judged> mine,
                                   std::span<const Judged> theirs);

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
