// The store's file against damage, other programs, newer versions, read-only media (X5), and the
// vector index's file against everything that is not exactly it (X1, X3).
#include "rag/store.h"

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <random>
#include <set>

#include "base/error.h"
#include "rag/index.h"
#include "rag/ingest.h"
#include "rag/store/half.h"
#include "rag/store/keyword.h"
#include "tests/support/fake_embedder.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

using test::FakeEmbedder;
using test::TempHome;

class StoreTest : public testing::Test {
 protected:
  void fill(int documents = 20) {
    for (int i = 0; i < documents; ++i) {
      std::string n = std::to_string(i);
      home.write("docs/" + n + ".md",
                 "# Title " + n + "\n\nText of document " + n + " about subject" + n + ".\n");
    }
    Store store;
    Path root = home / "docs";
    ingest(store, embedder, std::span(&root, 1), {});
    WriteLock lock(store);
    store.purge(lock);  // everything is in the main file
  }
  static void sql(const std::string& statements) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(Store::default_path().c_str(), &db), SQLITE_OK);
    char* error = nullptr;
    ASSERT_EQ(sqlite3_exec(db, statements.c_str(), nullptr, nullptr, &error), SQLITE_OK) << error;
    sqlite3_close(db);
  }
  static void expect_refused(const std::string& part, ErrorKind kind = ErrorKind::kBadData) {
    for (Store::Mode mode : {Store::Mode::kReadWrite, Store::Mode::kReadOnly}) {
      try {
        Store store(Store::default_path(), mode);
        ADD_FAILURE() << "opened: " << part;
      } catch (const Error& e) {
        EXPECT_EQ(e.kind(), kind) << e.what();
        EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
        EXPECT_FALSE(e.advice().empty());
      }
    }
  }
  static void overwrite(const Path& file, size_t offset, const std::string& bytes) {
    std::fstream f(file, std::ios::binary | std::ios::in | std::ios::out);
    f.seekp(static_cast<std::streamoff>(offset));
    f.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  TempHome home;
  FakeEmbedder embedder;
};

TEST_F(StoreTest, FilesAreForTheirOwnerOnly) {
  fill(1);
  struct stat status {};
  ASSERT_EQ(::stat(Store::default_path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(StoreTest, DamagedFilesAreRefusedAndKept) {
  fill();
  Path file = Store::default_path();
  std::string good = read_file(file);
  // Header, schema page, interior pages; cut short.
  overwrite(file, 0, std::string(100, '\0'));
  expect_refused("");
  std::ofstream(file, std::ios::binary) << good;
  overwrite(file, 4096 * 6, std::string(4096, '\x5a'));
  expect_refused("damaged");
  std::ofstream(file, std::ios::binary) << good.substr(0, good.size() / 2);
  expect_refused("");
  EXPECT_TRUE(std::filesystem::exists(file));
  std::ofstream(file, std::ios::binary) << good;
  Store store;
  EXPECT_TRUE(store.check().empty());
}

TEST_F(StoreTest, EveryFlippedPageIsNoticedOrHarmless) {
  fill();
  Path file = Store::default_path();
  std::string good = read_file(file);
  std::mt19937 random(3);
  int refused = 0;
  for (size_t page = 0; page < good.size() / 4096; ++page) {
    std::string bad = good;
    for (int i = 0; i < 64; ++i)
      bad[page * 4096 + random() % 4096] ^= static_cast<char>(1 + random() % 255);
    std::ofstream(file, std::ios::binary) << bad;
    try {
      Store store(file, Store::Mode::kReadOnly);
      for (const CollectionInfo& c : store.collections()) {
        for (const DocumentInfo& d : store.documents(c.id)) {
          if (d.chunks > 0) store.text(d.id);
        }
        store.keyword_search(c.id, "document", 10);
        store.for_each_vector(c.id, [](const VectorRow&) {});
      }
    } catch (const Error& e) {
      ++refused;
    }
  }
  EXPECT_GT(refused, static_cast<int>(good.size() / 4096 / 3));
}

TEST_F(StoreTest, AnAbstainLineOfAnOlderSchemaIsNotInForce) {
  fill(1);
  sql("UPDATE collections SET abstain_line = 0.86, calibration_queries = 64, calibrated_chunks = "
      "9");
  {
    sqlite::Database db(Store::default_path(), sqlite::Database::Open::kReadWrite);
    sqlite::register_tokenizer(db);
    int64_t collection = db.integer("SELECT id FROM collections");
    sqlite::drop_keyword_tables(db, collection);
    db.exec("DROP TABLE keyword_tables");
    db.exec("DROP TABLE token_codes");
    db.exec("ALTER TABLE embedders DROP COLUMN centers");
    db.exec("DROP INDEX documents_sums");
    db.exec("ALTER TABLE collections DROP COLUMN abstain_line_cjk");
    db.exec("CREATE TABLE fts_" + std::to_string(collection) + "(x)");
    db.exec("PRAGMA user_version = 2");
  }
  Store store(Store::default_path(), Store::Mode::kReadWrite);
  for (const CollectionInfo& c : store.collections()) {
    EXPECT_EQ(c.calibration.queries, 0);
    EXPECT_EQ(c.calibration.chunks, 0);
  }
  EXPECT_FALSE(store.collections().empty());
}

// One line before: it holds for all questions until the next ingest has measured both.
TEST_F(StoreTest, TheOneAbstainLineOfAnOlderSchemaIsBoth) {
  fill(1);
  sql("UPDATE collections SET abstain_line = 0.86, calibration_queries = 64, calibrated_chunks = "
      "9");
  sql("ALTER TABLE collections DROP COLUMN abstain_line_cjk");
  sql("PRAGMA user_version = 6");
  Store store(Store::default_path(), Store::Mode::kReadWrite);
  ASSERT_FALSE(store.collections().empty());
  Calibration line = store.collections()[0].calibration;
  EXPECT_EQ(line.line_for("Where is it?"), 0.86);
  EXPECT_EQ(line.line_for("它在哪里？"), 0.86);
  EXPECT_EQ(line.chunks, 0) << "the next ingest measures";
  line.abstain_line_cjk = 0.8;
  {
    WriteLock lock(store);
    store.set_calibration(lock, store.collections()[0].id, line);
  }
  line = store.collections()[0].calibration;
  EXPECT_EQ(line.line_for("Where is it?"), 0.86);
  EXPECT_EQ(line.line_for("它在哪里？"), 0.8);
  line.queries = 0;
  EXPECT_EQ(line.line_for("Where is it?"), 0) << "not in force";
}

TEST_F(StoreTest, ForeignNewerAndHostileFilesAreRefused) {
  fill(1);
  std::string good = read_file(Store::default_path());
  auto fresh = [&] { std::ofstream(Store::default_path(), std::ios::binary) << good; };
  sql("PRAGMA user_version = 99");
  expect_refused("newer");
  fresh();
  sql("PRAGMA application_id = 7");
  expect_refused("another program");
  fresh();
  sql("CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM documents; END");
  expect_refused("trigger");
  fresh();
  sql("CREATE VIEW v AS SELECT 1");
  expect_refused("view");
  fresh();
  sql("CREATE TABLE extra(x)");
  expect_refused("extra");
  fresh();
  sql("DROP TABLE answer_documents");
  expect_refused("answer_documents");
}

TEST_F(StoreTest, MissingStoreIsNoInput) {
  try {
    Store store(Store::default_path(), Store::Mode::kReadOnly);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kNoInput);
  }
}

TEST_F(StoreTest, FinishedStoreOpensWithoutWriting) {
  fill(3);
  // Root may write anywhere, so the media is made read-only by opening as such media is opened.
  Store store(Store::default_path(), Store::Mode::kReadOnly);
  EXPECT_EQ(store.collection("default").documents, 3);
  EXPECT_EQ(store.keyword_search(store.collection("default").id, "subject1", 5).size(), 1u);
  if (::geteuid() == 0) GTEST_SKIP() << "the rest needs a user whom permissions bind";
  std::filesystem::permissions(home / "data/apud", std::filesystem::perms(0500));
  Store bound(Store::default_path(), Store::Mode::kReadOnly);
  EXPECT_TRUE(bound.read_only_media());
  EXPECT_EQ(bound.collection("default").documents, 3);
  std::filesystem::permissions(home / "data/apud", std::filesystem::perms(0700));
}

TEST_F(StoreTest, CollectionsAndNames) {
  fill(1);
  Store store;
  WriteLock lock(store);
  store.create_collection(lock, "文档", {"fake/1", "fake", 64}, "chunker/1 220 240 40");
  EXPECT_THROW(store.create_collection(lock, "文档", {"fake/1", "fake", 64}, "x"), Error);
  for (const char* bad : {"", "-x", ".x", "a b", "a/b", "a\nb", "\x1b[2J", "\xff"}) {
    EXPECT_THROW(store.create_collection(lock, bad, {"fake/1", "fake", 64}, "x"), Error) << bad;
  }
  try {
    store.collection("defautl");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kNoInput);
    EXPECT_NE(e.advice().find("default"), std::string::npos);
  }
  store.rename_collection(lock, "文档", "docs2");
  EXPECT_FALSE(store.find_collection("文档"));
  EXPECT_TRUE(store.remove_collection(lock, "docs2").empty());
  EXPECT_EQ(store.collections().size(), 1u);
  store.remove_collection(lock, "default");
  EXPECT_TRUE(store.check().empty());
}

TEST_F(StoreTest, ReadersSeeCommittedDocumentsWhileAWriterWorks) {
  fill(2);
  Store writer, reader(Store::default_path(), Store::Mode::kReadOnly);
  EXPECT_EQ(reader.collection("default").documents, 2);
  home.write("docs/new.md", "# New\n\nFresh words appear.\n");
  Path root = home / "docs";
  int64_t generation = reader.collection("default").generation;
  ingest(writer, embedder, std::span(&root, 1), {});
  EXPECT_EQ(reader.collection("default").documents, 3);
  EXPECT_GT(reader.generation(reader.collection("default").id), generation);
}

// --- vector index

std::vector<uint16_t> random_row(std::mt19937& random, int dimension) {
  std::normal_distribution<float> normal;
  std::vector<float> row(dimension);
  double norm = 0;
  for (float& v : row) {
    v = normal(random);
    norm += v * v;
  }
  for (float& v : row) v = static_cast<float>(v / std::sqrt(norm));
  return half::from_floats(row);
}

TEST(Half, RoundTripsAndRounds) {
  for (int h = 0; h < 65536; ++h) {
    float f = half::to_float(static_cast<uint16_t>(h));
    if (std::isnan(f)) continue;
    ASSERT_EQ(half::from_float(f), h);
  }
  EXPECT_EQ(half::from_float(65519.0f), half::from_float(65504.0f));
  EXPECT_EQ(half::from_float(65520.0f), 0x7C00);
  EXPECT_EQ(half::from_float(1.0f + 0x1p-11f), half::from_float(1.0f));  // half to even
  EXPECT_EQ(half::from_float(1.0f + 3 * 0x1p-11f), half::from_float(1.0f + 4 * 0x1p-11f));
  EXPECT_EQ(half::from_float(0x1p-25f), 0);
}

TEST(VectorIndex, EveryScanAgreesWithDoubles) {
  std::mt19937 random(5);
  for (int dimension : {1, 7, 16, 33, 64, 100, 384, 400}) {
    VectorIndex index(dimension);
    std::vector<std::vector<uint16_t>> rows;
    for (int i = 0; i < 2500; ++i) {
      rows.push_back(random_row(random, dimension));
      index.add(i * 3 + 1, rows.back());
    }
    std::vector<float> query(dimension);
    for (float& v : query) v = half::to_float(random_row(random, dimension)[0]);
    std::vector<std::pair<double, int64_t>> truth;
    for (size_t i = 0; i < rows.size(); ++i) {
      double sum = 0;
      for (int d = 0; d < dimension; ++d) sum += double{half::to_float(rows[i][d])} * query[d];
      truth.emplace_back(-sum, static_cast<int64_t>(i * 3 + 1));
    }
    std::sort(truth.begin(), truth.end());
    for (ScanIsa isa : scan_isas()) {
      SCOPED_TRACE(std::string(scan_isa_name(isa)) + " " + std::to_string(dimension));
      index.force_isa(isa);
      ASSERT_EQ(index.isa(), isa);
      auto hits = index.search(query, 10);
      ASSERT_EQ(hits.size(), 10u);
      for (int i = 0; i < 10; ++i) EXPECT_NEAR(hits[i].score, -truth[i].first, 1e-5) << i;
      EXPECT_NEAR(-truth[0].first, index.scores(query, std::vector<int64_t>{hits[0].chunk})[0],
                  1e-5);
    }
    auto odd = index.search(query, 5, [](int64_t chunk) { return chunk % 2 == 1; });
    for (const VectorHit& h : odd) EXPECT_EQ(h.chunk % 2, 1);
  }
}

TEST(VectorIndex, AddReplaceRemoveCompact) {
  std::mt19937 random(6);
  VectorIndex index(32);
  std::map<int64_t, std::vector<uint16_t>> model;
  std::vector<float> query(32, 0.1f);
  for (int step = 0; step < 5000; ++step) {
    int64_t chunk = static_cast<int64_t>(random() % 400);
    if (random() % 3 == 0) {
      EXPECT_EQ(index.remove(chunk), model.erase(chunk) > 0);
    } else {
      model[chunk] = random_row(random, 32);
      index.add(chunk, model[chunk]);
    }
    ASSERT_EQ(index.size(), static_cast<int64_t>(model.size()));
    if (step % 500 == 499) {
      auto hits = index.search(query, 1000);
      ASSERT_EQ(hits.size(), model.size());
      for (const VectorHit& h : hits) {
        double sum = 0;
        for (uint16_t v : model[h.chunk]) sum += 0.1 * half::to_float(v);
        ASSERT_NEAR(h.score, sum, 1e-5);
      }
      const std::vector<int64_t> asked = {hits[0].chunk, 4000, hits[1].chunk};
      const std::vector<float> rows = index.vectors(asked);
      ASSERT_EQ(rows.size(), 3u * 32);
      for (size_t d = 0; d < 32; ++d) {
        ASSERT_EQ(rows[d], half::to_float(model[asked[0]][d]));
        ASSERT_EQ(rows[32 + d], 0) << "absent";
        ASSERT_EQ(rows[64 + d], half::to_float(model[asked[2]][d]));
      }
    }
  }
  EXPECT_LE(index.tombstones() * 5, index.size() + index.tombstones() + 5 * 65);
}

class IndexFileTest : public testing::Test {
 protected:
  IndexFileTest() : index(16) {
    std::mt19937 random(8);
    for (int i = 0; i < 300; ++i) index.add(i + 1, random_row(random, 16));
    file = home / "x.vec";
    index.save(file, key);
    good = read_file(file);
  }
  std::string why_not(const VectorIndex::Key& k, int dimension = 16) {
    std::string why;
    auto loaded = VectorIndex::load(file, k, dimension, &why);
    EXPECT_EQ(loaded.has_value(), why.empty());
    return why;
  }
  TempHome home;
  VectorIndex index;
  Path file;
  std::string good;
  VectorIndex::Key key{std::string(32, 'a'), "fake/1", 77};
};

TEST_F(IndexFileTest, OnlyTheExactFileIsUsed) {
  EXPECT_EQ(why_not(key), "");
  EXPECT_NE(why_not({std::string(32, 'b'), "fake/1", 77}), "");
  EXPECT_NE(why_not({key.collection_uuid, "fake/2", 77}), "");
  EXPECT_NE(why_not({key.collection_uuid, "fake/1", 78}), "");
  EXPECT_NE(why_not({key.collection_uuid, "fake/1", 76}), "");
  EXPECT_NE(why_not(key, 32), "");
  for (size_t cut = 0; cut < good.size(); cut += cut < 200 ? 1 : 997) {
    std::ofstream(file, std::ios::binary) << good.substr(0, cut);
    EXPECT_NE(why_not(key), "") << cut;
  }
  std::ofstream(file, std::ios::binary) << good << "x";
  EXPECT_NE(why_not(key), "");
  std::mt19937 random(9);
  for (int i = 0; i < 1000; ++i) {
    std::string bad = good;
    size_t at = i < 144 ? static_cast<size_t>(i) : random() % bad.size();
    bad[at] ^= static_cast<char>(1 << random() % 8);
    std::ofstream(file, std::ios::binary) << bad;
    EXPECT_NE(why_not(key), "") << at;
  }
  // A count of 2^59 rows in a small file costs nothing.
  std::string huge = good;
  huge[23] = 0x08;
  std::ofstream(file, std::ios::binary) << huge;
  EXPECT_NE(why_not(key), "");
}

TEST_F(StoreTest, RemovingADocumentTakesASmallIndexFileNotALargeOne) {
  fill();
  Store store;
  CollectionInfo info = store.collection("default");
  Path file = vector_index_path(info.uuid);
  std::vector<DocumentInfo> documents = store.documents(info.id);
  ASSERT_GE(documents.size(), 2u);
  {
    WriteLock lock(store);
    std::filesystem::resize_file(file, (16u << 20) + 1);  // its making anew would not be quick
    store.remove_documents(lock, std::span(&documents[0].id, 1));
    EXPECT_TRUE(std::filesystem::exists(file));
    std::filesystem::resize_file(file, 16u << 20);
    store.remove_documents(lock, std::span(&documents[1].id, 1));
    EXPECT_FALSE(std::filesystem::exists(file));
  }
  remake_vector_index(store, store.collection("default"));
  std::string note;
  open_vector_index(store, store.collection("default"), &note);
  EXPECT_EQ(note, "");
}

TEST_F(StoreTest, StaleOrLostIndexGivesTheSameAnswers) {
  fill();
  Store store;
  CollectionInfo info = store.collection("default");
  std::vector<float> query(64, 0.125f);
  std::string note;
  auto answers = open_vector_index(store, info, &note).search(query, 5);
  EXPECT_EQ(note, "");  // ingest left a good file
  Path file = vector_index_path(info.uuid);
  std::string good = read_file(file);
  std::filesystem::remove(file);
  auto same = [&](const std::vector<VectorHit>& hits) {
    ASSERT_EQ(hits.size(), answers.size());
    for (size_t i = 0; i < hits.size(); ++i) EXPECT_EQ(hits[i].chunk, answers[i].chunk);
  };
  same(open_vector_index(store, info, &note).search(query, 5));
  EXPECT_NE(note, "");
  overwrite(file, 400, "damage");
  same(open_vector_index(store, info, &note).search(query, 5));
  EXPECT_NE(note.find("damaged"), std::string::npos) << note;
  // An index of an earlier generation is brought up to date, never answered from as it is.
  home.write("docs/0.md", "# Other\n\nnow something else\n");
  Path root = home / "docs";
  ingest(store, embedder, std::span(&root, 1), {});
  auto fresh = open_vector_index(store, store.collection("default"), &note);
  std::ofstream(file, std::ios::binary) << good;
  CollectionInfo now = store.collection("default");
  note.clear();
  auto refreshed = open_vector_index(store, now, &note);
  EXPECT_EQ(note, "");
  EXPECT_EQ(refreshed.export_ids(), fresh.export_ids());
  EXPECT_NE(refreshed.export_ids(),
            VectorIndex::load(file, {info.uuid, info.embedder.fingerprint, info.generation}, 64)
                ->export_ids());
  // One whose rows are not what the store holds under those ids, and one from the future, are not.
  VectorIndex::Key key{now.uuid, now.embedder.fingerprint, now.generation - 1};
  VectorIndex foreign(64);
  std::mt19937 random(3);
  for (int64_t id : fresh.export_ids()) foreign.add(id, random_row(random, 64));
  foreign.save(file, key);
  EXPECT_EQ(open_vector_index(store, now, &note).search(query, 5)[0].chunk,
            fresh.search(query, 5)[0].chunk);
  EXPECT_NE(note.find("of other documents"), std::string::npos) << note;
  key.generation = now.generation + 1;
  foreign.save(file, key);
  open_vector_index(store, now, &note);
  EXPECT_NE(note.find("newer"), std::string::npos) << note;
}

/// Rows around 40 directions, as texts on 40 subjects.
std::vector<std::vector<uint16_t>> clustered(std::mt19937& random, int n, int dimension) {
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> subjects(40, std::vector<float>(dimension));
  for (auto& s : subjects)
    for (float& v : s) v = normal(random);
  std::vector<std::vector<uint16_t>> rows;
  for (int i = 0; i < n; ++i) {
    std::vector<float> row = subjects[random() % subjects.size()];
    double norm = 0;
    for (float& v : row) {
      v += 0.8f * normal(random);
      norm += double{v} * v;
    }
    for (float& v : row) v /= static_cast<float>(std::sqrt(norm));
    rows.push_back(half::from_floats(row));
  }
  return rows;
}

TEST(VectorIndex, PartitionedFindsWhatExactFindsAndStaysCurrent) {
  std::mt19937 random(11);
  const int dimension = 48, n = 6000;
  auto rows = clustered(random, n + 600, dimension);
  VectorIndex exact(dimension), index(dimension);
  for (int i = 0; i < n; ++i) {
    exact.add(i + 1, rows[i]);
    index.add(i + 1, rows[i]);
  }
  EXPECT_FALSE(index.wants_partition());
  index.partition(160);  // a search reads 20 of them
  EXPECT_EQ(index.lists(), 160);
  EXPECT_EQ(index.size(), n);
  EXPECT_EQ(index.export_ids(), exact.export_ids());
  auto recall = [&] {
    int found = 0, asked = 0;
    for (int q = 0; q < 100; ++q) {
      std::vector<float> query(dimension);
      for (int d = 0; d < dimension; ++d)
        query[d] = half::to_float(rows[q * 37 % n][d]) + half::to_float(rows[q * 91 % n][d]);
      std::set<int64_t> near;
      for (const VectorHit& h : index.search(query, 10)) near.insert(h.chunk);
      for (const VectorHit& h : exact.search(query, 10)) found += near.count(h.chunk);
      asked += 10;
    }
    return static_cast<double>(found) / asked;
  };
  EXPECT_GE(recall(), 0.97);
  // Rows that come and go later are found and not found.
  for (int i = 0; i < 600; ++i) {
    exact.add(n + i + 1, rows[n + i]);
    index.add(n + i + 1, rows[n + i]);
    EXPECT_TRUE(exact.remove(i * 7 + 1));
    EXPECT_TRUE(index.remove(i * 7 + 1));
  }
  EXPECT_EQ(index.export_ids(), exact.export_ids());
  EXPECT_GE(recall(), 0.97);
  // A filter is exact.
  std::vector<float> query(dimension, 0.1f);
  auto few = [](int64_t chunk) { return chunk % 500 == 3; };
  auto a = exact.search(query, 10, few), b = index.search(query, 10, few);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].chunk, b[i].chunk);
  // Saved and read back, it answers the same.
  TempHome home;
  VectorIndex::Key key{std::string(32, 'c'), "fake/1", 5};
  Path file = home / "p.vec";
  index.save(file, key);
  std::string why;
  auto loaded = VectorIndex::load(file, key, dimension, &why);
  ASSERT_TRUE(loaded) << why;
  EXPECT_EQ(loaded->lists(), 160);
  for (int q = 0; q < 20; ++q) {
    for (int d = 0; d < dimension; ++d) query[d] = half::to_float(rows[q * 53][d]);
    auto x = index.search(query, 10), y = loaded->search(query, 10);
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(x[i].chunk, y[i].chunk);
  }
  // Damage in sizes and centroids is noticed.
  std::string good = read_file(file);
  for (size_t at = 144; at < 144 + 160 * 8 + 160 * 48 * 4; at += 97) {
    std::string bad = good;
    bad[at] ^= 0x10;
    std::ofstream(file, std::ios::binary) << bad;
    EXPECT_FALSE(VectorIndex::load(file, key, dimension)) << at;
  }
}

}  // namespace
}  // namespace apud
