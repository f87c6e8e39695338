#include "rag/store/keyword.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <unordered_map>

#include "base/check.h"
#include "rag/text/terms.h"

namespace apud::sqlite {
namespace {

int tokenizer_create(void*, const char**, int, Fts5Tokenizer** out) {
  static char instance;  // the tokenizer has no state; FTS5 wants a non-null pointer
  *out = reinterpret_cast<Fts5Tokenizer*>(&instance);
  return SQLITE_OK;
}

void tokenizer_delete(Fts5Tokenizer*) {}

int tokenizer_run(Fts5Tokenizer*, void* context, int, const char* text, int size,
                  int (*token)(void*, int, const char*, int, int, int)) {
  int code = SQLITE_OK;
  try {
    for_each_term({text, static_cast<size_t>(size)}, [&](const Term& term) {
      code = token(context, term.same_position ? FTS5_TOKEN_COLOCATED : 0, term.text.data(),
                   static_cast<int>(term.text.size()), static_cast<int>(term.begin),
                   static_cast<int>(term.end));
      return code == SQLITE_OK;
    });
  } catch (const std::bad_alloc&) {
    return SQLITE_NOMEM;
  }
  return code;
}

fts5_api* api_of(Database& db) {
  fts5_api* api = nullptr;
  sqlite3_stmt* statement = nullptr;
  int code = sqlite3_prepare_v2(db.get(), "SELECT fts5(?1)", -1, &statement, nullptr);
  if (code != SQLITE_OK) db.fail(code, "this SQLite has no FTS5:");
  sqlite3_bind_pointer(statement, 1, &api, "fts5_api_ptr", nullptr);
  sqlite3_step(statement);
  sqlite3_finalize(statement);
  APUD_CHECK(api && api->iVersion >= 2, "FTS5 extension interface");
  return api;
}

/// What one search knows before it ranks: of the whole collection, whichever table a row is in.
struct Ranking {
  std::vector<double> idf;     // by phrase of the match
  double average_terms = 0;    // of a row
  std::vector<int64_t> holds;  // by phrase: rows that hold it
  int64_t rows = 0;            // of the tables that hold any
  int64_t terms = 0;           // in them
};
constexpr const char* kRankingType = "apud_ranking";

Ranking* ranking_of(sqlite3_context* context, int count, sqlite3_value** values) {
  auto* ranking =
      count == 1 ? static_cast<Ranking*>(sqlite3_value_pointer(values[0], kRankingType)) : nullptr;
  if (!ranking) sqlite3_result_error(context, "called by apud alone", -1);
  return ranking;
}

/// apud_count(table, ranking): adds what this table holds of each phrase. For one row of a table.
void count_phrases(const Fts5ExtensionApi* api, Fts5Context* fts, sqlite3_context* context,
                   int count, sqlite3_value** values) {
  Ranking* ranking = ranking_of(context, count, values);
  if (!ranking) return;
  int phrases = api->xPhraseCount(fts);
  ranking->holds.resize(static_cast<size_t>(phrases));
  auto one = [](const Fts5ExtensionApi*, Fts5Context*, void* holds) {
    ++*static_cast<int64_t*>(holds);
    return SQLITE_OK;
  };
  int code = SQLITE_OK;
  for (int p = 0; p < phrases && code == SQLITE_OK; ++p)
    code = api->xQueryPhrase(fts, p, &ranking->holds[static_cast<size_t>(p)], one);
  sqlite3_int64 rows = 0, terms = 0;
  if (code == SQLITE_OK) code = api->xRowCount(fts, &rows);
  if (code == SQLITE_OK) code = api->xColumnTotalSize(fts, -1, &terms);
  if (code != SQLITE_OK) return sqlite3_result_error_code(context, code);
  ranking->rows += rows;
  ranking->terms += terms;
}

/// apud_bm25(table, ranking): BM25 of a row, higher is better; as FTS5's own, with the collection's
/// statistics instead of the table's.
void rank_row(const Fts5ExtensionApi* api, Fts5Context* fts, sqlite3_context* context, int count,
              sqlite3_value** values) {
  Ranking* ranking = ranking_of(context, count, values);
  if (!ranking) return;
  int instances = 0, terms = 0;
  int code = api->xInstCount(fts, &instances);
  if (code == SQLITE_OK) code = api->xColumnSize(fts, -1, &terms);
  std::vector<double> found(ranking->idf.size(), 0);
  for (int i = 0; i < instances && code == SQLITE_OK; ++i) {
    int phrase, column, offset;
    code = api->xInst(fts, i, &phrase, &column, &offset);
    if (code == SQLITE_OK && static_cast<size_t>(phrase) < found.size())
      found[static_cast<size_t>(phrase)] += kColumnWeights[column];
  }
  if (code != SQLITE_OK) return sqlite3_result_error_code(context, code);
  double length = kLengthWeight * terms / ranking->average_terms + (1 - kLengthWeight), score = 0;
  for (size_t p = 0; p < found.size(); ++p) {
    score += ranking->idf[p] * found[p] * (kSaturation + 1) / (found[p] + kSaturation * length);
  }
  sqlite3_result_double(context, score);
}

int64_t shard_of(int64_t chunk) { return chunk / kShardChunks; }

std::string table(int64_t collection, int64_t shard) {
  return "fts_" + std::to_string(collection) + "_" + std::to_string(shard);
}

std::vector<int64_t> shards_of(Database& db, int64_t collection) {
  Statement select(db, "SELECT shard FROM keyword_tables WHERE collection = ? ORDER BY shard");
  select.add(collection);
  std::vector<int64_t> shards;
  while (select.row()) shards.push_back(select.integer(0));
  return shards;
}

/// A statement per table, made from the table's name when a row of it comes.
class ShardStatements {
 public:
  template <typename Make>
  Statement& of(Database& db, int64_t shard, const Make& make) {
    auto at = made_.find(shard);
    if (at == made_.end()) at = made_.emplace(shard, std::make_unique<Statement>(db, make())).first;
    return *at->second;
  }

 private:
  std::unordered_map<int64_t, std::unique_ptr<Statement>> made_;
};

void run_with(Statement& statement, const KeywordRow& row) {
  statement.add(row.chunk).add(row.heading).add(row.body).add(row.path).run();
}

}  // namespace

void register_tokenizer(Database& db) {
  fts5_tokenizer tokenizer{tokenizer_create, tokenizer_delete, tokenizer_run};
  fts5_api* api = api_of(db);
  int code = api->xCreateTokenizer(api, "apud", nullptr, &tokenizer, nullptr);
  if (code == SQLITE_OK)
    code = api->xCreateFunction(api, "apud_count", nullptr, count_phrases, nullptr);
  if (code == SQLITE_OK) code = api->xCreateFunction(api, "apud_bm25", nullptr, rank_row, nullptr);
  if (code != SQLITE_OK) db.fail(code, "cannot register tokenizer for");
}

std::string keyword_path(std::string_view heading_path, std::string_view file) {
  size_t slash = file.rfind('/');
  std::string out(heading_path);
  out += '\n';
  out += slash == std::string_view::npos ? file : file.substr(slash + 1);
  return out;
}

void drop_keyword_tables(Database& db, int64_t collection) {
  for (int64_t shard : shards_of(db, collection)) db.exec("DROP TABLE " + table(collection, shard));
  Statement(db, "DELETE FROM keyword_tables WHERE collection = ?").add(collection).run();
}

void replace_keyword_tables(Database& db, int64_t collection, int64_t from) {
  drop_keyword_tables(db, collection);
  for (int64_t shard : shards_of(db, from))
    db.exec("ALTER TABLE " + table(from, shard) + " RENAME TO " + table(collection, shard));
  Statement(db, "UPDATE keyword_tables SET collection = ? WHERE collection = ?")
      .add(collection)
      .add(from)
      .run();
}

void add_keywords(Database& db, int64_t collection, std::span<const KeywordRow> rows) {
  ShardStatements inserts;
  for (const KeywordRow& row : rows) {
    int64_t shard = shard_of(row.chunk);
    Statement& insert = inserts.of(db, shard, [&] {
      std::string name = table(collection, shard);
      Statement known(
          db, "INSERT OR IGNORE INTO keyword_tables(collection, shard, stale) VALUES(?,?,0)");
      known.add(collection).add(shard).run();
      if (sqlite3_changes(db.get()) > 0) {
        db.exec("CREATE VIRTUAL TABLE " + name +
                " USING fts5(heading, body, path, content='', tokenize='porter apud')");
      }
      return "INSERT INTO " + name + "(rowid, heading, body, path) VALUES(?,?,?,?)";
    });
    run_with(insert, row);
  }
}

void remove_keywords(Database& db, int64_t collection, std::span<const KeywordRow> rows) {
  ShardStatements deletes;
  for (const KeywordRow& row : rows) {
    int64_t shard = shard_of(row.chunk);
    Statement& forget = deletes.of(db, shard, [&] {
      Statement(db, "UPDATE keyword_tables SET stale = 1 WHERE collection = ? AND shard = ?")
          .add(collection)
          .add(shard)
          .run();
      std::string name = table(collection, shard);
      return "INSERT INTO " + name + "(" + name +
             ", rowid, heading, body, path) VALUES('delete',?,?,?,?)";
    });
    run_with(forget, row);
  }
}

std::vector<KeywordTable> stale_keyword_tables(Database& db) {
  Statement select(db, "SELECT collection, shard FROM keyword_tables WHERE stale = 1");
  std::vector<KeywordTable> stale;
  while (select.row()) stale.push_back({select.integer(0), select.integer(1)});
  return stale;
}

void purge_keyword_table(Database& db, KeywordTable which) {
  std::string name = table(which.collection, which.shard);
  const char* mark = "UPDATE keyword_tables SET stale = 0 WHERE collection = ? AND shard = ?";
  if (db.integer("SELECT EXISTS (SELECT 1 FROM " + name + "_docsize)")) {
    db.exec("INSERT INTO " + name + "(" + name + ") VALUES('optimize')");
  } else {
    db.exec("DROP TABLE " + name);
    mark = "DELETE FROM keyword_tables WHERE collection = ? AND shard = ?";
  }
  Statement(db, mark).add(which.collection).add(which.shard).run();
}

void purge_keywords(Database& db) {
  for (KeywordTable stale : stale_keyword_tables(db)) {
    Transaction transaction(db);
    purge_keyword_table(db, stale);
    transaction.commit();
  }
}

int64_t count_keyword_rows(Database& db, int64_t collection) {
  int64_t rows = 0;
  for (int64_t shard : shards_of(db, collection))
    rows += db.integer("SELECT count(*) FROM " + table(collection, shard) + "_docsize");
  return rows;
}

std::vector<KeywordHit> search_keywords(Database& db, int64_t collection, std::string_view match,
                                        int limit) {
  const std::vector<int64_t> shards = shards_of(db, collection);
  Ranking ranking;
  auto ask = [&](int64_t shard, const char* what, const char* rest) {
    std::string name = table(collection, shard);
    auto select = std::make_unique<Statement>(db, "SELECT rowid, " + std::string(what) + "(" +
                                                      name + ", ?1) AS score FROM " + name +
                                                      " WHERE " + name + " MATCH ?2 " + rest);
    select->add_pointer(&ranking, kRankingType).add(match);
    return select;
  };
  std::vector<int64_t> holding;  // tables with a row that matches
  for (int64_t shard : shards) {
    if (ask(shard, "apud_count", "LIMIT 1")->row()) holding.push_back(shard);
  }
  for (int64_t n : ranking.holds) {
    // A word that more than half of the rows hold counts for next to nothing, not against.
    double idf =
        std::log((static_cast<double>(ranking.rows - n) + 0.5) / (static_cast<double>(n) + 0.5));
    ranking.idf.push_back(idf > 0 ? idf : 1e-6);
  }
  ranking.average_terms =
      static_cast<double>(ranking.terms) / static_cast<double>(std::max<int64_t>(ranking.rows, 1));
  std::vector<KeywordHit> hits;
  for (int64_t shard : holding) {
    auto select = ask(shard, "apud_bm25", "ORDER BY score DESC, rowid LIMIT ?3");
    select->add(static_cast<int64_t>(limit));
    while (select->row()) hits.push_back({select->integer(0), select->real(1)});
  }
  auto better = [](const KeywordHit& a, const KeywordHit& b) {
    return a.score != b.score ? a.score > b.score : a.chunk < b.chunk;
  };
  std::sort(hits.begin(), hits.end(), better);
  if (hits.size() > static_cast<size_t>(limit)) hits.resize(static_cast<size_t>(limit));
  return hits;
}

std::vector<int64_t> term_frequencies(Database& db, int64_t collection,
                                      std::span<const std::string> terms) {
  // query_only forbids temporary tables as well, which a reader may well have.
  Statement mode(db, "PRAGMA query_only");
  bool query_only = mode.row() && mode.integer(0) != 0;
  mode.reset();
  if (query_only) db.exec("PRAGMA query_only = OFF");
  std::vector<std::string> vocabularies;
  for (int64_t shard : shards_of(db, collection)) {
    std::string name = table(collection, shard);
    vocabularies.push_back("temp.vocabulary_" + name);
    db.exec("CREATE VIRTUAL TABLE IF NOT EXISTS " + vocabularies.back() +
            " USING fts5vocab('main', '" + name + "', 'row')");
  }
  if (query_only) db.exec("PRAGMA query_only = ON");
  std::vector<int64_t> counts(terms.size(), 0);
  for (const std::string& vocabulary : vocabularies) {
    Statement select(db, "SELECT doc FROM " + vocabulary + " WHERE term = ?");
    for (size_t i = 0; i < terms.size(); ++i) {
      select.add(terms[i]);
      if (select.row()) counts[i] += select.integer(0);
      select.reset();
    }
  }
  return counts;
}

struct IndexTerms::Impl {
  fts5_tokenizer tokenizer{};
  Fts5Tokenizer* instance = nullptr;
};

IndexTerms::IndexTerms(Database& db) : impl_(std::make_unique<Impl>()) {
  fts5_api* api = api_of(db);
  void* context = nullptr;
  APUD_CHECK(api->xFindTokenizer(api, "porter", &context, &impl_->tokenizer) == SQLITE_OK,
             "porter");
  const char* arguments[] = {"apud"};
  int code = impl_->tokenizer.xCreate(context, arguments, 1, &impl_->instance);
  if (code != SQLITE_OK) db.fail(code, "cannot make tokenizer for");
}

IndexTerms::~IndexTerms() { impl_->tokenizer.xDelete(impl_->instance); }

std::vector<std::string> IndexTerms::of(std::string_view text) {
  std::vector<std::string> terms;
  auto add = [](void* context, int, const char* token, int size, int, int) {
    static_cast<std::vector<std::string>*>(context)->emplace_back(token, size);
    return SQLITE_OK;
  };
  size_t size = std::min<size_t>(text.size(), INT_MAX);
  impl_->tokenizer.xTokenize(impl_->instance, &terms, FTS5_TOKENIZE_AUX, text.data(),
                             static_cast<int>(size), add);
  return terms;
}

}  // namespace apud::sqlite
