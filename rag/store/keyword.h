// The keyword side in SQLite: our tokenizer for FTS5 and the per-collection tables.
//
// Contentless FTS5 tables, rowid = chunk id, columns heading, body, path: one for every
// kShardChunks chunk ids of a collection. FTS5 of SQLite 3.40 drops a removed row's words only when
// it merges all of a table, so a table's size is what a removal costs. Ranks and frequencies are
// the collection's. The table keyword_tables names them. Threads: as the Database.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rag/store.h"
#include "rag/store/sqlite.h"

namespace apud::sqlite {

/// Chunk ids of one table. Purging a removed document rewrites the tables that its chunks are in.
inline constexpr int64_t kShardChunks = 2048;

// BM25: FTS5's own constants; weights of heading, body, path.
inline constexpr double kSaturation = 1.2;     // k1
inline constexpr double kLengthWeight = 0.75;  // b
inline constexpr double kColumnWeights[] = {3.0, 1.0, 0.5};

/// Makes the tokenizer "apud" and the ranking known to the connection. Before any use of a keyword
/// table.
void register_tokenizer(Database& db);

struct KeywordRow {
  int64_t chunk = 0;
  std::string_view heading;
  std::string_view body;
  std::string path;
};

/// What the path column holds: the heading path and the file's name.
std::string keyword_path(std::string_view heading_path, std::string_view file);

void drop_keyword_tables(Database& db, int64_t collection);
/// The words of `from` become those of `collection`, whose own go.
void replace_keyword_tables(Database& db, int64_t collection, int64_t from);
void add_keywords(Database& db, int64_t collection, std::span<const KeywordRow> rows);
/// The rows must be what add_keywords was given: the table keeps no text to compare with.
void remove_keywords(Database& db, int64_t collection, std::span<const KeywordRow> rows);
struct KeywordTable {
  int64_t collection = 0, shard = 0;
};
/// Tables that hold words of rows that were removed.
std::vector<KeywordTable> stale_keyword_tables(Database& db);
/// Merges such a table so that it holds them no more.
void purge_keyword_table(Database& db, KeywordTable table);
/// All of them, a transaction each. REQUIRES: no transaction is open.
void purge_keywords(Database& db);
int64_t count_keyword_rows(Database& db, int64_t collection);
/// Best `limit` rows; `match` in FTS5's syntax.
std::vector<KeywordHit> search_keywords(Database& db, int64_t collection, std::string_view match,
                                        int limit);
std::vector<int64_t> term_frequencies(Database& db, int64_t collection,
                                      std::span<const std::string> terms);

/// Terms exactly as the tables index them (folded, split, stemmed).
class IndexTerms {
 public:
  explicit IndexTerms(Database& db);
  ~IndexTerms();
  IndexTerms(const IndexTerms&) = delete;
  IndexTerms& operator=(const IndexTerms&) = delete;
  std::vector<std::string> of(std::string_view text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace apud::sqlite
