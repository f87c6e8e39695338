#include "rag/retriever.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/ascii.h"
#include "base/check.h"
#include "base/error.h"
#include "base/stopwatch.h"
#include "rag/fusion.h"
#include "rag/hit_maker.h"
#include "rag/index.h"
#include "rag/relevance.h"
#include "rag/text/names.h"
#include "rag/text/query.h"
#include "rag/token_match.h"

namespace apud {
namespace {

using Clock = std::chrono::steady_clock;

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

/// The indexes that a retriever holds open, each at the generation of the last search.
class OpenIndexes {
 public:
  explicit OpenIndexes(Store& store) : store_(store) {}

  /// The collection's index at its present generation.
  const VectorIndex& at(const CollectionInfo& info, std::vector<std::string>& warnings) {
    auto at = opened_.find(info.id);
    if (at == opened_.end()) {
      std::string note;
      VectorIndex index = open_vector_index(store_, info, &note);
      if (!note.empty()) warnings.push_back(note);
      at = opened_.emplace(info.id, Opened{std::move(index), info.generation}).first;
    } else if (at->second.generation != info.generation) {
      refresh_vector_index(at->second.index, store_, info.id);
      at->second.generation = info.generation;
    }
    return at->second.index;
  }

 private:
  struct Opened {
    VectorIndex index;
    int64_t generation;
  };

  Store& store_;
  std::map<int64_t, Opened> opened_;  // by collection
};

/// One search. Its steps are called in the order in which they stand here.
class Search {
 public:
  Search(Store& store, TextEmbedder* embedder, OpenIndexes& indexes, const RetrieveOptions& options)
      : store_(store),
        embedder_(embedder),
        indexes_(indexes),
        options_(options),
        dense_(options.mode != SearchMode::kBm25),
        words_(options.mode != SearchMode::kDense),
        anew_(dense_ && words_ && options.reorder),
        make_(store) {}

  /// What is asked, and of whom; throws as retrieve() says.
  void open(std::string_view typed, std::span<const std::string> names) {
    if (options_.query_syntax) {
      search_ = parse_search_query(typed);
    } else {
      search_.text = std::string(typed);
    }
    if (is_blank(search_.text))
      throw Error(ErrorKind::kUsage, "the question is empty", "write what you want to know");
    if (names.empty())
      throw Error(ErrorKind::kUsage, "no collection to search", "name one with -k");
    if (dense_ && !embedder_)
      throw Error(ErrorKind::kUsage, "dense search needs an embedder", "use --mode bm25");
    for (const std::string& name : names) open_collection(name);

    result_.query = search_.text;
    queries_ = {search_.text};
    if (!options_.previous_question.empty()) {
      result_.joined_query = options_.previous_question + "\n" + search_.text;
      queries_.push_back(result_.joined_query);
    }
    asked_ = queries_.size();
    for (const std::string& text : options_.also) {
      if (!is_blank(text)) queries_.push_back(text);
    }
    if (words_) names_asked_ = exact_names(search_.text);
  }

  void embed() {
    if (!dense_) return;
    const auto start = Clock::now();
    dimension_ = static_cast<size_t>(embedder_->dimension());
    vectors_.resize(queries_.size() * dimension_);
    if (by_tokens()) centers_ = stored_centers(store_, *embedder_);
    std::vector<std::string> fitted;
    fitted.reserve(queries_.size());
    for (const std::string& q : queries_) fitted.push_back(fit_to_embedder(*embedder_, q));
    embed_questions(fitted);
    // Vectors of one language lie together, so a question finds its own language first and little
    // of the other. Without the language's part it finds both.
    if (!centers_.empty() && centers_.width() == dimension_) {
      around_ = vectors_;
      for (size_t q = 0; q < queries_.size(); ++q) {
        std::span<const float> center = centers_.of(fitted[q]);
        for (size_t d = 0; d < dimension_; ++d) around_[q * dimension_ + d] -= center[d];
      }
    }
    result_.embed_ms = milliseconds_since(start);
  }

  /// What each side finds in each collection.
  void collect() {
    result_.best_dense = -1;
    for (size_t i = 0; i < collections_.size(); ++i) {
      std::unordered_set<int64_t> allowed;
      Keep keep;
      if (search_.filters()) {
        allowed = allowed_chunks(collections_[i]);
        keep = [&allowed](int64_t chunk) { return allowed.count(chunk) > 0; };
      }
      if (dense_) collect_dense(i, keep);
      if (words_) collect_words(i, keep);
      collect_named(i, keep);
      if (dense_) complete_cosines(i);
    }
    result_.best_dense = std::max(result_.best_dense, 0.0);
    for (const std::string& name : names_asked_) {
      if (!names_held_.count(name)) result_.warnings.push_back("no document holds " + name);
    }
  }

  void rank_by_fused_score() {
    std::vector<double> dense_weights;
    for (const CollectionInfo& info : collections_) {
      const double fitted = options_.dense_weight.value_or(info.calibration.dense_weight);
      dense_weights.push_back(!words_ ? 1 : !dense_ ? 0 : fitted);
    }
    fuse(candidates_, queries_.size(), options_.candidates, dense_weights, names_asked_.size());
    order_ = by_fused_score(candidates_);
  }

  /// Whether there is evidence at all is asked of the best by fused score: the line was drawn so.
  void look_for_evidence() {
    if (!dense_) return;
    std::map<std::pair<size_t, size_t>, IdfOverlap> overlaps;  // by collection and query
    double over_line = -HUGE_VAL;
    size_t looked = 0;
    for (const auto& [id, c] : order_) {
      if (looked == kRelevanceHits) break;
      const CollectionInfo& from = collections_[c->collection];
      const Hit* hit = make_(id, from);
      if (!hit) continue;
      ++looked;
      for (size_t q = 0; q < asked_; ++q) {
        if (!c->by_query[q].dense) continue;
        const std::pair key(c->collection, q);
        auto overlap = overlaps.find(key);
        if (overlap == overlaps.end())
          overlap = overlaps.emplace(key, IdfOverlap(store_, from.id, queries_[q])).first;
        const double near =
            relevance(store_, overlap->second, *c->by_query[q].dense, hit->heading_path, hit->text);
        const double line = from.calibration.line_for(queries_[q]);
        if (near - line <= over_line) continue;
        over_line = near - line;
        result_.relevance = near;
        result_.abstain_line = line;
      }
    }
    // What holds the exact name that is asked for is evidence, however far its vector lies.
    result_.below_line = !any_named() && over_line < 0 && over_line > -HUGE_VAL;
  }

  /// The best ones in their final order.
  void rank_anew() {
    if (!anew_) return;
    matches_ = reorder(
        store_, questions_, centers_.width(), dimension_,
        [&](size_t collection, std::span<const int64_t> chunks) {
          return indexes_.at(collections_[collection], result_.warnings).vectors(chunks);
        },
        order_);
    if (by_tokens() && !order_.empty() &&
        std::none_of(matches_.begin(), matches_.end(), [](auto& m) { return m.has_value(); })) {
      const std::string& name = collections_[order_[0].second->collection].name;
      result_.warnings.push_back(fmt::format(
          "collection {} was made before tokens were kept: apud coll reindex {} finds more", name,
          name));
    }
  }

  Retrieval take() {
    const double most = any_named() ? 1 + kNamed : 1;
    std::vector<double> falling;
    for (size_t place = 0; place < order_.size(); ++place) {
      const auto& [id, c] = order_[place];
      if (static_cast<int>(result_.hits.size()) >= options_.k) break;
      const Hit* made = make_(id, collections_[c->collection]);
      if (!made) continue;
      Hit& hit = result_.hits.emplace_back(*made);
      hit.rank = static_cast<int>(result_.hits.size());
      falling.push_back(c->fused / most);
      for (const SideScores& s : c->by_query) {
        if (s.dense && (!hit.dense || *s.dense > *hit.dense)) hit.dense = s.dense;
        if (s.bm25 && (!hit.bm25 || *s.bm25 > *hit.bm25)) hit.bm25 = s.bm25;
      }
      if (place < matches_.size() && matches_[place]) {
        hit.match = matches_[place]->all;
        hit.sentences = sentence_matches(*matches_[place], hit.text, hit.begin);
      }
    }
    // Scores are given out in the final order, so that they fall.
    std::sort(falling.begin(), falling.end(), std::greater<>());
    for (size_t i = 0; i < falling.size(); ++i) result_.hits[i].score = falling[i];
    return std::move(result_);
  }

 private:
  using Keep = std::function<bool(int64_t)>;  // none: every chunk

  bool by_tokens() const { return anew_ && embedder_->token_width() > 0; }
  bool any_named() const {
    return std::any_of(candidates_.begin(), candidates_.end(),
                       [](const auto& c) { return c.second.named > 0; });
  }

  void open_collection(const std::string& name) {
    CollectionInfo info = store_.collection(name);
    const bool twice = std::any_of(collections_.begin(), collections_.end(),
                                   [&](auto& c) { return c.id == info.id; });
    if (twice) return;
    if (dense_ && info.embedder.fingerprint != embedder_->fingerprint()) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("collection '{}' was made with the embedder {}, not {}", info.name,
                              info.embedder.name, embedder_->name()),
                  fmt::format("use --embedder {}, or ingest the documents into another collection",
                              info.embedder.name));
    }
    collections_.push_back(std::move(info));
  }

  /// Vectors of what is searched; with centres their tokens, too.
  void embed_questions(const std::vector<std::string>& texts) {
    if (centers_.empty()) {
      embedder_->embed(texts, EmbedKind::kQuery, vectors_);
      return;
    }
    std::vector<std::vector<std::string>> whole;
    whole.reserve(texts.size());
    for (const std::string& text : texts) whole.push_back({text});
    std::vector<std::optional<TokenQuestion>> found(texts.size());
    embedder_->embed_parts(whole, EmbedKind::kQuery, vectors_,
                           [&](size_t i, std::span<const float> rows, std::span<const int>) {
                             found[i].emplace(centers_.of(texts[i]), rows);
                           });
    for (auto& question : found) questions_.push_back(std::move(*question));
  }

  /// Chunks that a filtered search may return.
  std::unordered_set<int64_t> allowed_chunks(const CollectionInfo& info) {
    std::unordered_set<int64_t> allowed;
    for (const DocumentInfo& d : store_.documents(info.id)) {
      if (d.vanished) continue;
      bool path = search_.paths.empty();
      for (const std::string& glob : search_.paths) path = path || path_glob(glob, d.path);
      bool date = (!search_.after_ns || d.mtime_ns >= *search_.after_ns) &&
                  (!search_.before_ns || d.mtime_ns < *search_.before_ns);
      if (!path || !date) continue;
      for (const StoredChunk& c : store_.chunks_of(d.id)) allowed.insert(c.id);
    }
    auto holding = [&](const std::string& phrase) {
      std::unordered_set<int64_t> chunks;
      std::string match = phrase_match(phrase);
      if (match.empty()) {
        throw Error(ErrorKind::kUsage, fmt::format("'{}' holds no word to search for", phrase));
      }
      for (const KeywordHit& h : store_.keyword_search(info.id, match, INT_MAX))
        chunks.insert(h.chunk);
      return chunks;
    };
    for (const std::string& phrase : search_.required) {
      auto with = holding(phrase);
      std::erase_if(allowed, [&](int64_t c) { return !with.count(c); });
    }
    for (const std::string& phrase : search_.excluded) {
      auto with = holding(phrase);
      std::erase_if(allowed, [&](int64_t c) { return with.count(c) > 0; });
    }
    return allowed;
  }

  Candidate& candidate(int64_t chunk, size_t collection) {
    Candidate& c = candidates_[chunk];
    c.collection = collection;
    c.by_query.resize(queries_.size());
    return c;
  }

  std::span<const float> row(const std::vector<float>& rows, size_t q) const {
    return {rows.data() + q * dimension_, dimension_};
  }

  void collect_dense(size_t i, const Keep& keep) {
    const VectorIndex& index = indexes_.at(collections_[i], result_.warnings);
    for (size_t q = 0; q < queries_.size(); ++q) {
      for (const VectorHit& h : index.search(row(vectors_, q), options_.candidates, keep)) {
        candidate(h.chunk, i).by_query[q].dense = h.score;
        if (q < asked_) result_.best_dense = std::max<double>(result_.best_dense, h.score);
      }
      if (around_.empty()) continue;
      for (const VectorHit& h : index.search(row(around_, q), options_.candidates, keep))
        candidate(h.chunk, i).by_query[q].around = h.score;
    }
  }

  void collect_words(size_t i, const Keep& keep) {
    const int most = keep ? INT_MAX : options_.candidates;
    for (size_t q = 0; q < queries_.size(); ++q) {
      const std::string match = any_word_match(queries_[q]);
      if (match.empty()) continue;
      int taken = 0;
      for (const KeywordHit& h : store_.keyword_search(collections_[i].id, match, most)) {
        if (keep && !keep(h.chunk)) continue;
        candidate(h.chunk, i).by_query[q].bm25 = h.score;
        if (++taken == options_.candidates) break;
      }
    }
  }

  void collect_named(size_t i, const Keep& keep) {
    for (const std::string& name : names_asked_) {
      const auto holders =
          store_.keyword_search(collections_[i].id, phrase_match(name), kMostHolders + 1);
      if (!holders.empty()) names_held_.insert(name);
      if (holders.size() > kMostHolders) continue;
      for (const KeywordHit& h : holders) {
        if (!keep || keep(h.chunk)) ++candidate(h.chunk, i).named;
      }
    }
  }

  /// The dense side knows every chunk: the other sides' finds get their cosines, too.
  void complete_cosines(size_t i) {
    const VectorIndex& index = indexes_.at(collections_[i], result_.warnings);
    std::vector<int64_t> ids;
    for (auto& [chunk, c] : candidates_) {
      if (c.collection == i) ids.push_back(chunk);
    }
    auto complete = [&](const std::vector<float>& rows, auto member) {
      if (rows.empty()) return;
      for (size_t q = 0; q < queries_.size(); ++q) {
        const std::vector<float> scores = index.scores(row(rows, q), ids);
        for (size_t j = 0; j < ids.size(); ++j) {
          if (!std::isnan(scores[j])) candidates_[ids[j]].by_query[q].*member = scores[j];
        }
      }
    };
    complete(vectors_, &SideScores::dense);
    complete(around_, &SideScores::around);
  }

  Store& store_;
  TextEmbedder* embedder_;
  OpenIndexes& indexes_;
  const RetrieveOptions& options_;
  const bool dense_;
  const bool words_;
  const bool anew_;
  SearchQuery search_;
  std::vector<CollectionInfo> collections_;
  std::vector<std::string> queries_;  // the question; with the one before it; others
  size_t asked_ = 0;                  // of them those that the user wrote
  std::vector<std::string> names_asked_;
  std::set<std::string> names_held_;
  size_t dimension_ = 0;
  std::vector<float> vectors_;  // (queries, dimension)
  std::vector<float> around_;   // the same less the centre of their language, or none
  TokenCenters centers_;
  std::vector<TokenQuestion> questions_;  // (queries), or none
  Candidates candidates_;
  Order order_;
  std::vector<std::optional<TokenMatch>> matches_;  // of the first of order_
  HitMaker make_;
  Retrieval result_;
};

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
  OpenIndexes indexes;
};

Retriever::Retriever(Store& store, TextEmbedder* embedder)
    : impl_(new Impl{store, embedder, OpenIndexes(store)}) {}
Retriever::~Retriever() = default;

Retrieval Retriever::retrieve(std::string_view typed, std::span<const std::string> names,
                              const RetrieveOptions& options) {
  // All reads of a search see one generation, whatever is ingested or swapped in meanwhile.
  ReadSnapshot snapshot(impl_->store);
  Search search(impl_->store, impl_->embedder, impl_->indexes, options);
  search.open(typed, names);
  search.embed();
  const auto start = Clock::now();
  search.collect();
  search.rank_by_fused_score();
  search.look_for_evidence();
  search.rank_anew();
  Retrieval result = search.take();
  result.search_ms = milliseconds_since(start);
  return result;
}

}  // namespace apud
