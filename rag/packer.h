// Packing: the most useful sentences of the best chunks, to an exact token budget.
//
// Sentences are scored by how well their tokens, read in their chunk, hold the question's (else by
// the cosine of a vector of their own, or their chunk's), idf overlap and 1 / (1 + chunk rank / 5),
// neighbours are joined, document order is restored, near-duplicates dropped.
// Nothing is cut in silence: what was left out is in the result with its score.
//
// Threads: one at a time.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rag/embedder.h"
#include "rag/retriever.h"
#include "rag/store.h"

namespace apud {

/// Bytes [begin, end) of a document's normalised text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

/// A range of one document that was put before the model under a short id.
struct Passage {
  int id = 0;  // as the model sees it, [id]; 1-based, unique in a conversation
  int64_t document = 0;
  std::string collection;
  std::string path;  // or the name given to `-f` text
  std::string title;
  std::string heading_path;
  size_t begin = 0;  // range of the normalised text; sentences may be missing inside
  size_t end = 0;
  Anchor from;
  Anchor to;
  std::vector<TextRange> parts;  // of [begin, end), in order: what `text` shows
  std::string text;              // as shown to the model: the parts, joined by kGap
  std::string source_text;       // text[begin, end) of the document, for checking quotes
  double score = 0;              // of its best sentence
  int chunk_rank = 0;            // best rank among the hits it came from; 0: not from retrieval
};

struct LeftOut {
  std::string path;
  Anchor from;
  std::string heading_path;
  double score = 0;
  int tokens = 0;
  std::string reason;  // "budget", "duplicate of [3]", "far behind the best"
};

/// Stands in Passage::text where sentences were left out.
inline constexpr std::string_view kGap = " … ";

/// What the conversation's prompt shows already.
struct SentRange {
  int passage = 0;  // its id
  int64_t document = 0;
  size_t begin = 0;
  size_t end = 0;
};

struct PackOptions {
  /// Tokens that this question's evidence may have: of render_evidence(), and of chosen sentences
  /// that stand in the prompt already, which are paid for like new ones and not packed again. So a
  /// question that comes back to known passages brings little that is new.
  int budget = 2000;
  int first_id = 1;
  std::vector<SentRange> sent;  // the ledger's
  int max_hits = 50;            // chunks considered
  /// With an embedder: sentences of the best hits get vectors of their own, for at most this many
  /// tokens (they sharpen the choice and cost that much embedding per question); what lies beyond
  /// counts as far from the question. 0: the chunk's cosine stands in.
  int sentence_vector_tokens = 0;
  bool whole_document = true;  // one document asked for and small enough goes in whole
};

struct Packed {
  std::vector<Passage> passages;  // new ones, canonical order (document, offset)
  std::vector<int> referred;      // ids of earlier passages that bear on the question, best first
  std::vector<LeftOut> left_out;
  std::string evidence;  // render_evidence(passages)
  int tokens = 0;        // counter.count(evidence); <= budget
};

/// The markup in the prompt: one block per passage, "[id] file name · heading path" and the text.
std::string render_evidence(std::span<const Passage> passages);
/// The last part of the passage's path, which stands above it in the prompt.
std::string_view file_name(const Passage& passage);

/// Text in which nothing looks like a passage mark: [12] becomes (12).
std::string escape_marks(std::string_view text);

class Packer {
 public:
  /// `embedder` may be null: then sentences are scored without cosine. Borrows both.
  Packer(Store& store, TextEmbedder* embedder);
  ~Packer();
  Packer(const Packer&) = delete;
  Packer& operator=(const Packer&) = delete;

  Packed pack(std::span<const Hit> hits, std::string_view question, const TokenCounter& counter,
              const PackOptions& options = {});
  /// Evidence that is in no store (`-f`, stdin): whole when it fits, else its best sentences.
  Packed pack_text(std::string_view name, std::shared_ptr<const DocumentText> source,
                   std::string_view question, const TokenCounter& counter,
                   const PackOptions& options = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace apud
