#include "rag/eval.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "base/ascii.h"
#include "base/check.h"
#include "base/error.h"
#include "base/utf8.h"

namespace apud {
namespace {

constexpr int kResamples = 1000;
constexpr int kFewestDiffering = 6;    // questions, for a difference that counts
constexpr size_t kMaxLine = 1u << 20;  // of a questions file

/// Mean with a 95% percentile bootstrap interval (Efron 1979), the same for the same values.
Interval interval_of(const std::vector<double>& values) {
  Interval out;
  if (values.empty()) return out;
  auto mean = [](double sum, size_t n) { return sum / static_cast<double>(n); };
  double sum = 0;
  for (double v : values) sum += v;
  out.mean = mean(sum, values.size());
  std::mt19937_64 random(20260101);
  std::vector<double> means;
  means.reserve(kResamples);
  for (int r = 0; r < kResamples; ++r) {
    double resampled = 0;
    for (size_t i = 0; i < values.size(); ++i) resampled += values[random() % values.size()];
    means.push_back(mean(resampled, values.size()));
  }
  std::sort(means.begin(), means.end());
  out.low = means[kResamples * 25 / 1000];
  out.high = means[kResamples * 975 / 1000 - 1];
  return out;
}

std::string fold_spaces(std::string_view text) {
  std::string out;
  for (char c : text) {
    bool space = c == ' ' || c == '\n' || c == '\t' || c == '\r';
    if (!space) {
      out += c;
    } else if (!out.empty() && out.back() != ' ') {
      out += ' ';
    }
  }
  return out;
}

}  // namespace

std::vector<Measure> eval_measures(int top, bool cited) {
  auto hit = [](int k) {
    return [k](const Judged& q) {
      return !q.gold_ranks.empty() && q.gold_ranks.front() <= k ? 1.0 : 0.0;
    };
  };
  std::vector<Measure> all = {{"hit@1", hit(1)}, {"hit@5", hit(5)}, {"hit@10", hit(10)}};
  all.push_back({"recall@" + std::to_string(top), [top](const Judged& q) {
                   auto found = std::count_if(q.gold_ranks.begin(), q.gold_ranks.end(),
                                              [&](int rank) { return rank <= top; });
                   return q.gold_total > 0 ? static_cast<double>(found) / q.gold_total : 0.0;
                 }});
  all.push_back({"mrr@10", [](const Judged& q) {
                   bool found = !q.gold_ranks.empty() && q.gold_ranks.front() <= 10;
                   return found ? 1.0 / q.gold_ranks.front() : 0.0;
                 }});
  // Gains are 0 or 1; the ideal list has all gold entries first (Järvelin & Kekäläinen 2002).
  all.push_back({"ndcg@10", [](const Judged& q) {
                   double gain = 0, ideal = 0;
                   for (int rank : q.gold_ranks) gain += rank <= 10 ? 1.0 / std::log2(rank + 1) : 0;
                   for (int i = 1; i <= std::min(q.gold_total, 10); ++i)
                     ideal += 1.0 / std::log2(i + 1.0);
                   return ideal > 0 ? gain / ideal : 0.0;
                 }});
  all.push_back({"packed", [](const Judged& q) { return q.packed ? 1.0 : 0.0; }});
  if (cited) all.push_back({"cited", [](const Judged& q) { return q.cited ? 1.0 : 0.0; }});
  all.push_back({"ms", [](const Judged& q) { return q.milliseconds; }, true});
  all.push_back({"tokens", [](const Judged& q) { return double(q.tokens); }, true});
  return all;
}

Interval mean_of(const Measure& measure, std::span<const Judged> questions) {
  std::vector<double> values;
  for (const Judged& q : questions) values.push_back(measure.of(q));
  return interval_of(values);
}

PairedDifference paired_difference(const Measure& measure, std::span<const Judged> mine,
                                   std::span<const Judged> theirs) {
  APUD_CHECK(mine.size() == theirs.size(), "the same questions in the same order");
  PairedDifference out;
  std::vector<double> differences;
  for (size_t i = 0; i < mine.size(); ++i) {
    differences.push_back(measure.of(mine[i]) - measure.of(theirs[i]));
    out.differing += differences.back() != 0;
  }
  out.difference = interval_of(differences);
  bool enough = out.differing >= kFewestDiffering;
  out.lower = enough && out.difference.high < 0;
  out.higher = enough && out.difference.low > 0;
  return out;
}

std::vector<EvalQuestion> parse_eval_questions(std::string_view jsonl) {
  std::vector<EvalQuestion> questions;
  int number = 0;
  while (!jsonl.empty()) {
    size_t end = std::min(jsonl.find('\n'), jsonl.size());
    std::string_view line = jsonl.substr(0, end);
    jsonl.remove_prefix(std::min(end + 1, jsonl.size()));
    ++number;
    if (is_blank(line)) continue;
    auto bad = [&](const std::string& why) {
      return Error(
          ErrorKind::kBadData, "questions line " + std::to_string(number) + ": " + why,
          R"(a line is {"question": "…", "gold": ["path/suffix.md#text of the passage", …]})");
    };
    if (line.size() > kMaxLine) throw bad("longer than 1 MiB");
    if (!utf8_valid(line)) throw bad("not UTF-8");
    // Nesting is bounded before the parser builds a tree that its destructor would recurse over.
    auto json = nlohmann::json::parse(
        line, [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) { return depth < 8; },
        false);
    if (!json.is_object()) throw bad("not a JSON object");
    EvalQuestion q;
    for (const auto& [key, value] : json.items()) {
      if (key == "question" && value.is_string()) {
        q.question = value.get<std::string>();
      } else if (key == "id" && value.is_string()) {
        q.id = value.get<std::string>();
      } else if (key == "gold" && value.is_array()) {
        for (const auto& entry : value) {
          if (!entry.is_string()) throw bad("'gold' holds something that is no text");
          std::string gold = entry.get<std::string>();
          size_t hash = gold.find('#');
          q.gold.push_back(hash == std::string::npos
                               ? EvalQuestion::Gold{gold, ""}
                               : EvalQuestion::Gold{gold.substr(0, hash), gold.substr(hash + 1)});
        }
      } else {
        throw bad("'" + key + "' is unknown or of the wrong type");
      }
    }
    if (q.question.empty()) throw bad("'question' is missing or empty");
    if (q.gold.empty()) throw bad("'gold' is missing or empty");
    if (q.id.empty()) q.id = std::to_string(number);
    questions.push_back(std::move(q));
  }
  return questions;
}

bool gold_matches(const EvalQuestion::Gold& gold, std::string_view path, std::string_view text) {
  if (!gold.path.empty()) {
    if (path.size() < gold.path.size() || path.substr(path.size() - gold.path.size()) != gold.path)
      return false;
    size_t before = path.size() - gold.path.size();
    if (before > 0 && path[before - 1] != '/' && gold.path.front() != '/') return false;
  }
  return gold.text.empty() || fold_spaces(text).find(fold_spaces(gold.text)) != std::string::npos;
}

}  // namespace apud
