// The keyword side in SQLite: our tokenizer for FTS5 and the per-collection tables.
//
// One contentless FTS5 table per collection (so that document frequencies are the collection's own
// and dropping a collection drops its words), rowid = chunk id, columns heading, body, path.
// Threads: as the Database.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rag/store.h"
#include "rag/store/sqlite.h"

namespace apud::sqlite {

/// Makes the tokenizer "apud" known to the connection. Before any use of a keyword table.
void register_tokenizer(Database& db);

struct KeywordRow {
  int64_t chunk = 0;
  std::string_view heading;
  std::string_view body;
  std::string path;
};

/// What the path column holds: the heading path and the file's name.
std::string keyword_path(std::string_view heading_path, std::string_view file);

void create_keyword_table(Database& db, int64_t collection);
void drop_keyword_table(Database& db, int64_t collection);
/// The words of `from` become those of `collection`, whose own go.
void replace_keyword_table(Database& db, int64_t collection, int64_t from);
void add_keywords(Database& db, int64_t collection, std::span<const KeywordRow> rows);
/// The rows must be what add_keywords was given: the table keeps no text to compare with.
void remove_keywords(Database& db, int64_t collection, std::span<const KeywordRow> rows);
/// Merges all segments, so that removed words are in none.
void optimize_keywords(Database& db, int64_t collection);
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
