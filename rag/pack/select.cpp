#include "rag/pack/select.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include "base/check.h"

namespace apud {
namespace {

constexpr double kNearDuplicate = 0.9;  // shared share of distinct terms
constexpr size_t kFewTerms = 4;         // shorter sentences are only compared for equality
constexpr int kTries = 24;              // sentences tried against the last free tokens
constexpr double kNear = 0.55;          // of the best score: what a stretch's best sentence needs
constexpr size_t kAlwaysNear = 4;       // stretches of the best scores: few do not distract
// What a sentence is worth: its score, less this much for each time that it is e times as long. The
// longer it is, the more of its tokens find one of the question's, and the more others it keeps
// out. Below kShort tokens it is alike: splinters of many passages distract a small model.
constexpr double kLength = 0.1;
constexpr int kShort = 24;

class Selection {
 public:
  Selection(const PackInput& input, const TokenCounter& counter, const PackOptions& options)
      : input_(input),
        counter_(counter),
        options_(options),
        budget_(options.budget),
        taken_(input.sentences.size(), false) {}

  Packed run() {
    take_whole();
    find_near();
    std::vector<size_t> order(input_.sentences.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    for (size_t i : order) {
      tokens_.push_back(tokens_of(i));
      worth_.push_back(at(i).score - kLength * std::log(std::max(tokens_[i], kShort)));
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return worth_[a] > worth_[b]; });
    int spent = exact();
    std::vector<size_t> passed;  // did not fit by estimate
    for (size_t i : order) {
      if (taken_[i] || !near_[at(i).region] || duplicate(i)) continue;
      int cost = at(i).sent > 0 ? tokens_[i] : estimate(i);
      if (spent + cost > options_.budget) {
        if (at(i).sent == 0) passed.push_back(i);
        continue;
      }
      spent += cost;
      if (at(i).sent == 0) {
        take(i);
      } else {
        present_.push_back(i);
        budget_ -= cost;
      }
    }
    trim();
    // Estimates add up to a little more than the whole: the rest is filled with exact counts.
    int tries = 0;
    for (size_t i : passed) {
      if (tries++ == kTries || exact_tokens_ >= budget_) break;
      if (duplicate(i)) continue;
      take(i);
      if (exact() > budget_) untake(i);
    }
    return result();
  }

 private:
  const PackSentence& at(size_t i) const { return input_.sentences[i]; }
  const PackSource& source(size_t region) const {
    return input_.sources[input_.regions[region].source];
  }

  /// Hits whose best sentence is far behind the best of all mostly distract: what they would take
  /// goes to more of the near ones. Text that no search chose is all near.
  void find_near() {
    std::vector<double> best(input_.regions.size(), 0);
    for (const PackSentence& s : input_.sentences)
      best[s.region] = std::max(best[s.region], s.score);
    std::vector<double> falling = best;
    std::sort(falling.begin(), falling.end(), std::greater<>());
    double least = 0;
    // What holds the name that is asked for needs no company.
    const size_t always = input_.named ? 1 : kAlwaysNear;
    if (falling.size() > always) least = std::min(kNear * falling[0], falling[always - 1]);
    for (size_t r = 0; r < best.size(); ++r)
      near_.push_back(input_.regions[r].rank == 0 || best[r] >= least);
  }

  void take(size_t i) {
    taken_[i] = true;
    taken_order_.push_back(i);
  }
  void untake(size_t i) {
    taken_[i] = false;
    taken_order_.erase(std::find(taken_order_.begin(), taken_order_.end(), i));
    exact();
  }

  void take_whole() {
    for (size_t region : input_.whole) {
      size_t before = taken_order_.size();
      for (size_t i = 0; i < input_.sentences.size(); ++i) {
        if (at(i).region == region && !taken_[i]) take(i);
      }
      if (exact() <= budget_) continue;
      while (taken_order_.size() > before) {
        taken_[taken_order_.back()] = false;
        taken_order_.pop_back();
      }
    }
  }

  bool same_words(const std::vector<std::string>& mine, const std::vector<std::string>& other) {
    if (mine.size() < kFewTerms || other.size() < kFewTerms) {
      return !mine.empty() && mine == other;
    }
    std::vector<std::string> shared;
    std::set_intersection(mine.begin(), mine.end(), other.begin(), other.end(),
                          std::back_inserter(shared));
    size_t all = mine.size() + other.size() - shared.size();
    return static_cast<double>(shared.size()) >= kNearDuplicate * static_cast<double>(all);
  }

  /// Does a taken sentence, or one in the prompt, say the same? Notes which, for the receipt.
  bool duplicate(size_t i) {
    if (at(i).sent > 0) return false;
    for (const std::vector<size_t>* among : {&taken_order_, &present_}) {
      for (size_t j : *among) {
        if (!same_words(at(i).terms, at(j).terms)) continue;
        if (at(j).region != at(i).region || at(j).sent > 0)
          duplicate_of_.try_emplace(at(i).region, j);
        return true;
      }
    }
    return false;
  }

  int tokens_of(size_t i) {
    const PackSentence& s = at(i);
    std::string_view text = source(s.region).text();
    return counter_.count(escape_marks(text.substr(s.begin, s.end - s.begin))) + 1;
  }

  /// Tokens that the sentence adds, taken on its own: a little too many.
  int estimate(size_t i) {
    const PackSentence& s = at(i);
    int cost = tokens_[i];
    bool started = std::any_of(taken_order_.begin(), taken_order_.end(),
                               [&](size_t j) { return at(j).region == s.region; });
    if (!started) {
      Passage head;
      head.id = 999;
      head.path = source(s.region).path;
      head.heading_path = input_.regions[s.region].heading_path;
      cost += counter_.count(render_evidence(std::span(&head, 1)));
    } else {
      bool before = i > 0 && taken_[i - 1] && at(i - 1).region == s.region;
      bool after = i + 1 < taken_.size() && taken_[i + 1] && at(i + 1).region == s.region;
      if (!before && !after) cost += 2;  // the mark of what is left out
    }
    return cost;
  }

  /// The passages as they stand now, in canonical order.
  std::vector<Passage> passages() const {
    std::vector<Passage> all;
    for (size_t i = 0; i < taken_.size(); ++i) {
      if (!taken_[i]) continue;
      const PackSentence& s = at(i);
      const PackRegion& region = input_.regions[s.region];
      const PackSource& from = input_.sources[region.source];
      if (all.empty() || regions_of_.back() != s.region) {
        Passage p;
        p.id = options_.first_id + static_cast<int>(all.size());
        p.document = from.document;
        p.collection = from.collection;
        p.path = from.path;
        p.title = from.title;
        p.heading_path = region.heading_path;
        p.begin = s.begin;
        p.end = s.begin;
        p.chunk_rank = region.rank;
        p.score = s.score;
        all.push_back(std::move(p));
        regions_of_.push_back(s.region);
      }
      Passage& p = all.back();
      bool joined = i > 0 && taken_[i - 1] && at(i - 1).region == s.region;
      if (joined) {
        p.text.append(from.text(), p.end, s.end - p.end);  // with the white space between
        p.parts.back().end = s.end;
      } else {
        if (!p.text.empty()) p.text += kGap;
        p.text.append(from.text(), s.begin, s.end - s.begin);
        p.parts.push_back({s.begin, s.end});
      }
      p.end = s.end;
      p.score = std::max(p.score, s.score);
    }
    regions_of_.clear();
    return all;
  }

  int exact() {
    evidence_ = render_evidence(passages());
    exact_tokens_ = evidence_.empty() ? 0 : counter_.count(evidence_);
    return exact_tokens_;
  }

  /// What is worth least goes until the exact count is within the budget.
  void trim() {
    while (exact() > budget_ && !taken_order_.empty()) {
      auto worst = std::min_element(taken_order_.begin(), taken_order_.end(),
                                    [&](size_t a, size_t b) { return worth_[a] < worth_[b]; });
      taken_[*worst] = false;
      taken_order_.erase(worst);
    }
  }

  Packed result() {
    Packed packed;
    exact();
    packed.passages = passages();
    std::map<size_t, int> id_of_region;
    std::vector<bool> used(input_.regions.size(), false);
    size_t p = 0;
    for (size_t i = 0; i < taken_.size(); ++i) {
      if (!taken_[i] || used[at(i).region]) continue;
      used[at(i).region] = true;
      id_of_region[at(i).region] = packed.passages[p++].id;
    }
    for (Passage& passage : packed.passages) {
      auto from =
          std::find_if(input_.sources.begin(), input_.sources.end(), [&](const PackSource& s) {
            return s.document == passage.document && s.path == passage.path;
          });
      APUD_CHECK(from != input_.sources.end(), "a passage comes from a source");
      passage.from = from->whole->anchor_at(passage.begin);
      passage.to = from->whole->anchor_at(passage.end - 1);
      passage.source_text = from->text().substr(passage.begin, passage.end - passage.begin);
    }
    // What is not in the prompt, by stretch, with the score of its best sentence.
    for (size_t r = 0; r < input_.regions.size(); ++r) {
      LeftOut out;
      std::string text;
      for (size_t i = 0; i < taken_.size(); ++i) {
        const PackSentence& s = at(i);
        if (s.region != r || taken_[i] || s.sent > 0) continue;
        if (text.empty() || s.score > out.score) out.score = s.score;
        if (text.empty()) out.from = source(r).whole->anchor_at(s.begin);
        text.append(source(r).text(), s.begin, s.end - s.begin);
        text += ' ';
      }
      if (text.empty()) continue;
      out.path = source(r).path;
      out.heading_path = input_.regions[r].heading_path;
      out.tokens = counter_.count(text);
      int copy_of = 0;
      if (auto twin = duplicate_of_.find(r); !used[r] && twin != duplicate_of_.end()) {
        const PackSentence& other = at(twin->second);
        copy_of = other.sent > 0 ? other.sent : id_of_region[other.region];
      }
      out.reason = copy_of > 0 ? "duplicate of [" + std::to_string(copy_of) + "]"
                   : near_[r]  ? "budget"
                               : "far behind the best";
      packed.left_out.push_back(std::move(out));
    }
    for (size_t i : present_) {
      if (std::find(packed.referred.begin(), packed.referred.end(), at(i).sent) ==
          packed.referred.end())
        packed.referred.push_back(at(i).sent);
    }
    std::stable_sort(packed.left_out.begin(), packed.left_out.end(),
                     [](const LeftOut& a, const LeftOut& b) { return a.score > b.score; });
    packed.evidence = evidence_;
    packed.tokens = exact_tokens_;
    APUD_CHECK(packed.tokens <= budget_ || packed.passages.empty(), "the budget holds");
    return packed;
  }

  const PackInput& input_;
  const TokenCounter& counter_;
  const PackOptions& options_;
  int budget_;  // less what sentences in the prompt take of it
  std::vector<bool> taken_;
  std::vector<bool> near_;  // by region
  std::vector<int> tokens_;
  std::vector<double> worth_;
  std::vector<size_t> taken_order_;
  std::vector<size_t> present_;            // chosen, and in the prompt already
  std::map<size_t, size_t> duplicate_of_;  // region -> sentence that says the same
  mutable std::vector<size_t> regions_of_;
  std::string evidence_;
  int exact_tokens_ = 0;
};

}  // namespace

Packed select_sentences(const PackInput& input, const TokenCounter& counter,
                        const PackOptions& options) {
  return Selection(input, counter, options).run();
}

}  // namespace apud
