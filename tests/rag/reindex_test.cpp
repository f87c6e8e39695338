// A shadow beside the live collection: what queries see, what survives, what a kill leaves.
#include "rag/reindex.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "rag/index.h"
#include "rag/retriever.h"
#include "tests/support/fake_embedder.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

using test::FakeEmbedder;
using test::TempHome;

class ReindexTest : public testing::Test {
 protected:
  void SetUp() override {
    other.print = "fake/2";
    other.size = 96;
    small.target_tokens = 20;
    small.max_tokens = 24;
    small.overlap_tokens = 0;
    for (const char* name : {"apples", "bridges", "candles"}) {
      std::string text = std::string("# All about ") + name + "\n\n";
      for (int i = 0; i < 12; ++i)
        text += std::string("Fact ") + std::to_string(i) + " of " + name + " is number " +
                std::to_string(i * 17) + " in the list. ";
      home.write("docs/" + std::string(name) + ".md", text + "\n");
    }
    home.write("docs/copy.md", read_file(home / "docs/apples.md"));
    Path root = home / "docs";
    IngestOptions options;
    options.jobs = 1;
    ingest(store, embedder, std::span(&root, 1), options);
    live = store.collection("default");
  }
  Shadow build() {
    ReindexOptions options;
    options.chunking = small;
    options.jobs = 1;
    return build_shadow(store, other, "default", options);
  }
  std::vector<Hit> search(TextEmbedder& with, const std::string& query) {
    Retriever retriever(store, &with);
    std::vector<std::string> names = {"default"};
    return retriever.retrieve(query, names).hits;
  }
  std::string id_of(const std::string& name) {
    auto d = store.find_document(live.id, (home / ("docs/" + name)).string());
    return d ? std::to_string(d->id) + "/" + std::to_string(d->chunks > 0) : "none";
  }

  TempHome home;
  Store store;
  FakeEmbedder embedder, other;
  ChunkOptions small;
  CollectionInfo live;
};

TEST_F(ReindexTest, TheLiveOneAnswersUntilTheSwap) {
  Shadow shadow = build();
  EXPECT_TRUE(shadow.lost.empty());
  EXPECT_EQ(shadow.generation, live.generation);
  CollectionInfo same = store.collection("default");
  EXPECT_EQ(same.generation, live.generation);
  EXPECT_EQ(same.embedder.fingerprint, "fake/1");
  EXPECT_EQ(same.chunks, live.chunks);
  EXPECT_FALSE(search(embedder, "fact 3 of bridges").empty());

  int64_t apples = store.find_document(live.id, (home / "docs/apples.md").string())->id;
  std::map<std::string, std::string> ids;
  for (const char* name : {"apples.md", "bridges.md", "candles.md", "copy.md"})
    ids[name] = id_of(name);
  CollectionInfo built = store.collection(Store::shadow_name("default"));
  EXPECT_GT(built.chunks, live.chunks);
  {
    WriteLock lock(store);
    store.set_pinned(lock, {&apples, 1}, true);
    store.adopt_shadow(lock, "default", shadow.generation);
  }
  EXPECT_EQ(store.check(), std::vector<std::string>());
  CollectionInfo now = store.collection("default");
  EXPECT_EQ(now.id, live.id);
  EXPECT_EQ(now.uuid, live.uuid);
  EXPECT_EQ(now.roots, live.roots);
  EXPECT_NE(now.generation, live.generation);
  EXPECT_EQ(now.embedder.fingerprint, "fake/2");
  EXPECT_EQ(now.embedder.dimension, 96);
  EXPECT_EQ(now.chunker, chunker_settings(small));
  EXPECT_EQ(now.chunks, built.chunks);
  EXPECT_EQ(store.collections().size(), 1u);
  EXPECT_EQ(store.pinned(live.id), std::vector<int64_t>{apples});
  for (const auto& [name, id] : ids) EXPECT_EQ(id_of(name), id) << name;
  // Duplicates name the document of this collection that stands for them.
  auto copy = store.find_document(live.id, (home / "docs/copy.md").string());
  auto original = store.document(copy->duplicate_of);
  ASSERT_TRUE(original);
  EXPECT_EQ(original->collection, live.id);

  std::vector<Hit> hits = search(other, "fact 3 of bridges");
  ASSERT_FALSE(hits.empty());
  EXPECT_EQ(Path(hits[0].path).filename(), "bridges.md");
  EXPECT_LE(hits[0].tokens, 24);
  EXPECT_FALSE(store.keyword_search(live.id, "bridges", 10).empty());
  EXPECT_TRUE(store.vector_keys("fake/1", false).empty());  // nothing uses them any more
  EXPECT_THROW(search(embedder, "bridges"), Error);

  // The next ingest goes on with it: nothing is read or embedded anew.
  int embedded = other.embedded;
  Path root = home / "docs";
  IngestReport again = ingest(store, other, std::span(&root, 1), {});
  EXPECT_EQ(again.count(FileOutcome::kUnchanged), 4);
  EXPECT_EQ(other.embedded, embedded);
}

TEST_F(ReindexTest, AReaderWithOpenIndexesFindsItsWay) {
  other.print = embedder.print;  // the same embedder, other chunks: the index is brought up to date
  other.size = embedder.size;
  Store reading(store.path(), Store::Mode::kReadOnly);
  Retriever retriever(reading, &embedder);
  std::vector<std::string> names = {"default"};
  size_t before = retriever.retrieve("fact 3 of bridges", names).hits.size();
  EXPECT_GT(before, 0u);
  Shadow shadow = build();
  {
    ReadSnapshot snapshot(reading);
    int64_t generation = reading.generation(live.id);
    WriteLock lock(store);
    store.adopt_shadow(lock, "default", shadow.generation);
    // What began before the swap ends in the generation it began in.
    EXPECT_EQ(reading.generation(live.id), generation);
    EXPECT_EQ(reading.chunk_count(live.id), live.chunks);
  }
  auto hits = retriever.retrieve("fact 3 of bridges", names).hits;
  ASSERT_FALSE(hits.empty());
  EXPECT_LE(hits[0].tokens, 24);
  EXPECT_EQ(Path(hits[0].path).filename(), "bridges.md");
}

TEST_F(ReindexTest, GoesOnWhereItWasStopped) {
  other.fail_after = 9;
  EXPECT_THROW(build(), Error);
  EXPECT_EQ(store.collection("default").embedder.fingerprint, "fake/1");
  EXPECT_FALSE(search(embedder, "fact 3 of bridges").empty());
  other.fail_after = -1;
  Shadow shadow = build();
  EXPECT_TRUE(shadow.lost.empty());
  int done = other.embedded;
  shadow = build();
  EXPECT_EQ(shadow.report.count(FileOutcome::kUnchanged), 4);
  EXPECT_EQ(other.embedded, done);
  // Other settings: made anew.
  small.max_tokens = 40;
  build();
  EXPECT_EQ(store.collection(Store::shadow_name("default")).chunker, chunker_settings(small));
}

TEST_F(ReindexTest, ChangesMeanwhileAreNoticed) {
  Shadow shadow = build();
  home.write("docs/dynamos.md", "# Dynamos\n\nThey hum at night.\n");
  Path root = home / "docs";
  ingest(store, embedder, std::span(&root, 1), {});
  {
    WriteLock lock(store);
    try {
      store.adopt_shadow(lock, "default", shadow.generation);
      ADD_FAILURE() << "adopted";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kBusy);
    }
  }
  EXPECT_EQ(store.collection("default").embedder.fingerprint, "fake/1");
  std::filesystem::remove(home / "docs/candles.md");
  IngestOptions pruning;
  pruning.prune = true;
  ingest(store, embedder, std::span(&root, 1), pruning);
  // What is removed from the collection is removed from its shadow at once.
  int64_t built = store.collection(Store::shadow_name("default")).id;
  EXPECT_FALSE(store.find_document(built, (home / "docs/candles.md").string()));
  shadow = build();
  {
    WriteLock lock(store);
    store.adopt_shadow(lock, "default", shadow.generation);
  }
  EXPECT_EQ(store.check(), std::vector<std::string>());
  std::vector<Hit> hits = search(other, "dynamos hum at night");
  ASSERT_FALSE(hits.empty());
  EXPECT_EQ(Path(hits[0].path).filename(), "dynamos.md");
}

TEST_F(ReindexTest, LosesNoDocumentUnsaid) {
  // Gone from the disk, still found: refused before anything is built.
  std::filesystem::rename(home / "docs/candles.md", home / "candles.md");
  try {
    build();
    ADD_FAILURE() << "built";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kNoInput);
    EXPECT_NE(std::string(e.what()).find("candles.md"), std::string::npos);
  }
  EXPECT_FALSE(store.find_collection(Store::shadow_name("default")));
  // There, but nothing that can be read.
  home.write("docs/candles.md", std::string("\0\1\2binary\0\xff", 11));
  Shadow shadow = build();
  ASSERT_EQ(shadow.lost.size(), 1u);
  EXPECT_NE(shadow.lost[0].find("candles.md ("), std::string::npos);
  // Vanished documents are no longer found; they are read anew when they come back.
  std::filesystem::remove(home / "docs/candles.md");
  Path root = home / "docs";
  ingest(store, embedder, std::span(&root, 1), {});
  shadow = build();
  EXPECT_TRUE(shadow.lost.empty());
  {
    WriteLock lock(store);
    store.adopt_shadow(lock, "default", shadow.generation);
  }
  EXPECT_EQ(store.check(), std::vector<std::string>());
  std::filesystem::rename(home / "candles.md", home / "docs/candles.md");
  ingest(store, other, std::span(&root, 1), {});
  std::vector<Hit> hits = search(other, "fact 3 of candles");
  ASSERT_FALSE(hits.empty());
  EXPECT_EQ(Path(hits[0].path).filename(), "candles.md");
}

TEST_F(ReindexTest, GoesWithItsCollection) {
  build();
  {
    WriteLock lock(store);
    store.rename_collection(lock, "default", "papers");
  }
  EXPECT_TRUE(store.find_collection(Store::shadow_name("papers")));
  EXPECT_FALSE(store.find_collection(Store::shadow_name("default")));
  {
    WriteLock lock(store);
    store.remove_collection(lock, "papers");
  }
  EXPECT_TRUE(store.collections().empty());
}

}  // namespace
}  // namespace apud
