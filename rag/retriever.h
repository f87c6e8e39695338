// Retrieval: dense and keyword search over collections, fused by a weighted min-max sum
// (Bruch et al., TOIS 2023: a convex combination beats reciprocal ranks), with every score kept.
//
// Ownership: a Retriever borrows store and embedder and holds the vector indexes it opened.
// Threads: one at a time. It notices new generations of the store at each retrieve().
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rag/embedder.h"
#include "rag/store.h"

namespace apud {

enum class SearchMode { kHybrid, kDense, kBm25 };
/// "hybrid", "dense", "bm25"; throws kUsage naming the value otherwise.
SearchMode parse_search_mode(std::string_view name);
const char* search_mode_name(SearchMode mode);

/// Hits taken from each side before they are fused. The scale of each side ends at the last of
/// them, so their number says how much of a lead the best one has; 300 to 600 do equally well, 100
/// worse (docs/performance.md, "Retrieval").
inline constexpr int kSideCandidates = 400;

struct RetrieveOptions {
  SearchMode mode = SearchMode::kHybrid;
  int k = 10;  // hits to return
  int candidates = kSideCandidates;
  std::string previous_question;  // user turn before this one: follow-ups; empty: none
  /// Texts searched beside the question and fused with it as equals, such as an answer that a model
  /// imagines (HyDE, Gao et al. 2022). The abstain line looks at the question alone: what a model
  /// makes up always lies near something.
  std::vector<std::string> also;
  /// Hybrid search: the best candidates are ordered anew, by how well their tokens hold the
  /// question's (rag/token_match.h), where the embedder has tokens, and by how near they are to the
  /// best of them (rag/feedback.h).
  bool reorder = true;
  bool query_syntax = false;  // `search`: "phrases", -exclusions, path:GLOB, after:/before:DATE
  std::optional<double> dense_weight;  // instead of the collection's
};

/// Bytes [begin, end) of a document's text and how well their tokens, read in the chunk, hold the
/// question's.
struct SentenceMatch {
  size_t begin = 0;
  size_t end = 0;
  float match = 0;
};

struct Hit {
  int64_t chunk = 0;
  int64_t document = 0;
  int64_t collection = 0;
  std::string collection_name;
  std::string path;
  std::string title;
  std::string heading;
  std::string heading_path;
  std::string text;  // the chunk's
  /// The whole document as the search saw it, so that packing has the same whatever is ingested
  /// meanwhile. Shared by the hits of a document.
  std::shared_ptr<const DocumentText> source;
  size_t begin = 0;  // of the chunk in the document's normalised text
  size_t end = 0;
  Anchor from;       // line, page, member of begin
  Anchor to;         // of the last character
  int tokens = 0;    // of the embedder
  int rank = 0;      // 1-based
  double score = 0;  // 0..1 for hybrid: fused; given out anew in the final order, so that it falls
  std::optional<float> dense;  // cosine, where the dense side knows it
  std::optional<double> bm25;
  std::optional<float> match;            // of its tokens with the question's, where it has codes
  std::vector<SentenceMatch> sentences;  // where `match` is
  std::optional<float> odds;             // log p(yes) - log p(no) of the reranker, where it judged
};

struct Retrieval {
  std::vector<Hit> hits;
  std::string query;         // as searched
  std::string joined_query;  // with the previous turn; empty: none
  double best_dense = 0;     // top cosine over all collections
  double relevance = 0;      // of the best hits (rag/relevance.h): the one highest over its line
  double abstain_line = 0;   // of that hit's collection
  bool below_line = false;   // no hit reaches its collection's line: no evidence by calibration
  double embed_ms = 0;
  double search_ms = 0;
  std::vector<std::string> warnings;  // index rebuilt, …
};

class Retriever {
 public:
  /// `embedder` may be null: then only kBm25 works and others throw kUsage.
  Retriever(Store& store, TextEmbedder* embedder);
  ~Retriever();
  Retriever(const Retriever&) = delete;
  Retriever& operator=(const Retriever&) = delete;

  /// Searches the named collections. Throws kNoInput for unknown names, kUsage for an empty query,
  /// bad query syntax, or a collection of another embedder (with advice).
  Retrieval retrieve(std::string_view query, std::span<const std::string> collections,
                     const RetrieveOptions& options = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace apud
