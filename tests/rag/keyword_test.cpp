// The keyword tables: one collection's words in several tables rank as in one; removed words are in
// no table after a purge, also when the process that removed them died before it; stores of the
// schema before them are brought up to date by writers, readers, and, where they cannot be written,
// in memory.
#include "rag/store/keyword.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "rag/ingest.h"
#include "rag/store.h"
#include "rag/store/schema.h"
#include "rag/text/terms.h"
#include "tests/support/fake_embedder.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

using sqlite::Database;
using sqlite::KeywordRow;
using test::FakeEmbedder;
using test::TempHome;

TEST(Terms, ChineseIsItsPairsOfNeighbours) {
  using Terms = std::vector<std::string>;
  EXPECT_EQ(terms_of("修缮石桥，桥"), (Terms{"修缮", "缮石", "石桥", "桥"}));
  EXPECT_EQ(terms_of("Old 桥 of Ａ"), (Terms{"old", "桥", "of", "a"}));
}

class KeywordTest : public testing::Test {
 protected:
  void SetUp() override { sqlite::register_tokenizer(db); }

  std::vector<KeywordRow> rows(int64_t spread) {
    std::vector<KeywordRow> all;
    for (size_t i = 0; i < std::size(kBodies); ++i)
      all.push_back({static_cast<int64_t>(i + 1) * spread, "Heading", kBodies[i], "path"});
    return all;
  }
  static constexpr const char* kBodies[] = {"the cat sat on the mat",
                                            "a dog and a cat met a cat",
                                            "birds sing in spring",
                                            "spring water for the dog",
                                            "no animal here",
                                            "猫和狗在春天见面",
                                            "one more cat in a long passage",
                                            "the mat is red"};

  TempHome home;
  Database db{home / "words.db", Database::Open::kCreate};
};

TEST_F(KeywordTest, SeveralTablesRankAsOne) {
  db.exec("CREATE TABLE keyword_tables(collection, shard, stale, PRIMARY KEY(collection, shard))");
  sqlite::add_keywords(db, 1, rows(1));
  sqlite::add_keywords(db, 2, rows(sqlite::kShardChunks));
  ASSERT_EQ(db.integer("SELECT count(*) FROM keyword_tables WHERE collection = 1"), 1);
  ASSERT_EQ(db.integer("SELECT count(*) FROM keyword_tables WHERE collection = 2"), 8);
  // FTS5's own ranking of the one table is the oracle.
  db.exec("INSERT INTO fts_1_0(fts_1_0, rank) VALUES('rank', 'bm25(3.0, 1.0, 0.5)')");
  for (const char* match :
       {"cat", "cat OR dog", "spring OR mat OR red", "\"猫和\" OR cat", "water"}) {
    sqlite::Statement own(
        db, "SELECT rowid, rank FROM fts_1_0 WHERE fts_1_0 MATCH ? ORDER BY rank, rowid");
    own.add(match);
    std::vector<KeywordHit> expected;
    while (own.row()) expected.push_back({own.integer(0), -own.real(1)});
    ASSERT_FALSE(expected.empty()) << match;
    std::vector<KeywordHit> one = sqlite::search_keywords(db, 1, match, 10);
    std::vector<KeywordHit> many = sqlite::search_keywords(db, 2, match, 10);
    ASSERT_EQ(one.size(), expected.size()) << match;
    ASSERT_EQ(many.size(), expected.size()) << match;
    for (size_t i = 0; i < one.size(); ++i) {
      EXPECT_EQ(one[i].chunk, expected[i].chunk) << match;
      EXPECT_NEAR(one[i].score, expected[i].score, 1e-9) << match;
      EXPECT_EQ(many[i].chunk, expected[i].chunk * sqlite::kShardChunks) << match;
    }
    EXPECT_EQ(sqlite::search_keywords(db, 2, match, 1).size(), 1u);
  }
  std::vector<std::string> terms = {"cat", "dog", "nowhere"};
  EXPECT_EQ(sqlite::term_frequencies(db, 2, terms), sqlite::term_frequencies(db, 1, terms));
  EXPECT_EQ(sqlite::term_frequencies(db, 2, terms), (std::vector<int64_t>{3, 2, 0}));
}

TEST_F(KeywordTest, PurgedWordsAreInNoTable) {
  db.exec("CREATE TABLE keyword_tables(collection, shard, stale, PRIMARY KEY(collection, shard))");
  std::vector<KeywordRow> all = rows(sqlite::kShardChunks / 2);  // two to a table
  sqlite::add_keywords(db, 1, all);
  sqlite::remove_keywords(db, 1, std::span(all).subspan(2, 1));  // birds
  auto tables_with = [&](const std::string& word) {
    return db.integer("SELECT count(*) FROM fts_1_1_data WHERE instr(block, CAST('" + word +
                      "' AS BLOB)) > 0");
  };
  EXPECT_TRUE(sqlite::search_keywords(db, 1, "birds", 5).empty());
  ASSERT_GT(tables_with("bird"), 0) << "the search of this test can find it";
  sqlite::purge_keywords(db);
  EXPECT_EQ(tables_with("bird"), 0);
  EXPECT_EQ(db.integer("SELECT count(*) FROM keyword_tables WHERE stale != 0"), 0);
  EXPECT_EQ(sqlite::search_keywords(db, 1, "cat", 5).size(), 3u);
  // A table without rows goes.
  sqlite::remove_keywords(db, 1, all = {all[7]});
  sqlite::purge_keywords(db);
  EXPECT_EQ(db.integer("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'fts_1_4%'"), 0);
  EXPECT_EQ(sqlite::count_keyword_rows(db, 1), 6);
}

class OlderStore : public testing::Test {
 protected:
  /// A store as schema 3 had it: one keyword table for the collection.
  void SetUp() override {
    for (const char* n : {"one", "two", "three"})
      home.write(std::string("docs/") + n + ".md",
                 std::string("# Title\n\nText about subject ") + n + ".\n");
    {
      Store store;
      Path root = home / "docs";
      ingest(store, embedder, std::span(&root, 1), {});
      WriteLock lock(store);
      store.purge(lock);
      collection = store.collection("default").id;
    }
    Database db(Store::default_path(), Database::Open::kReadWrite);
    sqlite::register_tokenizer(db);
    sqlite::drop_keyword_tables(db, collection);
    db.exec("DROP TABLE keyword_tables");
    db.exec("DROP TABLE token_codes");
    db.exec("ALTER TABLE embedders DROP COLUMN centers");
    db.exec("DROP INDEX documents_sums");
    db.exec("ALTER TABLE collections DROP COLUMN abstain_line_cjk");
    db.exec("CREATE VIRTUAL TABLE fts_" + std::to_string(collection) +
            " USING fts5(heading, body, path, content='', tokenize='porter apud')");
    db.exec("PRAGMA user_version = 3");
  }
  void expect_found(Store& store) {
    EXPECT_TRUE(store.check().empty());
    EXPECT_EQ(store.keyword_search(collection, "two", 5).size(), 1u);
    EXPECT_EQ(store.keyword_search(collection, "subject", 5).size(), 3u);
  }

  TempHome home;
  FakeEmbedder embedder;
  int64_t collection = 0;
};

TEST_F(OlderStore, AWriterBringsItUpToDate) {
  Store store;
  expect_found(store);
}

TEST_F(OlderStore, TablesOfOtherSizesAreMadeAnew) {
  { Store store; }
  {
    // As schema 5 had them: the rows of these chunks in a table of another number.
    Database db(Store::default_path(), Database::Open::kReadWrite);
    sqlite::register_tokenizer(db);
    std::string name = "fts_" + std::to_string(collection) + "_";
    db.exec("ALTER TABLE " + name + "0 RENAME TO " + name + "7");
    db.exec("UPDATE keyword_tables SET shard = 7");
    db.exec("DROP INDEX documents_sums");
    db.exec("ALTER TABLE collections DROP COLUMN abstain_line_cjk");
    db.exec("PRAGMA user_version = 5");
  }
  Store store;
  expect_found(store);
  Database db(Store::default_path(), Database::Open::kReadWrite);
  EXPECT_EQ(db.integer("SELECT shard FROM keyword_tables"), 0);
  EXPECT_EQ(db.integer("SELECT count(*) FROM sqlite_schema WHERE name = 'documents_sums'"), 1);
}

TEST_F(OlderStore, AReaderBringsItUpToDateWhereItMayWrite) {
  Store store(Store::default_path(), Store::Mode::kReadOnly);
  EXPECT_FALSE(store.read_only_media());
  expect_found(store);
}

TEST_F(OlderStore, WhatCannotBeWrittenIsReadFromACopy) {
  std::string before = read_file(Store::default_path());
  Database db(Store::default_path(), Database::Open::kImmutable);
  ASSERT_TRUE(sqlite::needs_migration(db));
  std::unique_ptr<Database> copy = Database::copy_in_memory(db);
  sqlite::register_tokenizer(*copy);
  sqlite::migrate(*copy);
  sqlite::verify_schema(*copy);
  EXPECT_EQ(sqlite::search_keywords(*copy, collection, "two", 5).size(), 1u);
  EXPECT_EQ(read_file(Store::default_path()), before);
}

TEST(Purge, WordsThatADeadProcessRemovedGoWithTheNext) {
  TempHome home;
  FakeEmbedder embedder;
  home.write("docs/secret.md", "# Vault\n\nThe word is quillonfeather.\n");
  home.write("docs/other.md", "# Garden\n\nFour apple trees.\n");
  auto in_file = [] {
    return read_file(Store::default_path()).find("quillon") != std::string::npos;
  };
  {
    Store store;
    Path root = home / "docs";
    ingest(store, embedder, std::span(&root, 1), {});
    WriteLock lock(store);
    store.purge(lock);
    ASSERT_TRUE(in_file());
    auto info =
        store.find_document(store.collection("default").id, (home / "docs/secret.md").string());
    ASSERT_TRUE(info);
    // The file became empty: its words leave the search at once, the table with the next purge.
    store.put_document(lock, *info, Document(), {}, {}, {});
  }
  ASSERT_TRUE(in_file());
  Store store;
  WriteLock lock(store);
  store.purge(lock);
  EXPECT_FALSE(in_file());
}

TEST(Purge, ARemovalLeavesNoWordsToPurge) {
  TempHome home;
  FakeEmbedder embedder;
  home.write("docs/secret.md", "# Vault\n\nThe word is quillonfeather.\n");
  home.write("docs/other.md", "# Garden\n\nFour apple trees.\n");
  Store store;
  Path root = home / "docs";
  ingest(store, embedder, std::span(&root, 1), {});
  {
    WriteLock lock(store);
    int64_t id =
        store.find_document(store.collection("default").id, (home / "docs/secret.md").string())->id;
    store.remove_documents(lock, std::span(&id, 1));
  }
  Database db(Store::default_path(), Database::Open::kReadWrite);
  EXPECT_EQ(db.integer("SELECT count(*) FROM keyword_tables WHERE stale != 0"), 0);
  EXPECT_EQ(db.integer("SELECT count(*) FROM keyword_tables"), 1) << "the other document's";
}

}  // namespace
}  // namespace apud
