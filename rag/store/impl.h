// State shared by the files that implement Store.
#pragma once

#include <unordered_map>

#include "rag/store.h"
#include "rag/store/keyword.h"
#include "rag/store/sqlite.h"

namespace apud {

struct Store::Impl {
  Path path;
  Mode mode = Mode::kReadOnly;
  bool read_only_media = false;
  std::unique_ptr<sqlite::Database> db;
  std::unique_ptr<sqlite::IndexTerms> terms;
  bool locked = false;  // a WriteLock of ours lives
  /// Frequencies asked for last: search, packing and recall ask for the same words.
  struct Frequencies {
    int64_t collection = 0;
    int64_t generation = 0;
    std::unordered_map<std::string, int64_t> by_term;
  } frequencies;

  sqlite::Database& database() { return *db; }
  /// CHECKs that the caller holds the lock of this store.
  sqlite::Database& writable();
  /// For media that cannot be written: goes on with a copy in memory that has today's schema.
  void migrate_copy();
  int64_t embedder_id(const EmbedderIdentity& embedder);  // inserted when new
  /// The name is not checked.
  CollectionInfo insert_collection(Store& store, std::string_view name,
                                   const EmbedderIdentity& embedder, std::string_view chunker);
  /// Raises the generation by a random step, so that a restored backup never meets the generation
  /// of an index made after it.
  void bump(int64_t collection);
  /// Removes chunks, keywords and text of a document; its vectors become orphans.
  void clear_document(const DocumentInfo& info);
  void drop_orphans();
  /// The cache file of the vector index holds removed vectors until it is written anew.
  /// One of more bytes stays.
  static void drop_index_file(const std::string& collection_uuid,
                              uintmax_t most_bytes = UINTMAX_MAX);
};

namespace sqlite {
DocumentInfo read_document(Statement& row);
extern const char* const kDocumentColumns;
std::string compress(std::string_view text);
std::string decompress(std::span<const std::byte> data, const std::string& what);
std::string pack_anchors(const std::vector<Anchor>& anchors);
std::vector<Anchor> unpack_anchors(std::string_view bytes, const std::string& what);
int64_t now_seconds();
uint64_t random64();
/// What the keyword tables hold of a document's chunks.
std::vector<KeywordRow> keyword_rows(std::string_view path, std::string_view text,
                                     const std::vector<StoredChunk>& chunks);
std::vector<StoredChunk> read_chunks_of(Database& db, int64_t document);
/// Writes the keyword tables anew from the texts. Inside a transaction.
void rebuild_keywords(Database& db);
}  // namespace sqlite

}  // namespace apud
