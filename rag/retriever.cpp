#include "rag/retriever.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/check.h"
#include "base/error.h"
#include "base/stopwatch.h"
#include "rag/feedback.h"
#include "rag/hit_maker.h"
#include "rag/index.h"
#include "rag/relevance.h"
#include "rag/text/names.h"
#include "rag/text/query.h"
#include "rag/token_match.h"

namespace apud {
namespace {

using Clock = std::chrono::steady_clock;

/// Scores of one candidate for one of the searched texts.
struct Scores {
  std::optional<float> dense;
  std::optional<float> around;  // product with the text's vector less its language's centre
  std::optional<double> bm25;
};

struct Candidate {
  size_t collection = 0;         // position among the searched ones
  std::vector<Scores> by_query;  // (queries)
  int named = 0;                 // exact names of the question that few chunks hold, and this one
  double fused = 0;
};

// Added to the fused score, 0..1, of a chunk for what it holds of the exact names of the question
// that few chunks hold: who asks for E14 wants those first.
constexpr double kNamed = 2;

/// Scales to 0..1 over what the side found; what it did not find counts 0.
class MinMax {
 public:
  void see(double value) {
    low_ = std::min(low_, value);
    high_ = std::max(high_, value);
  }
  double operator()(double value) const {
    if (high_ <= low_) return value >= high_ ? 1.0 : 0.0;
    return std::clamp((value - low_) / (high_ - low_), 0.0, 1.0);
  }

 private:
  double low_ = HUGE_VAL;
  double high_ = -HUGE_VAL;
};

/// Of the `best` highest values, which come first then.
MinMax scale_of_best(std::vector<double>& values, int best) {
  MinMax scale;
  const auto span = std::min<size_t>(values.size(), static_cast<size_t>(best));
  std::partial_sort(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(span),
                    values.end(), std::greater<>());
  for (size_t i = 0; i < span; ++i) scale.see(values[i]);
  return scale;
}

using Order = std::vector<std::pair<int64_t, const Candidate*>>;  // chunks, best first

/// Puts the best candidates in the order of fused score, match and nearness to the best and gives
/// their matches in that order. One without codes counts as the mean of the others.
/// vectors: of chunks of a collection, (chunks, dimension).
std::vector<std::optional<TokenMatch>> reorder(
    Store& store, std::span<const TokenQuestion> questions, size_t width, size_t dimension,
    const std::function<std::vector<float>(size_t, std::span<const int64_t>)>& vectors,
    Order& order) {
  const size_t n = std::min(order.size(), kMostMatched);
  std::vector<int64_t> ids;
  std::map<size_t, std::vector<size_t>> places;  // by collection
  for (size_t i = 0; i < n; ++i) {
    ids.push_back(order[i].first);
    places[order[i].second->collection].push_back(i);
  }
  std::vector<std::optional<TokenMatch>> matches(n);
  if (!questions.empty()) matches = match_chunks(store, questions, width, ids);
  double sum = 0, matched = 0;
  for (const auto& m : matches) {
    if (!m) continue;
    sum += m->all;
    matched += 1;
  }
  std::vector<double> scores;
  for (size_t i = 0; i < n; ++i) {
    const double match = matched == 0 ? 0 : matches[i] ? matches[i]->all : sum / matched;
    scores.push_back(order[i].second->fused + kMatchWeight * match);
  }
  std::vector<float> rows(n * dimension);
  for (const auto& [collection, at] : places) {
    std::vector<int64_t> chunks;
    for (size_t i : at) chunks.push_back(ids[i]);
    const std::vector<float> found = vectors(collection, chunks);
    for (size_t i = 0; i < at.size(); ++i)
      std::copy_n(found.data() + i * dimension, dimension, rows.data() + at[i] * dimension);
  }
  scores = with_feedback(scores, rows, dimension);
  std::vector<size_t> ranked(n);
  std::iota(ranked.begin(), ranked.end(), size_t{0});
  std::stable_sort(ranked.begin(), ranked.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  Order ordered;
  std::vector<std::optional<TokenMatch>> moved;
  for (size_t place : ranked) {
    ordered.push_back(order[place]);
    moved.push_back(std::move(matches[place]));
  }
  std::copy(ordered.begin(), ordered.end(), order.begin());
  return moved;
}

/// The end of a text that fits the embedder (of a follow-up the question is at the end).
std::string fit_to_embedder(const TextEmbedder& embedder, std::string text) {
  const int limit = embedder.max_tokens();
  for (int count; (count = embedder.count_tokens(text)) > limit;) {
    size_t cut = std::max<size_t>(1, text.size() - text.size() * limit / count);
    while (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) ++cut;
    text.erase(0, cut);
  }
  return text;
}

}  // namespace

SearchMode parse_search_mode(std::string_view name) {
  for (SearchMode mode : {SearchMode::kHybrid, SearchMode::kDense, SearchMode::kBm25}) {
    if (name == search_mode_name(mode)) return mode;
  }
  throw Error(ErrorKind::kUsage, fmt::format("unknown search mode '{}'", name),
              "use hybrid, dense or bm25");
}

const char* search_mode_name(SearchMode mode) {
  switch (mode) {
    case SearchMode::kHybrid:
      return "hybrid";
    case SearchMode::kDense:
      return "dense";
    case SearchMode::kBm25:
      return "bm25";
  }
  return "?";
}

struct Retriever::Impl {
  Store& store;
  TextEmbedder* embedder;
  struct Opened {
    VectorIndex index;
    int64_t generation;
  };
  std::map<int64_t, Opened> opened;  // by collection

  /// The collection's index at its present generation.
  const VectorIndex& index_of(const CollectionInfo& info, std::vector<std::string>& warnings) {
    auto at = opened.find(info.id);
    if (at == opened.end()) {
      std::string note;
      VectorIndex index = open_vector_index(store, info, &note);
      if (!note.empty()) warnings.push_back(note);
      at = opened.emplace(info.id, Opened{std::move(index), info.generation}).first;
    } else if (at->second.generation != info.generation) {
      refresh_vector_index(at->second.index, store, info.id);
      at->second.generation = info.generation;
    }
    return at->second.index;
  }

  /// Vectors of what is searched; with centres their tokens, too.
  void embed_questions(const std::vector<std::string>& texts, const TokenCenters& centers,
                       std::span<float> vectors, std::vector<TokenQuestion>& questions) {
    if (centers.empty()) {
      embedder->embed(texts, EmbedKind::kQuery, vectors);
      return;
    }
    std::vector<std::vector<std::string>> whole;
    whole.reserve(texts.size());
    for (const std::string& text : texts) whole.push_back({text});
    std::vector<std::optional<TokenQuestion>> found(texts.size());
    embedder->embed_parts(whole, EmbedKind::kQuery, vectors,
                          [&](size_t i, std::span<const float> rows, std::span<const int>) {
                            found[i].emplace(centers.of(texts[i]), rows);
                          });
    for (auto& question : found) questions.push_back(std::move(*question));
  }

  /// Chunks that a filtered search may return.
  std::unordered_set<int64_t> allowed_chunks(const CollectionInfo& info, const SearchQuery& query) {
    std::unordered_set<int64_t> allowed;
    for (const DocumentInfo& d : store.documents(info.id)) {
      if (d.vanished) continue;
      bool path = query.paths.empty();
      for (const std::string& glob : query.paths) path = path || path_glob(glob, d.path);
      bool date = (!query.after_ns || d.mtime_ns >= *query.after_ns) &&
                  (!query.before_ns || d.mtime_ns < *query.before_ns);
      if (!path || !date) continue;
      for (const StoredChunk& c : store.chunks_of(d.id)) allowed.insert(c.id);
    }
    auto holding = [&](const std::string& phrase) {
      std::unordered_set<int64_t> chunks;
      std::string match = phrase_match(phrase);
      if (match.empty()) {
        throw Error(ErrorKind::kUsage, fmt::format("'{}' holds no word to search for", phrase));
      }
      for (const KeywordHit& h : store.keyword_search(info.id, match, INT_MAX))
        chunks.insert(h.chunk);
      return chunks;
    };
    for (const std::string& phrase : query.required) {
      auto with = holding(phrase);
      std::erase_if(allowed, [&](int64_t c) { return !with.count(c); });
    }
    for (const std::string& phrase : query.excluded) {
      auto with = holding(phrase);
      std::erase_if(allowed, [&](int64_t c) { return with.count(c) > 0; });
    }
    return allowed;
  }
};

Retriever::Retriever(Store& store, TextEmbedder* embedder) : impl_(new Impl{store, embedder, {}}) {}
Retriever::~Retriever() = default;

Retrieval Retriever::retrieve(std::string_view typed, std::span<const std::string> names,
                              const RetrieveOptions& options) {
  Store& store = impl_->store;
  SearchQuery search;
  if (options.query_syntax) {
    search = parse_search_query(typed);
  } else {
    search.text = std::string(typed);
  }
  if (search.text.find_first_not_of(" \t\r\n") == std::string::npos) {
    throw Error(ErrorKind::kUsage, "the question is empty", "write what you want to know");
  }
  if (names.empty()) throw Error(ErrorKind::kUsage, "no collection to search", "name one with -k");
  bool dense = options.mode != SearchMode::kBm25;
  bool words = options.mode != SearchMode::kDense;
  if (dense && !impl_->embedder)
    throw Error(ErrorKind::kUsage, "dense search needs an embedder", "use --mode bm25");

  // All reads of a search see one generation, whatever is ingested or swapped in meanwhile.
  ReadSnapshot snapshot(store);
  std::vector<CollectionInfo> collections;
  for (const std::string& name : names) {
    CollectionInfo info = store.collection(name);
    bool twice = std::any_of(collections.begin(), collections.end(),
                             [&](auto& c) { return c.id == info.id; });
    if (twice) continue;
    if (dense && info.embedder.fingerprint != impl_->embedder->fingerprint()) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("collection '{}' was made with the embedder {}, not {}", info.name,
                              info.embedder.name, impl_->embedder->name()),
                  fmt::format("use --embedder {}, or ingest the documents into another collection",
                              info.embedder.name));
    }
    collections.push_back(std::move(info));
  }

  Retrieval result;
  result.query = search.text;
  std::vector<std::string> queries = {search.text};
  if (!options.previous_question.empty()) {
    result.joined_query = options.previous_question + "\n" + search.text;
    queries.push_back(result.joined_query);
  }
  const size_t asked = queries.size();
  for (const std::string& text : options.also) {
    if (text.find_first_not_of(" \t\r\n") != std::string::npos) queries.push_back(text);
  }
  size_t dimension = dense ? static_cast<size_t>(impl_->embedder->dimension()) : 0;
  std::vector<float> vectors(queries.size() * dimension);
  const bool anew = dense && words && options.reorder;
  const bool by_tokens = anew && impl_->embedder->token_width() > 0;
  std::vector<TokenQuestion> questions;  // (queries), or none
  TokenCenters centers;
  std::vector<float> around;  // (queries, dimension): less the centre of their language
  if (dense) {
    auto start = Clock::now();
    if (by_tokens) centers = stored_centers(store, *impl_->embedder);
    std::vector<std::string> fitted;
    fitted.reserve(queries.size());
    for (const std::string& q : queries) fitted.push_back(fit_to_embedder(*impl_->embedder, q));
    impl_->embed_questions(fitted, centers, vectors, questions);
    // Vectors of one language lie together, so a question finds its own language first and little
    // of the other. Without the language's part it finds both.
    if (!centers.empty() && centers.width() == dimension) {
      around = vectors;
      for (size_t q = 0; q < queries.size(); ++q) {
        std::span<const float> center = centers.of(fitted[q]);
        for (size_t d = 0; d < dimension; ++d) around[q * dimension + d] -= center[d];
      }
    }
    result.embed_ms = milliseconds_since(start);
  }

  auto start = Clock::now();
  std::unordered_map<int64_t, Candidate> candidates;
  auto candidate = [&](int64_t chunk, size_t collection) -> Candidate& {
    Candidate& c = candidates[chunk];
    c.collection = collection;
    c.by_query.resize(queries.size());
    return c;
  };
  result.best_dense = -1;
  const std::vector<std::string> names_asked =
      words ? exact_names(search.text) : std::vector<std::string>();
  std::set<std::string> names_held;
  for (size_t i = 0; i < collections.size(); ++i) {
    const CollectionInfo& info = collections[i];
    std::unordered_set<int64_t> allowed;
    std::function<bool(int64_t)> keep;
    if (search.filters()) {
      allowed = impl_->allowed_chunks(info, search);
      keep = [&allowed](int64_t chunk) { return allowed.count(chunk) > 0; };
    }
    const VectorIndex* index = dense ? &impl_->index_of(info, result.warnings) : nullptr;
    for (size_t q = 0; q < queries.size(); ++q) {
      std::span<const float> vector(vectors.data() + q * dimension, dimension);
      if (dense) {
        for (const VectorHit& h : index->search(vector, options.candidates, keep)) {
          candidate(h.chunk, i).by_query[q].dense = h.score;
          if (q < asked) result.best_dense = std::max<double>(result.best_dense, h.score);
        }
        if (!around.empty()) {
          std::span<const float> moved(around.data() + q * dimension, dimension);
          for (const VectorHit& h : index->search(moved, options.candidates, keep))
            candidate(h.chunk, i).by_query[q].around = h.score;
        }
      }
      std::string match = words ? any_word_match(queries[q]) : std::string();
      if (!match.empty()) {
        int taken = 0;
        for (const KeywordHit& h :
             store.keyword_search(info.id, match, keep ? INT_MAX : options.candidates)) {
          if (keep && !keep(h.chunk)) continue;
          candidate(h.chunk, i).by_query[q].bm25 = h.score;
          if (++taken == options.candidates) break;
        }
      }
    }
    for (const std::string& name : names_asked) {
      const auto holders = store.keyword_search(info.id, phrase_match(name), kMostHolders + 1);
      if (!holders.empty()) names_held.insert(name);
      if (holders.size() > kMostHolders) continue;
      for (const KeywordHit& h : holders) {
        if (!keep || keep(h.chunk)) ++candidate(h.chunk, i).named;
      }
    }
    // The dense side knows every chunk: the keyword side's finds get their cosines, too.
    if (dense) {
      std::vector<int64_t> ids;
      for (auto& [chunk, c] : candidates) {
        if (c.collection == i) ids.push_back(chunk);
      }
      for (size_t q = 0; q < queries.size(); ++q) {
        std::vector<float> scores = index->scores({vectors.data() + q * dimension, dimension}, ids);
        for (size_t j = 0; j < ids.size(); ++j) {
          if (!std::isnan(scores[j])) candidates[ids[j]].by_query[q].dense = scores[j];
        }
        if (around.empty()) continue;
        scores = index->scores({around.data() + q * dimension, dimension}, ids);
        for (size_t j = 0; j < ids.size(); ++j) {
          if (!std::isnan(scores[j])) candidates[ids[j]].by_query[q].around = scores[j];
        }
      }
    }
  }

  // Weighted min-max sum for each searched text, then their mean.
  for (size_t q = 0; q < queries.size(); ++q) {
    std::vector<double> cosines, moved;
    MinMax bm25_scale;
    for (auto& [chunk, c] : candidates) {
      if (c.by_query[q].dense) cosines.push_back(*c.by_query[q].dense);
      if (c.by_query[q].around) moved.push_back(*c.by_query[q].around);
      if (c.by_query[q].bm25) bm25_scale.see(*c.by_query[q].bm25);
    }
    // The dense scales span the side's own best; other sides' finds below them count 0.
    const MinMax dense_scale = scale_of_best(cosines, options.candidates),
                 around_scale = scale_of_best(moved, options.candidates);
    for (auto& [chunk, c] : candidates) {
      const Scores& s = c.by_query[q];
      double d = s.dense ? dense_scale(*s.dense) : 0;
      if (s.around) d = std::max(d, around_scale(*s.around));
      double b = s.bm25 ? bm25_scale(*s.bm25) : 0;
      double weight =
          options.dense_weight.value_or(collections[c.collection].calibration.dense_weight);
      if (!dense) weight = 0;
      if (!words) weight = 1;
      c.fused += (weight * d + (1 - weight) * b) / static_cast<double>(queries.size());
    }
  }
  for (const std::string& name : names_asked) {
    if (!names_held.count(name)) result.warnings.push_back("no document holds " + name);
  }
  bool named = false;
  for (auto& [chunk, c] : candidates) {
    named = named || c.named > 0;
    if (c.named > 0) c.fused += kNamed * c.named / static_cast<double>(names_asked.size());
  }
  Order order;
  order.reserve(candidates.size());
  for (const auto& [chunk, c] : candidates) order.emplace_back(chunk, &c);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    if (a.second->fused != b.second->fused) return a.second->fused > b.second->fused;
    return a.first < b.first;
  });

  HitMaker make(store);
  // Whether there is evidence at all is asked of the best by fused score: the line was drawn so.
  double over_line = -HUGE_VAL;
  if (dense) {
    std::map<std::pair<size_t, size_t>, IdfOverlap> overlaps;  // by collection and query
    int looked = 0;
    for (const auto& [id, c] : order) {
      if (looked == kRelevanceHits) break;
      const Hit* hit = make(id, collections[c->collection]);
      if (!hit) continue;
      ++looked;
      const CollectionInfo& from = collections[c->collection];
      for (size_t q = 0; q < asked; ++q) {
        if (!c->by_query[q].dense) continue;
        auto overlap = overlaps.find({c->collection, q});
        if (overlap == overlaps.end()) {
          overlap =
              overlaps.emplace(std::pair(c->collection, q), IdfOverlap(store, from.id, queries[q]))
                  .first;
        }
        double near =
            relevance(store, overlap->second, *c->by_query[q].dense, hit->heading_path, hit->text);
        const double line = from.calibration.line_for(queries[q]);
        if (near - line <= over_line) continue;
        over_line = near - line;
        result.relevance = near;
        result.abstain_line = line;
      }
    }
  }
  std::vector<std::optional<TokenMatch>> matches;
  if (anew) {
    matches = reorder(
        store, questions, centers.width(), dimension,
        [&](size_t collection, std::span<const int64_t> chunks) {
          return impl_->index_of(collections[collection], result.warnings).vectors(chunks);
        },
        order);
  }
  if (by_tokens && !order.empty() &&
      std::none_of(matches.begin(), matches.end(), [](auto& m) { return m.has_value(); })) {
    const std::string& name = collections[order[0].second->collection].name;
    result.warnings.push_back(fmt::format(
        "collection {} was made before tokens were kept: apud coll reindex {} finds more", name,
        name));
  }
  for (size_t place = 0; place < order.size(); ++place) {
    const auto& [id, c] = order[place];
    if (static_cast<int>(result.hits.size()) >= options.k) break;
    const Hit* made = make(id, collections[c->collection]);
    if (!made) continue;
    Hit& hit = result.hits.emplace_back(*made);
    hit.rank = static_cast<int>(result.hits.size());
    hit.score = c->fused / (named ? 1 + kNamed : 1);  // 0 to 1
    for (const Scores& s : c->by_query) {
      if (s.dense && (!hit.dense || *s.dense > *hit.dense)) hit.dense = s.dense;
      if (s.bm25 && (!hit.bm25 || *s.bm25 > *hit.bm25)) hit.bm25 = s.bm25;
    }
    if (place < matches.size() && matches[place]) {
      hit.match = matches[place]->all;
      hit.sentences = sentence_matches(*matches[place], hit.text, hit.begin);
    }
  }
  // Scores are given out anew in the final order, so that they fall.
  std::vector<double> falling;
  for (const Hit& hit : result.hits) falling.push_back(hit.score);
  std::sort(falling.begin(), falling.end(), std::greater<>());
  for (size_t i = 0; i < falling.size(); ++i) result.hits[i].score = falling[i];
  // What holds the exact name that is asked for is evidence, however far its vector lies.
  result.below_line = !named && over_line < 0 && over_line > -HUGE_VAL;
  if (result.best_dense < 0) result.best_dense = 0;
  result.search_ms = milliseconds_since(start);
  return result;
}

}  // namespace apud
