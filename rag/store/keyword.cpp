#include "rag/store/keyword.h"

#include <climits>

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

std::string table(int64_t collection) { return "fts_" + std::to_string(collection); }

}  // namespace

void register_tokenizer(Database& db) {
  fts5_tokenizer tokenizer{tokenizer_create, tokenizer_delete, tokenizer_run};
  fts5_api* api = api_of(db);
  int code = api->xCreateTokenizer(api, "apud", nullptr, &tokenizer, nullptr);
  if (code != SQLITE_OK) db.fail(code, "cannot register tokenizer for");
}

std::string keyword_path(std::string_view heading_path, std::string_view file) {
  size_t slash = file.rfind('/');
  std::string out(heading_path);
  out += '\n';
  out += slash == std::string_view::npos ? file : file.substr(slash + 1);
  return out;
}

void create_keyword_table(Database& db, int64_t collection) {
  db.exec("CREATE VIRTUAL TABLE " + table(collection) +
          " USING fts5(heading, body, path, content='', tokenize='porter apud')");
  db.exec("INSERT INTO " + table(collection) + "(" + table(collection) +
          ", rank) VALUES('rank', 'bm25(3.0, 1.0, 0.5)')");
}

void drop_keyword_table(Database& db, int64_t collection) {
  db.exec("DROP TABLE " + table(collection));
}

void replace_keyword_table(Database& db, int64_t collection, int64_t from) {
  drop_keyword_table(db, collection);
  db.exec("ALTER TABLE " + table(from) + " RENAME TO " + table(collection));
}

void add_keywords(Database& db, int64_t collection, std::span<const KeywordRow> rows) {
  Statement insert(
      db, "INSERT INTO " + table(collection) + "(rowid, heading, body, path) VALUES(?,?,?,?)");
  for (const KeywordRow& row : rows)
    insert.add(row.chunk).add(row.heading).add(row.body).add(row.path).run();
}

void remove_keywords(Database& db, int64_t collection, std::span<const KeywordRow> rows) {
  std::string name = table(collection);
  Statement insert(db, "INSERT INTO " + name + "(" + name +
                           ", rowid, heading, body, path) VALUES('delete',?,?,?,?)");
  for (const KeywordRow& row : rows)
    insert.add(row.chunk).add(row.heading).add(row.body).add(row.path).run();
}

void optimize_keywords(Database& db, int64_t collection) {
  std::string name = table(collection);
  db.exec("INSERT INTO " + name + "(" + name + ") VALUES('optimize')");
}

std::vector<KeywordHit> search_keywords(Database& db, int64_t collection, std::string_view match,
                                        int limit) {
  std::string name = table(collection);
  Statement select(db, "SELECT rowid, rank FROM " + name + " WHERE " + name +
                           " MATCH ? ORDER BY rank, rowid LIMIT ?");
  select.add(match).add(static_cast<int64_t>(limit));
  std::vector<KeywordHit> hits;
  // FTS5's rank is lower for better rows.
  while (select.row()) hits.push_back({select.integer(0), -select.real(1)});
  return hits;
}

std::vector<int64_t> term_frequencies(Database& db, int64_t collection,
                                      std::span<const std::string> terms) {
  std::string vocabulary = "vocab_" + std::to_string(collection);
  // query_only forbids temporary tables as well, which a reader may well have.
  Statement mode(db, "PRAGMA query_only");
  bool query_only = mode.row() && mode.integer(0) != 0;
  mode.reset();
  if (query_only) db.exec("PRAGMA query_only = OFF");
  db.exec("CREATE VIRTUAL TABLE IF NOT EXISTS temp." + vocabulary + " USING fts5vocab('main', '" +
          table(collection) + "', 'row')");
  if (query_only) db.exec("PRAGMA query_only = ON");
  Statement select(db, "SELECT doc FROM temp." + vocabulary + " WHERE term = ?");
  std::vector<int64_t> counts;
  counts.reserve(terms.size());
  for (const std::string& term : terms) {
    select.add(term);
    counts.push_back(select.row() ? select.integer(0) : 0);
    select.reset();
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
