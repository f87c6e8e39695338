#include "rag/packer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/check.h"
#include "base/utf8.h"
#include "rag/chunker.h"
#include "rag/pack/select.h"
#include "rag/relevance.h"
#include "rag/text/names.h"

namespace apud {
namespace {

// Weights of a sentence's score. With the chunk's cosine those of rag.md section 5; what a sentence
// itself has, a cosine or a match of its tokens, says so much more that the other two count half
// and less (docs/performance.md, "Retrieval").
struct Weights {
  double near, overlap, rank;
};
constexpr Weights kByChunk = {0.5, 0.5, 0.5};
constexpr Weights kBySentence = {0.5, 0.25, 0.25};
constexpr Weights kByTokens = {0.7, 0.1, 0.2};
constexpr double kRankScale = 5;
// Added where stretch and question are both with or both without CJK. Of a text kept in two
// languages its reader wants the own one; where all is in the other, nothing has it. By stretch,
// since code and names are without CJK everywhere.
constexpr double kOwnScript = 0.06;

// A sentence beside one that scores this share of the best of all counts as much as that one:
// answers are stretches of text, and what explains a sentence often shares no word with the
// question. Beside weaker ones it would bring in what distracts.
constexpr double kLeads = 0.85;

// Added to a sentence for what it holds of the question's exact names that few stretches hold.
constexpr double kNamed = 1;

constexpr size_t kTextRegionSentences = 12;  // of text that has no chunks
constexpr size_t kEmbedCall = 32;

void scale_to_unit(std::vector<double>& values) {
  if (values.empty()) return;
  auto [low, high] = std::minmax_element(values.begin(), values.end());
  double from = *low, span = *high - *low;
  for (double& v : values) v = span > 0 ? (v - from) / span : 0;
}

bool contains_name(std::string_view question, std::string_view path) {
  std::string name = Path(path).filename().string(), stem = Path(path).stem().string();
  if (question.find(name) != std::string_view::npos) return true;
  return stem.size() >= 6 && stem.find('.') == std::string::npos &&
         (stem.find('-') != std::string::npos || stem.find('_') != std::string::npos) &&
         question.find(stem) != std::string_view::npos;
}

}  // namespace

struct Packer::Impl {
  Store& store;
  TextEmbedder* embedder;
  // Cosines of sentences with the last question: a turn is packed more than once, to fit its
  // window.
  std::string cached_question;
  std::unordered_map<std::string, double> cached;  // by text_key()

  /// Those that the search brought (Hit::sentences), scaled to 0..1; others count 0. Empty where it
  /// brought none.
  static std::vector<double> brought_matches(const PackInput& input) {
    std::vector<double> known;
    for (const PackSentence& s : input.sentences) {
      if (s.match) known.push_back(*s.match);
    }
    if (known.empty()) return {};
    scale_to_unit(known);
    std::vector<double> out(input.sentences.size(), 0);
    size_t next = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      if (input.sentences[i].match) out[i] = known[next++];
    }
    return out;
  }

  /// Cosine of each sentence with the question, scaled to 0..1, for the sentences of the highest
  /// score so far, up to `limit` tokens (the others count 0); empty where none is made. Sentences
  /// that no hit brought are scored by their words alone, so there it is all or none.
  std::vector<double> cosines(const PackInput& input, std::string_view question, int limit) {
    if (!embedder || limit <= 0 || input.sentences.empty()) return {};
    if (question != cached_question) {
      cached_question = question;
      cached.clear();
    }
    std::vector<size_t> order(input.sentences.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    auto rank = [&](size_t i) { return input.regions[input.sentences[i].region].rank; };
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return input.sentences[a].score > input.sentences[b].score;
    });
    const int most = embedder->max_tokens();
    std::vector<std::string> keys(order.size());  // by sentence; empty: beyond the limit
    std::vector<std::string> texts, text_keys;    // to embed
    int64_t tokens = 0;
    for (size_t i : order) {
      const PackSentence& s = input.sentences[i];
      std::string text =
          input.sources[input.regions[s.region].source].text().substr(s.begin, s.end - s.begin);
      std::string key = text_key(text);
      if (cached.count(key)) {  // also: the same sentence twice
        keys[i] = std::move(key);
        continue;
      }
      int count = embedder->count_tokens(text);
      tokens += count;
      if (tokens > limit) {
        if (rank(order[0]) == 0) return {};
        break;
      }
      while (count > most) {  // only over-long lines
        size_t cut = text.size() / 2;
        while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
        text.resize(cut);
        count = embedder->count_tokens(text);
      }
      cached[key] = 0;  // filled below
      keys[i] = key;
      texts.push_back(std::move(text));
      text_keys.push_back(std::move(key));
    }
    embed_cosines(question, most, texts, text_keys);
    std::vector<double> out(order.size(), 0), known;
    for (const std::string& key : keys) {
      if (!key.empty()) known.push_back(cached[key]);
    }
    scale_to_unit(known);
    size_t next = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
      if (!keys[i].empty()) out[i] = known[next++];
    }
    return out;
  }

  /// Puts the texts' cosines into the cache; sorted by length, so that batches waste little.
  void embed_cosines(std::string_view question, int most, const std::vector<std::string>& texts,
                     const std::vector<std::string>& keys) {
    if (texts.empty()) return;
    std::string asked(question);
    while (embedder->count_tokens(asked) > most) {
      size_t cut = asked.size() / 2;
      while (cut < asked.size() && (static_cast<unsigned char>(asked[cut]) & 0xC0) == 0x80) ++cut;
      asked.erase(0, cut);
    }
    size_t dimension = static_cast<size_t>(embedder->dimension());
    std::vector<float> query(dimension), rows(kEmbedCall * dimension);
    embedder->embed(std::span(&asked, 1), EmbedKind::kQuery, query);
    std::vector<size_t> order(texts.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return texts[a].size() < texts[b].size(); });
    for (size_t at = 0; at < order.size(); at += kEmbedCall) {
      size_t n = std::min(kEmbedCall, order.size() - at);
      std::vector<std::string> batch;
      for (size_t i = 0; i < n; ++i) batch.push_back(texts[order[at + i]]);
      embedder->embed(batch, EmbedKind::kPassage, std::span(rows).first(n * dimension));
      for (size_t i = 0; i < n; ++i) {
        double sum = 0;
        for (size_t d = 0; d < dimension; ++d) sum += double{query[d]} * rows[i * dimension + d];
        cached[keys[order[at + i]]] = sum;
      }
    }
  }

  /// Makes the whole document of a hit one region that is taken first, when it fits the budget.
  void take_document_whole(PackInput& input, const Hit& hit, const TokenCounter& counter,
                           int budget) {
    size_t source = 0;
    while (source < input.sources.size() && input.sources[source].document != hit.document)
      ++source;
    if (source == input.sources.size()) return;
    const std::string& text = input.sources[source].text();
    // Cheap bound first: no tokenizer puts more than 16 bytes into the average token.
    if (text.size() / 16 > static_cast<size_t>(budget)) return;
    Passage all;
    all.id = 1;
    all.path = hit.path;
    all.text = text;
    if (counter.count(render_evidence(std::span(&all, 1))) > budget) return;
    PackInput whole;
    whole.sources = std::move(input.sources);
    whole.named = input.named;
    std::vector<size_t> renamed(input.regions.size());
    bool placed = false;
    size_t region_of_whole = 0;
    for (size_t r = 0; r < input.regions.size(); ++r) {
      if (input.regions[r].source != source) {
        renamed[r] = whole.regions.size();
        whole.regions.push_back(input.regions[r]);
        continue;
      }
      if (!placed) {
        placed = true;
        region_of_whole = whole.regions.size();
        whole.regions.push_back({source, "", hit.rank, hit.score});
      }
      renamed[r] = region_of_whole;
    }
    bool inserted = false;
    for (PackSentence& s : input.sentences) {
      if (input.regions[s.region].source != source) {
        s.region = renamed[s.region];
        whole.sentences.push_back(std::move(s));
      } else if (!inserted) {
        inserted = true;
        for (auto [begin, end] : sentence_ranges(whole.sources[source].text(), 0)) {
          whole.sentences.push_back({region_of_whole, begin, end, s.score, {}, 0, {}});
        }
      }
    }
    if (inserted) whole.whole = {region_of_whole};
    input = std::move(whole);
  }

  void score(PackInput& input, std::string_view question, const IdfOverlap& overlap,
             const std::vector<double>& region_cosine, const PackOptions& options) {
    auto text_of = [&](const PackSentence& s) {
      return std::string_view(input.sources[input.regions[s.region].source].text())
          .substr(s.begin, s.end - s.begin);
    };
    std::vector<bool> cjk(input.regions.size(), false);
    for (const PackSentence& s : input.sentences)
      cjk[s.region] = cjk[s.region] || holds_cjk(text_of(s));
    const bool asked_in_cjk = holds_cjk(question);
    auto weighed = [&](const PackSentence& s, const Weights& w, double near) {
      int rank = input.regions[s.region].rank;
      return w.near * near + w.overlap * overlap(s.terms) +
             (rank > 0 ? w.rank / (1 + (rank - 1) / kRankScale) : 0) +
             (cjk[s.region] == asked_in_cjk ? kOwnScript : 0);
    };
    for (PackSentence& s : input.sentences) {
      s.terms = distinct_terms(store, text_of(s));
      s.score = weighed(s, kByChunk, region_cosine[s.region]);
    }
    std::vector<double> near = brought_matches(input);
    const Weights& weights = near.empty() ? kBySentence : kByTokens;
    if (near.empty()) near = cosines(input, question, options.sentence_vector_tokens);
    for (size_t i = 0; i < near.size(); ++i)
      input.sentences[i].score = weighed(input.sentences[i], weights, near[i]);
    raise_named(input, question);
    raise_beside(input.sentences);
  }

  static void raise_named(PackInput& input, std::string_view question) {
    const std::vector<std::string> names = exact_names(question);
    for (const std::string& name : names) {
      std::vector<size_t> holders;
      std::set<size_t> regions;
      for (size_t i = 0; i < input.sentences.size(); ++i) {
        const PackSentence& s = input.sentences[i];
        const std::string& text = input.sources[input.regions[s.region].source].text();
        if (!holds_name(std::string_view(text).substr(s.begin, s.end - s.begin), name)) continue;
        holders.push_back(i);
        regions.insert(s.region);
      }
      if (regions.size() > kMostHolders) continue;
      input.named = input.named || !holders.empty();
      for (size_t i : holders)
        input.sentences[i].score += kNamed / static_cast<double>(names.size());
    }
  }

  static void raise_beside(std::vector<PackSentence>& sentences) {
    double leads = 0;
    for (const PackSentence& s : sentences) leads = std::max(leads, kLeads * s.score);
    double before = 0;  // score of the sentence before as it was
    for (size_t i = 0; i < sentences.size(); ++i) {
      PackSentence& s = sentences[i];
      double best = s.score;
      if (i > 0 && sentences[i - 1].region == s.region) best = std::max(best, before);
      if (i + 1 < sentences.size() && sentences[i + 1].region == s.region)
        best = std::max(best, sentences[i + 1].score);
      before = s.score;
      if (best >= leads) s.score = best;
    }
  }
};

Packer::Packer(Store& store, TextEmbedder* embedder) : impl_(new Impl{store, embedder, {}, {}}) {}
Packer::~Packer() = default;

Packed Packer::pack(std::span<const Hit> hits, std::string_view question,
                    const TokenCounter& counter, const PackOptions& options) {
  Packed nothing;
  hits = hits.first(std::min<size_t>(hits.size(), options.max_hits));
  if (hits.empty() || options.budget <= 0) return nothing;
  Store& store = impl_->store;

  // Sources in document order, so that the same passages always stand in the same places.
  std::map<int64_t, std::vector<const Hit*>> by_document;
  for (const Hit& h : hits) by_document[h.document].push_back(&h);
  PackInput input;
  std::vector<double> region_cosine;
  for (auto& [document, found] : by_document) {
    PackSource source{document, found[0]->collection_name, found[0]->path, found[0]->title,
                      found[0]->source};
    APUD_CHECK(source.whole, "a hit brings its document");
    const std::string& text = source.text();
    std::sort(found.begin(), found.end(),
              [](const Hit* a, const Hit* b) { return a->begin < b->begin; });
    size_t covered = 0;  // end of the last sentence taken in, so that overlapping chunks share it
    size_t last_end = 0;
    for (const Hit* h : found) {
      if (h->end > text.size() || h->begin >= h->end) continue;
      bool same = !input.regions.empty() && input.regions.back().source == input.sources.size() &&
                  input.regions.back().heading_path == h->heading_path &&
                  (h->begin <= last_end || text.find_first_not_of(" \t\n", last_end) >= h->begin);
      if (!same) {
        input.regions.push_back({input.sources.size(), h->heading_path, h->rank, h->score});
        region_cosine.push_back(h->dense.value_or(0));
      } else {
        PackRegion& region = input.regions.back();
        if (h->rank < region.rank) region.rank = h->rank;
        region.hit_score = std::max(region.hit_score, h->score);
        region_cosine.back() = std::max<double>(region_cosine.back(), h->dense.value_or(0));
      }
      for (auto [begin, end] :
           sentence_ranges(std::string_view(text).substr(h->begin, h->end - h->begin), h->begin)) {
        if (begin < covered) continue;
        covered = end;
        // Captured by name: clang 14 takes no structured binding otherwise.
        auto shows = [document = document, begin = begin, end = end](const SentRange& r) {
          return r.document == document && begin >= r.begin && end <= r.end;
        };
        auto sent = std::find_if(options.sent.begin(), options.sent.end(), shows);
        int there = sent != options.sent.end() ? sent->passage : 0;
        PackSentence& sentence = input.sentences.emplace_back();
        sentence = {input.regions.size() - 1, begin, end, 0, {}, there, {}};
        auto found =
            std::find_if(h->sentences.begin(), h->sentences.end(),
                         [&](const SentenceMatch& m) { return m.begin == sentence.begin; });
        if (found != h->sentences.end()) sentence.match = found->match;
      }
      last_end = std::max(last_end, h->end);
    }
    input.sources.push_back(std::move(source));
  }
  scale_to_unit(region_cosine);

  IdfOverlap overlap(store, hits[0].collection, question);
  impl_->score(input, question, overlap, region_cosine, options);

  // A document that the question names, or that all of the best hits come from, goes in whole when
  // it fits: its sentences need each other.
  if (options.whole_document && options.sent.empty()) {
    const Hit& first = hits[0];
    size_t looked = std::min<size_t>(hits.size(), 5);
    bool alone = looked >= 3 && std::all_of(hits.begin(), hits.begin() + looked, [&](const Hit& h) {
                   return h.document == first.document;
                 });
    if (alone || contains_name(question, first.path))
      impl_->take_document_whole(input, first, counter, options.budget);
  }

  return select_sentences(input, counter, options);
}

Packed Packer::pack_text(std::string_view name, std::shared_ptr<const DocumentText> source,
                         std::string_view question, const TokenCounter& counter,
                         const PackOptions& options) {
  PackInput input;
  const std::string_view text = source->text;
  input.sources.push_back({0, "", std::string(name), "", std::move(source)});
  std::vector<std::pair<size_t, size_t>> ranges = sentence_ranges(text, 0);
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (i % kTextRegionSentences == 0) input.regions.push_back({0, "", 0, 0});
    input.sentences.push_back(
        {input.regions.size() - 1, ranges[i].first, ranges[i].second, 0, {}, 0, {}});
  }
  if (input.sentences.empty() || options.budget <= 0) return {};
  Passage all;
  all.id = options.first_id;
  all.path = name;
  all.text = text;
  bool fits = text.size() / 16 <= static_cast<size_t>(options.budget) &&
              counter.count(render_evidence(std::span(&all, 1))) <= options.budget;
  if (fits) {
    input.regions.resize(1);
    for (PackSentence& s : input.sentences) s.region = 0;
    input.whole = {0};
  }
  std::vector<std::string> terms = question_terms(impl_->store, question);
  std::vector<int64_t> frequencies(terms.size(), 0);
  for (const PackSentence& s : input.sentences) {
    std::vector<std::string> mine =
        distinct_terms(impl_->store, text.substr(s.begin, s.end - s.begin));
    for (size_t t = 0; t < terms.size(); ++t)
      frequencies[t] += std::binary_search(mine.begin(), mine.end(), terms[t]);
  }
  IdfOverlap overlap(terms, frequencies, static_cast<int64_t>(input.sentences.size()));
  impl_->score(input, question, overlap, std::vector<double>(input.regions.size(), 0), options);
  return select_sentences(input, counter, options);
}

}  // namespace apud
