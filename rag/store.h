// The document store: one SQLite file that is the only truth about what was ingested. Keyword and
// vector indexes are made from it and may be thrown away at any time (docs/formats.md).
//
// Holds collections; documents (their normalised text once, compressed); chunks as ranges of that
// text; fp16 vectors by embedder and text; a keyword table per collection; answers with traces.
//
// Ownership: a Store owns one database connection. Threads: one Store belongs to one thread at a
// time; several Stores (also in several processes) may be open on one file. Readers see a snapshot
// per call and never block writers; all writing needs a WriteLock, of which one exists per file.
// Errors: apud::Error; kBusy when the lock or the database is held elsewhere, kBadData when the
// file is damaged, foreign or of a newer apud, kIo for the disk, kNoInput for unknown names.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/file.h"
#include "base/utf8.h"
#include "rag/document.h"

namespace apud {

struct EmbedderIdentity {
  std::string fingerprint;
  std::string name;
  int dimension = 0;
};

/// What ingest measured about a collection with its own headings and foreign questions.
struct Calibration {
  double dense_weight = 0.7;  // share of the dense score in the fused one
  /// Relevance (rag/relevance.h) below which it has no evidence: for questions without CJK and for
  /// those with it. Embedders score a question in the documents' language higher than the same one
  /// in another, so one line for both would refuse most good questions of the other language.
  double abstain_line = 0.0;
  double abstain_line_cjk = 0.0;
  int queries = 0;     // questions it rests on; 0: not calibrated, line not in force
  int64_t chunks = 0;  // of the collection when it was measured

  /// The line for this question; 0 where none is in force.
  double line_for(std::string_view question) const {
    if (queries == 0) return 0;
    return holds_cjk(question) ? abstain_line_cjk : abstain_line;
  }
};

struct CollectionInfo {
  int64_t id = 0;
  std::string uuid;  // 32 hex digits, for ever
  std::string name;
  EmbedderIdentity embedder;
  std::string chunker;  // settings of the chunker, one line, compared as text
  Calibration calibration;
  std::vector<std::string> roots;  // folders and files given to ingest, absolute
  int64_t generation = 0;          // rises with every change of retrievable content
  int64_t created = 0;             // unix seconds
  int64_t changed = 0;
  int64_t documents = 0;  // retrievable ones that have text
  int64_t vanished = 0;   // kept, not retrievable
  int64_t chunks = 0;
  int64_t tokens = 0;      // of the embedder
  int64_t text_bytes = 0;  // normalised text
};

struct DocumentInfo {
  int64_t id = 0;
  int64_t collection = 0;
  std::string path;  // absolute
  std::string title;
  std::string loader;  // "markdown/1"
  LoadStatus status = LoadStatus::kOk;
  std::string reason;
  std::string content_hash;  // SHA-256 of the file's bytes, hex
  int64_t size = 0;          // of the file, bytes
  int64_t mtime_ns = 0;
  int64_t indexed = 0;       // unix seconds
  bool vanished = false;     // file gone; not retrieved; removed by --prune
  int64_t duplicate_of = 0;  // document of equal content that is indexed instead; 0: none
  int64_t chunks = 0;
  int64_t tokens = 0;
  int64_t text_bytes = 0;
};

/// A range of a document's text with its place in the structure.
struct StoredChunk {
  int64_t id = 0;
  int64_t document = 0;
  int ordinal = 0;   // 0-based in the document
  size_t begin = 0;  // in the normalised text
  size_t end = 0;
  std::string heading;       // nearest heading, may be empty
  std::string heading_path;  // "Book > Chapter > Section"
  int tokens = 0;
};

/// A document's text with the means to cite it.
struct DocumentText {
  std::string text;
  std::vector<Anchor> anchors;
  Anchor anchor_at(size_t offset) const;
};

/// What writing a document needs. Vectors are looked up by the text that was embedded.
struct NewChunk {
  size_t begin = 0;
  size_t end = 0;
  std::string heading;
  std::string heading_path;
  int tokens = 0;
  std::string embedded_hash;  // 16 bytes, text_key() of the text that the embedder saw
};

struct KeywordHit {
  int64_t chunk = 0;
  double score = 0;  // BM25, higher is better
};

/// An answer kept for `apud explain` and for naming the sessions that quote a document.
struct AnswerRecord {
  std::string id;  // 12 characters, given by save_answer when empty
  int64_t created = 0;
  std::string session;  // name, or empty
  std::string question;
  std::string answer;
  std::string trace;               // JSON of the app: candidates, budget, prompt, receipt
  std::vector<int64_t> documents;  // quoted ones
};

/// Opaque 16 bytes that identify a text within one embedder.
std::string text_key(std::string_view text);

/// fp16 rows of a collection, for the vector index.
struct VectorRow {
  int64_t chunk = 0;
  std::span<const uint16_t> vector;  // (dimension), IEEE half, unit length
};

class WriteLock;
class ReadSnapshot;

class Store {
 public:
  enum class Mode { kReadWrite, kReadOnly };

  /// data_dir()/apud.db.
  static Path default_path();
  /// True when a store file is there (nothing is opened).
  static bool exists(const Path& path = default_path());
  /// Opens, and with kReadWrite creates and migrates. kReadOnly works on read-only media; then
  /// read_only_media() is true. REQUIRES for kReadOnly: the file exists, else kNoInput.
  explicit Store(const Path& path = default_path(), Mode mode = Mode::kReadWrite);
  ~Store();
  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;

  const Path& path() const;
  bool read_only_media() const;
  /// Full check of the file; lines of findings, empty when sound.
  std::vector<std::string> check();

  // --- collections
  std::vector<CollectionInfo> collections();
  std::optional<CollectionInfo> find_collection(std::string_view name);
  /// As find_collection; throws kNoInput naming the nearest names.
  CollectionInfo collection(std::string_view name);
  /// Throws kUsage for a bad or taken name. Names: 1-64 of letters, digits, - _ . of any script.
  CollectionInfo create_collection(WriteLock&, std::string_view name, const EmbedderIdentity&,
                                   std::string_view chunker);
  void rename_collection(WriteLock&, std::string_view from, std::string_view to);
  /// Removes text, vectors, keywords, index files, and its shadow. Returns names of sessions that
  /// quoted it.
  std::vector<std::string> remove_collection(WriteLock&, std::string_view name);
  // A shadow is a collection of its own beside a live one, under a name that no user can give
  // ("NAME/shadow"), in which its documents are cut and embedded anew. It goes with its
  // collection, and a document removed from that is removed from it.
  static std::string shadow_name(std::string_view live);
  CollectionInfo create_shadow(WriteLock&, std::string_view live, const EmbedderIdentity&,
                               std::string_view chunker);
  /// One transaction: chunks, keywords, texts, embedder and calibration of the shadow become the
  /// live collection's, whose documents keep their ids; the old ones and the shadow are gone.
  /// Vanished documents lose their text and are read anew when they come back. Throws kBusy when
  /// the live collection is no longer at `generation`. REQUIRES: every document of the shadow has
  /// one of the same path in the live collection.
  void adopt_shadow(WriteLock&, std::string_view live, int64_t generation);
  void set_calibration(WriteLock&, int64_t collection, const Calibration&);
  void add_root(WriteLock&, int64_t collection, std::string_view root);

  // --- documents
  /// Retrievable ones first, by path.
  std::vector<DocumentInfo> documents(int64_t collection);
  std::optional<DocumentInfo> find_document(int64_t collection, std::string_view path);
  std::optional<DocumentInfo> document(int64_t id);
  std::vector<StoredChunk> chunks_of(int64_t document);
  /// Text of a document. Throws kNoInput when it was removed meanwhile.
  DocumentText text(int64_t document);
  std::optional<DocumentText> text_if_there(int64_t document);
  std::vector<StoredChunk> chunks(std::span<const int64_t> ids);
  /// text_key() of every text that has a vector of this embedder, `with_codes`: and token codes.
  std::vector<std::string> vector_keys(std::string_view embedder, bool with_codes);
  /// One transaction: replaces the document of that path (or inserts it), its chunks, keywords and
  /// the vectors given in `new_vectors` (fp32 (n, dimension), for `new_keys`), with the texts'
  /// token codes (TokenCodes::pack()) where the embedder has any. Returns its id. The document is
  /// durable when this returns.
  int64_t put_document(WriteLock&, const DocumentInfo& info, const Document& document,
                       std::span<const NewChunk> chunks, std::span<const std::string> new_keys,
                       std::span<const float> new_vectors,
                       std::span<const std::string> new_codes = {});
  /// New path and mtime for a document whose file moved; chunks and vectors stay.
  void move_document(WriteLock&, int64_t document, std::string_view path, int64_t mtime_ns);
  /// Fast-path fields of a file that was touched but not changed.
  void touch_document(WriteLock&, int64_t document, int64_t mtime_ns, int64_t size);
  void set_vanished(WriteLock&, std::span<const int64_t> documents, bool vanished);
  /// Pinned documents stand whole at the beginning of every conversation with their collection. A
  /// pin stays with its document when that is replaced or moved, and goes with it.
  void set_pinned(WriteLock&, std::span<const int64_t> documents, bool pinned);
  /// Pinned documents of a collection that are retrievable, ascending.
  std::vector<int64_t> pinned(int64_t collection);
  /// Not retrievable when it returns. Names of sessions that quoted them.
  std::vector<std::string> remove_documents(WriteLock&, std::span<const int64_t> documents);
  /// Removes what replaced and removed documents left behind: vectors (put_document keeps them for
  /// reuse) and words in merged keyword tables. Takes time proportional to the tables touched.
  void drop_leftovers(WriteLock&);
  /// drop_leftovers(), and no byte of removed text is left in the store's files (free pages zeroed,
  /// WAL cut). Throws kBusy while a reader keeps old pages alive.
  void purge(WriteLock&);

  // --- reading for retrieval
  int64_t generation(int64_t collection);
  /// Retrievable chunks.
  int64_t chunk_count(int64_t collection);
  /// All retrievable rows in chunk order. `row` gets views valid during the call.
  void for_each_vector(int64_t collection, const std::function<void(const VectorRow&)>& row);
  /// Ids of all retrievable chunks, ascending.
  std::vector<int64_t> retrievable_chunks(int64_t collection);
  /// fp16 vectors of chunks; empty where the chunk is gone.
  std::vector<std::vector<uint16_t>> vectors(std::span<const int64_t> chunks);
  /// Packed token codes of chunks; empty where there are none.
  std::vector<std::string> token_codes(std::span<const int64_t> chunks);
  /// What an embedder's token codes are signs around (TokenCenters::values()); empty: none yet.
  std::vector<float> token_centers(std::string_view embedder);
  /// REQUIRES: a collection of that embedder.
  void set_token_centers(WriteLock&, std::string_view embedder, std::span<const float> centers);
  /// Best `limit` by BM25 over heading, body, path. `match` is FTS5 syntax (rag/query.h makes it).
  std::vector<KeywordHit> keyword_search(int64_t collection, std::string_view match, int limit);
  /// Number of chunks holding each term (as tokenised for the index); for idf.
  std::vector<int64_t> document_frequencies(int64_t collection, std::span<const std::string> terms);
  /// Terms of a text exactly as the keyword index holds them (folded, split, stemmed).
  std::vector<std::string> index_terms(std::string_view text);

  // --- answers
  std::string save_answer(WriteLock&, AnswerRecord record);
  std::optional<AnswerRecord> answer(std::string_view id);
  std::vector<AnswerRecord> answers(int limit);
  void remove_session_answers(WriteLock&, std::string_view session);

 private:
  friend class WriteLock;
  friend class ReadSnapshot;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// One state of the store for several reads: what is committed meanwhile is not seen by this Store.
/// A long one keeps the log from being written back.
class ReadSnapshot {
 public:
  explicit ReadSnapshot(Store& store);
  ~ReadSnapshot();
  ReadSnapshot(const ReadSnapshot&) = delete;
  ReadSnapshot& operator=(const ReadSnapshot&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The right to write: the lock file beside the database, so that one process writes at a time and
/// checkpoints happen under it. Released by the destructor or the process's death.
class WriteLock {
 public:
  /// Throws kBusy naming the holder's pid at once, or, with `wait`, after it or on cancel.
  explicit WriteLock(Store& store, bool wait = false, const CancelFlag* cancel = nullptr);
  ~WriteLock();
  WriteLock(const WriteLock&) = delete;
  WriteLock& operator=(const WriteLock&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace apud
