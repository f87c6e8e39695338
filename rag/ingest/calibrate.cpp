#include "rag/ingest/calibrate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/utf8.h"
#include "rag/relevance.h"
#include "rag/retriever.h"
#include "rag/statistics.h"
#include "rag/text/query.h"
#include "rag/text/terms.h"

namespace apud {
namespace {

constexpr size_t kQueries = 64;     // headings asked; each costs about one chunk of embedding
constexpr size_t kFewest = 20;      // headings; below, quantiles mean nothing
constexpr double kQuantile = 0.05;  // questions of the collection that the line may refuse

// The line lies this many standard deviations above the mean of the foreign questions' relevance,
// where 93 % of a normal distribution lie under it. Of 32 the second or third highest says less: a
// single one that happens to come near moves it by .02 (docs/performance.md, "Retrieval").
constexpr double kForeignDeviations = 1.5;

/// Everyday questions that hardly any collection answers: where they stop scoring is where a
/// question of their language begins to be about the documents.
constexpr const char* kForeign[] = {
    "How long should I boil an egg?",
    "Which team won the last ice hockey championship?",
    "What is a good name for a small white dog?",
    "How do I get red wine out of a carpet?",
    "When do cherry trees bloom?",
    "Who painted the ceiling of that chapel?",
    "How many players are on a volleyball team?",
    "What should I wear to a beach wedding?",
    "Why is my tomato plant wilting?",
    "Which bus goes to the old harbour?",
    "How tall is the highest waterfall?",
    "What do hedgehogs eat in winter?",
    "How do I knit a scarf for a child?",
    "Which opera begins with a shipwreck?",
    "Is it safe to run with a sore knee?",
    "What was the price of bread in 1910?",
    "How many strings does a cello have?",
    "Where can I rent a canoe for the weekend?",
    "What is the fastest way to peel garlic?",
    "Who wrote the song about the yellow bird?",
    "How long does it take to walk around the lake?",
    "Which vaccine does a kitten need first?",
    "What time does the bakery open on Sundays?",
    "Why do leaves turn red in autumn?",
    "Is the soup too salty for a toddler?",
    "Which king was buried under a car park?",
    "How do I get a stain of grass out of jeans?",
    "What is the rule for throwing in the ball?",
    "How often should I water a cactus?",
    "Which cheese goes with pears?",
    "When was the old bridge painted green?",
    "How do dolphins sleep?",
};
constexpr const char* kForeignCjk[] = {
    "鸡蛋要煮几分钟？",
    "去年的足球联赛冠军是哪支队？",
    "小白狗叫什么名字好听？",
    "地毯上的红酒渍怎么洗掉？",
    "樱花一般几月开？",
    "这首古诗的作者是哪个朝代的人？",
    "一个排球队上场几个人？",
    "参加婚礼穿什么颜色合适？",
    "番茄的叶子为什么发黄？",
    "去老码头坐几路公交车？",
    "世界上最高的瀑布有多高？",
    "刺猬冬天吃什么？",
    "给孩子织围巾要多少毛线？",
    "孕妇可以喝绿茶吗？",
    "膝盖疼还能跑步吗？",
    "一百年前一斤大米多少钱？",
    "大提琴有几根弦？",
    "周末去哪里可以租皮划艇？",
    "大蒜怎么剥得快？",
    "那首关于月亮的歌是谁写的？",
    "绕湖走一圈要多长时间？",
    "小猫第一针疫苗打什么？",
    "面包店星期天几点开门？",
    "秋天树叶为什么会变红？",
    "三岁孩子一天可以吃几个鸡蛋？",
    "哪位皇帝在位时间最长？",
    "牛仔裤上的草渍怎么去掉？",
    "乒乓球一局打到多少分？",
    "仙人掌多久浇一次水？",
    "清蒸鲈鱼要蒸几分钟？",
    "那座石桥是哪一年修的？",
    "海豚是怎么睡觉的？",
};

struct Question {
  std::string heading;
  int64_t gold = 0;                      // a chunk under that heading
  std::string text;                      // of the gold chunk, without the heading
  std::unordered_set<int64_t> siblings;  // other chunks under it: their vectors hold the heading
};

/// Headings that say something and stand once, spread evenly over the collection.
std::vector<Question> sample_questions(Store& store, const CollectionInfo& collection,
                                       size_t most) {
  struct Place {
    int64_t document;
    std::vector<StoredChunk> chunks;
  };
  std::map<std::string, std::vector<Place>> by_heading;
  for (const DocumentInfo& d : store.documents(collection.id)) {
    if (d.vanished || d.chunks == 0) continue;
    for (StoredChunk& c : store.chunks_of(d.id)) {
      if (c.heading.empty()) continue;
      size_t words = 0;
      for (const std::string& t : terms_of(c.heading)) words += !is_stop_word(t);
      if (words < 2) continue;
      auto& places = by_heading[c.heading];
      bool same = !places.empty() && places.back().document == d.id &&
                  places.back().chunks.back().heading_path == c.heading_path;
      if (!same) places.push_back({d.id, {}});
      places.back().chunks.push_back(std::move(c));
    }
  }
  // "Introduction" of every chapter is no question: only headings that stand at one place.
  std::vector<std::pair<const std::string*, const Place*>> unique;
  for (const auto& [heading, places] : by_heading) {
    if (places.size() == 1) unique.emplace_back(&heading, &places[0]);
  }
  std::vector<Question> questions;
  size_t n = std::min(most, unique.size());
  for (size_t i = 0; i < n; ++i) {
    const auto& [heading, place] = unique[i * unique.size() / n];
    const StoredChunk& chunk = place->chunks[0];
    auto text = store.text_if_there(place->document);
    if (!text || chunk.end > text->text.size()) continue;
    Question q{*heading, chunk.id, text->text.substr(chunk.begin, chunk.end - chunk.begin), {}};
    for (size_t j = 1; j < place->chunks.size(); ++j) q.siblings.insert(place->chunks[j].id);
    questions.push_back(std::move(q));
  }
  return questions;
}

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size()))];
}

struct Ranked {
  int64_t chunk;
  double cosine;
  double dense;  // cosine scaled 0..1; 0 beyond the dense side's own finds
  double bm25;   // scaled 0..1; 0 where the keyword side did not find it
  double fused(double weight) const { return weight * dense + (1 - weight) * bm25; }
};

void scale(std::vector<Ranked>& list, double Ranked::*field) {
  double low = HUGE_VAL, high = -HUGE_VAL;
  for (const Ranked& r : list) {
    if (r.*field <= -HUGE_VAL) continue;
    low = std::min(low, r.*field);
    high = std::max(high, r.*field);
  }
  for (Ranked& r : list) {
    bool found = r.*field > -HUGE_VAL;
    r.*field = !found ? 0 : high > low ? (r.*field - low) / (high - low) : 1;
  }
}

/// The candidates of both sides, as retrieval fuses them, for one question.
class Candidates {
 public:
  Candidates(Store& store, const VectorIndex& index, const CollectionInfo& collection)
      : store_(store), index_(index), collection_(collection) {}

  /// keep: chunks that may be found (null: all). extra: a chunk with a cosine of its own, which the
  /// index does not know.
  std::vector<Ranked> of(std::span<const float> query, const std::string& match,
                         const std::function<bool(int64_t)>& keep,
                         const std::pair<int64_t, double>* extra) {
    std::unordered_map<int64_t, Ranked> found;
    if (extra) found[extra->first] = {extra->first, extra->second, extra->second, -HUGE_VAL};
    auto own = [&](int64_t chunk) { return extra && chunk == extra->first; };
    auto others = [&](int64_t chunk) { return !own(chunk) && (!keep || keep(chunk)); };
    for (const VectorHit& h : index_.search(query, kSideCandidates, others))
      found[h.chunk] = {h.chunk, h.score, h.score, -HUGE_VAL};
    std::vector<int64_t> unscored;
    for (const KeywordHit& h : store_.keyword_search(collection_.id, match, kSideCandidates)) {
      if (!own(h.chunk) && !others(h.chunk)) continue;
      auto [at, fresh] = found.try_emplace(h.chunk, Ranked{h.chunk, 0, -HUGE_VAL, -HUGE_VAL});
      at->second.bm25 = h.score;
      if (fresh) unscored.push_back(h.chunk);
    }
    std::vector<float> scores = index_.scores(query, unscored);
    for (size_t i = 0; i < unscored.size(); ++i)
      found[unscored[i]].cosine = std::isnan(scores[i]) ? 0 : scores[i];
    std::vector<Ranked> list;
    list.reserve(found.size());
    for (const auto& [chunk, r] : found) list.push_back(r);
    scale(list, &Ranked::dense);
    scale(list, &Ranked::bm25);
    return list;
  }

  /// The highest relevance among the best by the fused score. own: text of a chunk without its
  /// heading, which stands for its own.
  double relevance_of(const std::string& question, std::vector<Ranked> list, double weight,
                      const std::pair<int64_t, std::string_view>* own) {
    std::sort(list.begin(), list.end(), [&](const Ranked& a, const Ranked& b) {
      double x = a.fused(weight), y = b.fused(weight);
      return x != y ? x > y : a.chunk < b.chunk;
    });
    list.resize(std::min(list.size(), kRelevanceHits));
    IdfOverlap overlap(store_, collection_.id, question);
    double best = 0;
    for (const Ranked& r : list) {
      if (own && r.chunk == own->first) {
        best = std::max(best, relevance(store_, overlap, r.cosine, "", own->second));
        continue;
      }
      std::vector<StoredChunk> chunk = store_.chunks({&r.chunk, 1});
      if (chunk.empty()) continue;
      auto text = store_.text_if_there(chunk[0].document);
      if (!text || chunk[0].end > text->text.size()) continue;
      best = std::max(
          best,
          relevance(
              store_, overlap, r.cosine, chunk[0].heading_path,
              std::string_view(text->text).substr(chunk[0].begin, chunk[0].end - chunk[0].begin)));
    }
    return best;
  }

 private:
  Store& store_;
  const VectorIndex& index_;
  const CollectionInfo& collection_;
};

/// The relevance under which all but a few foreign questions stay.
double foreign_line(TextEmbedder& embedder, Candidates& candidates, double weight,
                    std::span<const char* const> questions) {
  size_t dimension = static_cast<size_t>(embedder.dimension());
  std::vector<std::string> asked(questions.begin(), questions.end());
  std::vector<float> queries(asked.size() * dimension);
  embedder.embed(asked, EmbedKind::kQuery, queries);
  std::vector<double> best;
  for (size_t i = 0; i < asked.size(); ++i) {
    auto query = std::span<const float>(queries).subspan(i * dimension, dimension);
    std::vector<Ranked> list = candidates.of(query, any_word_match(asked[i]), nullptr, nullptr);
    best.push_back(candidates.relevance_of(asked[i], std::move(list), weight, nullptr));
  }
  // Some are of the collection's own subject (a steamed bass among recipes): these are not foreign.
  const Spread spread = spread_without_high_outliers(best);
  return spread.mean + kForeignDeviations * spread.deviation;
}

/// The lines for questions without CJK and with it: what keeps foreign ones out, and no higher than
/// what headings of the language reach, since where the foreign ones are the collection's own
/// subject good ones must pass. near: relevance of headings without CJK, with it.
std::array<double, 2> abstain_lines(const std::array<double, 2>& foreign,
                                    const std::array<std::vector<double>, 2>& near) {
  std::vector<double> all = near[0];
  all.insert(all.end(), near[1].begin(), near[1].end());
  std::array<double, 2> lines = foreign;
  if (all.size() < kFewest) return lines;
  const bool apart = near[0].size() >= kFewest || near[1].size() >= kFewest;
  for (size_t s = 0; s < 2; ++s) {
    if (near[s].size() >= kFewest) {
      lines[s] = std::min(foreign[s], quantile(near[s], kQuantile));
    } else if (!apart) {
      lines[s] = std::min(foreign[s], quantile(all, kQuantile));
    }
  }
  // A language without headings of its own: held down as far as the other is.
  for (size_t s = 0; s < 2; ++s) {
    if (apart && near[s].size() < kFewest) lines[s] -= foreign[1 - s] - lines[1 - s];
  }
  return lines;
}

double reciprocal_rank(const std::vector<Ranked>& list, int64_t gold, double weight) {
  double mine = -1;
  for (const Ranked& r : list) {
    if (r.chunk == gold) mine = r.fused(weight);
  }
  if (mine < 0) return 0;
  int rank = 1;
  for (const Ranked& r : list) rank += r.fused(weight) > mine;
  return rank <= 10 ? 1.0 / rank : 0;
}

/// What each question finds, in order, the right chunk without its heading; none on cancel.
std::vector<std::vector<Ranked>> search_headings(TextEmbedder& embedder, Candidates& candidates,
                                                 const std::vector<Question>& questions,
                                                 const CancelFlag* cancel) {
  size_t dimension = static_cast<size_t>(embedder.dimension());
  std::vector<std::string> asked, told;
  for (const Question& q : questions) {
    asked.push_back(q.heading);
    told.push_back(q.text);
  }
  std::vector<float> queries(questions.size() * dimension), golds(questions.size() * dimension);
  constexpr size_t kCall = 16;
  for (size_t at = 0; at < questions.size(); at += kCall) {
    if (cancel && cancel->raised()) return {};
    size_t n = std::min(kCall, questions.size() - at);
    embedder.embed(std::span(asked).subspan(at, n), EmbedKind::kQuery,
                   std::span(queries).subspan(at * dimension, n * dimension));
    embedder.embed(std::span(told).subspan(at, n), EmbedKind::kPassage,
                   std::span(golds).subspan(at * dimension, n * dimension));
  }

  std::vector<std::vector<Ranked>> lists;
  for (size_t i = 0; i < questions.size(); ++i) {
    const Question& q = questions[i];
    std::span<const float> query(queries.data() + i * dimension, dimension);
    double gold_cosine = 0;
    for (size_t d = 0; d < dimension; ++d)
      gold_cosine += double{query[d]} * golds[i * dimension + d];
    std::pair<int64_t, double> gold{q.gold, gold_cosine};
    lists.push_back(candidates.of(
        query, any_word_match(q.heading, "{body}"),
        [&](int64_t chunk) { return !q.siblings.count(chunk); }, &gold));
  }
  return lists;
}

}  // namespace

std::vector<HeadingTrial> heading_trials(Store& store, TextEmbedder& embedder,
                                         const CollectionInfo& collection, const VectorIndex& index,
                                         int most, int top, const CancelFlag* cancel) {
  std::vector<HeadingTrial> trials;
  std::vector<Question> questions = sample_questions(store, collection, static_cast<size_t>(most));
  if (questions.size() < kFewest) return trials;
  Candidates candidates(store, index, collection);
  const double weight = collection.calibration.dense_weight;
  std::vector<std::vector<Ranked>> lists = search_headings(embedder, candidates, questions, cancel);
  for (size_t i = 0; i < lists.size(); ++i) {
    HeadingTrial trial{questions[i].heading, questions[i].gold, {}};
    for (const Ranked& r : lists[i]) trial.ranked.emplace_back(r.chunk, r.fused(weight));
    std::sort(trial.ranked.begin(), trial.ranked.end(), [](const auto& a, const auto& b) {
      return a.second != b.second ? a.second > b.second : a.first < b.first;
    });
    if (trial.ranked.size() > static_cast<size_t>(top)) trial.ranked.resize(top);
    trials.push_back(std::move(trial));
  }
  return trials;
}

Calibration calibrate(Store& store, TextEmbedder& embedder, const CollectionInfo& collection,
                      const VectorIndex& index, const CancelFlag* cancel) {
  Calibration result;
  result.chunks = collection.chunks;
  if (collection.chunks == 0) return result;
  std::vector<Question> questions = sample_questions(store, collection, kQueries);
  Candidates candidates(store, index, collection);
  if (questions.size() < kFewest) {
    result.abstain_line = foreign_line(embedder, candidates, result.dense_weight, kForeign);
    result.abstain_line_cjk = foreign_line(embedder, candidates, result.dense_weight, kForeignCjk);
    result.queries = static_cast<int>(std::size(kForeign) + std::size(kForeignCjk));
    return result;
  }
  std::vector<std::vector<Ranked>> lists = search_headings(embedder, candidates, questions, cancel);
  if (lists.empty()) return result;
  // The weight nearest to the general one among those within one standard error of the best
  // (Breiman et al. 1984): with some dozen questions smaller differences are chance, and headings
  // favour keywords more than people's questions do.
  struct Point {
    double weight;
    double mean;
    double error;
  };
  std::vector<Point> curve;
  double n = static_cast<double>(lists.size());
  for (int step = 0; step <= 20; ++step) {
    const double weight = step * 0.05;
    std::vector<double> ranks;
    ranks.reserve(lists.size());
    for (size_t i = 0; i < lists.size(); ++i)
      ranks.push_back(reciprocal_rank(lists[i], questions[i].gold, weight));
    const Spread spread = spread_of(ranks);
    curve.push_back({weight, spread.mean, spread.deviation / std::sqrt(n)});
  }
  const Point top_point = *std::max_element(
      curve.begin(), curve.end(), [](const Point& a, const Point& b) { return a.mean < b.mean; });
  double chosen = result.dense_weight, away = HUGE_VAL;
  for (const Point& p : curve) {
    double d = std::fabs(p.weight - Calibration{}.dense_weight);
    if (p.mean >= top_point.mean - top_point.error && d < away) {
      away = d;
      chosen = p.weight;
    }
  }
  result.dense_weight = chosen;
  // Headings repeat their section's words, so people's questions score lower than they do: the line
  // need not lie higher than what keeps foreign questions out.
  std::array<std::vector<double>, 2> near;
  for (size_t i = 0; i < questions.size(); ++i) {
    std::pair<int64_t, std::string_view> own{questions[i].gold, questions[i].text};
    near[holds_cjk(questions[i].heading) ? 1 : 0].push_back(
        candidates.relevance_of(questions[i].heading, lists[i], chosen, &own));
  }
  const std::array<double, 2> lines =
      abstain_lines({foreign_line(embedder, candidates, chosen, kForeign),
                     foreign_line(embedder, candidates, chosen, kForeignCjk)},
                    near);
  result.abstain_line = lines[0];
  result.abstain_line_cjk = lines[1];
  result.queries = static_cast<int>(questions.size());
  return result;
}

}  // namespace apud
