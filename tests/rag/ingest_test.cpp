#include "rag/ingest.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <future>
#include <map>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/utf8.h"
#include "rag/index.h"
#include "rag/reindex.h"
#include "rag/relevance.h"
#include "rag/retriever.h"
#include "rag/store/sqlite.h"
#include "tests/support/fake_embedder.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

using test::FakeEmbedder;
using test::TempHome;

class IngestTest : public testing::Test {
 protected:
  IngestReport run(IngestOptions options = {}) {
    options.jobs = 2;
    events.clear();
    Path root = home / "docs";
    return ingest(store, embedder, std::span(&root, 1), options, [&](const IngestProgress& p) {
      if (p.event) events[p.event->path.substr(root.string().size() + 1)] = *p.event;
    });
  }
  FileOutcome outcome(const std::string& name) {
    EXPECT_TRUE(events.count(name)) << name;
    return events[name].outcome;
  }
  std::vector<Hit> search(const std::string& query, SearchMode mode = SearchMode::kHybrid) {
    Retriever retriever(store, &embedder);
    RetrieveOptions options;
    options.mode = mode;
    std::vector<std::string> names = {"default"};
    return retriever.retrieve(query, names, options).hits;
  }
  std::string top(const std::string& query, SearchMode mode = SearchMode::kHybrid) {
    auto hits = search(query, mode);
    return hits.empty() ? "" : Path(hits[0].path).filename().string();
  }

  TempHome home;
  Store store;
  FakeEmbedder embedder;
  std::map<std::string, FileEvent> events;
};

TEST_F(IngestTest, IngestedTextIsFoundByBothSides) {
  home.write("docs/a.md", "# Apples\n\nThe orchard grows russet apples on north slopes.\n");
  home.write("docs/b.txt", "Bicycle chains need oil every hundred miles.\n");
  home.write("docs/c.txt", "北京的秋天很短。香山的红叶在十月下旬最好看。\n");
  IngestReport report = run();
  EXPECT_EQ(report.count(FileOutcome::kIndexed), 3);
  EXPECT_EQ(report.files, 3);
  EXPECT_GE(report.chunks, 3);
  EXPECT_FALSE(report.all_skipped);
  for (SearchMode mode : {SearchMode::kHybrid, SearchMode::kDense, SearchMode::kBm25}) {
    SCOPED_TRACE(search_mode_name(mode));
    EXPECT_EQ(top("russet apples", mode), "a.md");
    EXPECT_EQ(top("oil the bicycle", mode), "b.txt");
    EXPECT_EQ(top("香山红叶什么时候最好看", mode), "c.txt");
  }
  auto hits = search("russet apples");
  EXPECT_EQ(hits[0].heading, "Apples");
  EXPECT_EQ(hits[0].from.line, 3);
  EXPECT_EQ(hits[0].text, "The orchard grows russet apples on north slopes.");
  // Each side counts from 0 to 1 over what it found: best on both is 1.
  EXPECT_NEAR(hits[0].score, 1, 1e-6);
  for (const Hit& hit : hits) {
    EXPECT_GE(hit.score, 0);
    EXPECT_LE(hit.score, 1);
  }
  EXPECT_TRUE(store.check().empty());
}

TEST_F(IngestTest, RerunCostsAStatAndChangesReplace) {
  home.write("docs/a.txt", "alpha beta gamma\n");
  home.write("docs/b.txt", "delta epsilon zeta\n");
  run();
  int before = embedder.embedded;
  int64_t generation = store.collection("default").generation;
  IngestReport again = run();
  EXPECT_EQ(again.count(FileOutcome::kUnchanged), 2);
  EXPECT_EQ(embedder.embedded, before);
  EXPECT_EQ(store.collection("default").generation, generation);

  // Another time stamp, the same bytes: nothing is embedded or replaced.
  std::filesystem::last_write_time(
      home / "docs/a.txt", std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  run();
  EXPECT_EQ(outcome("a.txt"), FileOutcome::kUnchanged);
  EXPECT_EQ(embedder.embedded, before);

  // Size and time as known: the file is not read, so that other bytes are not seen.
  auto time = std::filesystem::last_write_time(home / "docs/b.txt");
  home.write("docs/b.txt", "DELTA EPSILON ZETA\n");
  std::filesystem::last_write_time(home / "docs/b.txt", time);
  run();
  EXPECT_EQ(outcome("b.txt"), FileOutcome::kUnchanged);
  EXPECT_EQ(embedder.embedded, before);

  home.write("docs/a.txt", "omega sigma\n");
  run();
  EXPECT_EQ(outcome("a.txt"), FileOutcome::kReplaced);
  EXPECT_EQ(outcome("b.txt"), FileOutcome::kUnchanged);
  EXPECT_EQ(embedder.embedded, before + 1);
  EXPECT_EQ(top("omega sigma"), "a.txt");
  EXPECT_TRUE(search("alpha beta gamma", SearchMode::kBm25).empty());
  EXPECT_EQ(store.collection("default").documents, 2);
  EXPECT_TRUE(store.check().empty());
}

// After an update of apud: the files are the same, what is taken from them is not.
TEST_F(IngestTest, WhatAnEarlierLoaderMadeIsReadAgain) {
  home.write("docs/a.csv", "Vessel,Built\nHeron,1998\n");
  home.write("docs/b.txt", "one two\n");
  run();
  {
    sqlite::Database db(store.path(), sqlite::Database::Open::kReadWrite);
    db.exec("UPDATE documents SET loader = 'csv/1' WHERE loader LIKE 'csv/%'");
  }
  run();
  EXPECT_EQ(outcome("a.csv"), FileOutcome::kReplaced);
  EXPECT_EQ(events["a.csv"].reason.rfind("the same file, read anew by csv/", 0), 0u);
  EXPECT_EQ(outcome("b.txt"), FileOutcome::kUnchanged);
  run();
  EXPECT_EQ(outcome("a.csv"), FileOutcome::kUnchanged);
}

TEST_F(IngestTest, MovedFilesKeepTheirVectorsAndDuplicatesAreIndexedOnce) {
  home.write("docs/old/a.txt", "the lighthouse keeper counts ships\n");
  home.write("docs/b.txt", "something else entirely here\n");
  home.write("docs/c.txt", "third words\n");
  run();
  int before = embedder.embedded;
  std::filesystem::create_directories(home / "docs/new");
  std::filesystem::rename(home / "docs/old/a.txt", home / "docs/new/lighthouse.txt");
  home.write("docs/copy.txt", "something else entirely here\n");
  run();
  EXPECT_EQ(outcome("new/lighthouse.txt"), FileOutcome::kMoved);
  EXPECT_EQ(outcome("copy.txt"), FileOutcome::kDuplicate);
  EXPECT_EQ(events["copy.txt"].reason, "duplicate of " + (home / "docs/b.txt").string());
  EXPECT_EQ(embedder.embedded, before);
  EXPECT_EQ(top("lighthouse keeper"), "lighthouse.txt");
  EXPECT_EQ(search("something else entirely", SearchMode::kBm25).size(), 1u);

  // The original goes: the copy takes its place, still without a second embedding of the text.
  std::filesystem::remove(home / "docs/b.txt");
  run();
  EXPECT_EQ(outcome("copy.txt"), FileOutcome::kIndexed);
  EXPECT_EQ(outcome("b.txt"), FileOutcome::kVanished);
  EXPECT_EQ(top("something else entirely"), "copy.txt");
  EXPECT_EQ(search("something else entirely", SearchMode::kBm25).size(), 1u);
  EXPECT_EQ(embedder.embedded, before);
  EXPECT_TRUE(store.check().empty());
}

// `mv docs papers`: the documents are at their new places, not copies of ones that are gone.
TEST_F(IngestTest, ARenamedRootMovesItsDocuments) {
  home.write("docs/a.txt", "alpha beta gamma\n");
  home.write("docs/b.txt", "delta epsilon zeta\n");
  run();
  int before = embedder.embedded;
  std::filesystem::rename(home / "docs", home / "papers");
  Path root = home / "papers";
  IngestReport report = ingest(store, embedder, std::span(&root, 1), {}, {});
  EXPECT_EQ(report.count(FileOutcome::kMoved), 2);
  EXPECT_EQ(embedder.embedded, before);
  EXPECT_EQ(search("alpha beta gamma").at(0).path, (root / "a.txt").string());
  EXPECT_EQ(store.collection("default").documents, 2);
  EXPECT_TRUE(store.check().empty());
}

TEST_F(IngestTest, VanishedAreNotRetrievedKeptAndPruned) {
  home.write("docs/a.txt", "walrus ivory carving\n");
  home.write("docs/b.txt", "penguin colony census\n");
  home.write("docs/c.txt", "albatross flight range\n");
  run();
  std::filesystem::rename(home / "docs/a.txt", home / "kept-a.txt");
  run();
  EXPECT_EQ(outcome("a.txt"), FileOutcome::kVanished);
  EXPECT_TRUE(search("walrus ivory", SearchMode::kBm25).empty());
  for (const Hit& h : search("walrus ivory")) EXPECT_NE(Path(h.path).filename(), "a.txt");
  EXPECT_EQ(store.collection("default").vanished, 1);
  EXPECT_TRUE(store.check().empty());

  int before = embedder.embedded;
  std::filesystem::rename(home / "kept-a.txt", home / "docs/a.txt");
  run();
  EXPECT_EQ(top("walrus ivory"), "a.txt");
  EXPECT_EQ(embedder.embedded, before);

  std::filesystem::remove(home / "docs/a.txt");
  IngestOptions prune;
  prune.prune = true;
  run(prune);
  EXPECT_EQ(outcome("a.txt"), FileOutcome::kPruned);
  EXPECT_EQ(store.documents(store.collection("default").id).size(), 2u);
  EXPECT_TRUE(store.check().empty());
}

TEST_F(IngestTest, MoreThanHalfGoneChangesNothing) {
  for (int i = 0; i < 5; ++i)
    home.write("docs/" + std::to_string(i) + ".txt", "text number " + std::to_string(i));
  run();
  int64_t generation = store.collection("default").generation;
  for (int i = 0; i < 3; ++i)
    std::filesystem::remove(home / ("docs/" + std::to_string(i) + ".txt"));
  home.write("docs/new.txt", "a new one");
  try {
    run();
    FAIL() << "must refuse";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kNoInput);
    EXPECT_NE(std::string(e.what()).find("3 of 5"), std::string::npos) << e.what();
  }
  EXPECT_EQ(store.collection("default").generation, generation);
  EXPECT_EQ(store.collection("default").documents, 5);
  // Renaming them all is no vanishing.
  for (int i = 0; i < 3; ++i)
    home.write("docs/sub/" + std::to_string(i) + ".txt", "text number " + std::to_string(i));
  run();
  EXPECT_EQ(outcome("sub/0.txt"), FileOutcome::kMoved);

  std::filesystem::remove_all(home / "docs");
  EXPECT_THROW(run(), Error);
  EXPECT_EQ(store.collection("default").documents, 6);
}

TEST_F(IngestTest, AnotherEmbedderIsRefusedWithAdvice) {
  home.write("docs/a.txt", "one two three\n");
  run();
  embedder.print = "other/1";
  try {
    run();
    FAIL() << "must refuse";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    EXPECT_FALSE(e.advice().empty());
  }
  Retriever retriever(store, &embedder);
  std::vector<std::string> names = {"default"};
  EXPECT_THROW(retriever.retrieve("one", names), Error);
  RetrieveOptions words;
  words.mode = SearchMode::kBm25;
  EXPECT_EQ(retriever.retrieve("one", names, words).hits.size(), 1u);
}

TEST_F(IngestTest, AFailingEmbedderLosesOnlyWhatWasNotWritten) {
  for (int i = 0; i < 300; ++i) {
    home.write("docs/" + std::to_string(1000 + i) + ".txt",
               "file about subject number" + std::to_string(i) + "\n");
  }
  embedder.fail_after = 200;
  EXPECT_THROW(run(), Error);
  auto half = store.find_collection("default");
  ASSERT_TRUE(half);
  EXPECT_GT(half->documents, 0);
  EXPECT_LT(half->documents, 300);
  EXPECT_TRUE(store.check().empty());
  embedder.fail_after = -1;
  IngestReport rest = run();
  EXPECT_EQ(rest.count(FileOutcome::kUnchanged), half->documents);
  EXPECT_EQ(store.collection("default").documents, 300);
  EXPECT_EQ(store.collection("default").chunks, 300);
  EXPECT_TRUE(store.check().empty());
}

TEST_F(IngestTest, CancelKeepsWhatIsDoneAndARerunCompletes) {
  for (int i = 0; i < 400; ++i) {
    home.write("docs/" + std::to_string(1000 + i) + ".txt",
               "file about subject number" + std::to_string(i) + "\n");
  }
  CancelFlag cancel;
  Path root = home / "docs";
  IngestReport first = ingest(
      store, embedder, std::span(&root, 1), {},
      [&](const IngestProgress& p) {
        if (p.files_done == 50) cancel.raise();
      },
      &cancel);
  EXPECT_TRUE(first.cancelled);
  int64_t have = store.collection("default").documents;
  EXPECT_GE(have, 50);
  EXPECT_LT(have, 400);
  IngestReport second = run();
  EXPECT_EQ(second.count(FileOutcome::kUnchanged), have);
  EXPECT_EQ(store.collection("default").documents, 400);
  EXPECT_TRUE(store.check().empty());
}

/// Raises the flag in its first call, long enough after it that the parsers are far ahead.
struct CancellingEmbedder : FakeEmbedder {
  CancelFlag* flag = nullptr;
  void embed(std::span<const std::string> texts, EmbedKind kind, std::span<float> out) override {
    if (!flag->raised()) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    flag->raise();
    FakeEmbedder::embed(texts, kind, out);
  }
};

// Parsers wait for a place behind what is embedded: a cancel between two of its calls wakes them.
TEST_F(IngestTest, CancelEndsParsersThatWait) {
  for (int i = 0; i < 200; ++i)
    home.write("docs/" + std::to_string(1000 + i) + ".txt", "text " + std::to_string(i) + "\n");
  CancelFlag cancel;
  CancellingEmbedder slow;
  slow.flag = &cancel;
  Path root = home / "docs";
  IngestOptions options;
  options.jobs = 2;
  auto report = std::async(std::launch::async, [&] {
    return ingest(store, slow, std::span(&root, 1), options, {}, &cancel);
  });
  if (report.wait_for(std::chrono::seconds(60)) != std::future_status::ready) std::abort();
  EXPECT_TRUE(report.get().cancelled);
}

TEST_F(IngestTest, SameTextIsEmbeddedOnce) {
  home.write("docs/a.md", "# Part\n\nShared paragraph stands here.\n\n# Own\n\nOnly in a.\n");
  home.write("docs/b.md", "# Part\n\nShared paragraph stands here.\n\n# Other\n\nOnly in b.\n");
  run();
  EXPECT_EQ(embedder.repeated, 0);
  EXPECT_EQ(embedder.embedded, 3);
  EXPECT_EQ(store.collection("default").chunks, 4);
  // Replacing one document must not take the shared vector from the other.
  home.write("docs/a.md", "# Part\n\nChanged.\n");
  run();
  EXPECT_EQ(top("shared paragraph stands"), "b.md");
  EXPECT_TRUE(store.check().empty());
}

TEST_F(IngestTest, CalibrationComesFromTheCollectionsOwnHeadings) {
  // 40 sections whose headings share words with their text; foreign questions share none.
  const std::vector<std::string> words = {"amber",  "basalt", "cedar",  "dahlia", "ember",
                                          "fjord",  "garnet", "heron",  "indigo", "jasper",
                                          "kelp",   "larch",  "marble", "nectar", "onyx",
                                          "pewter", "quartz", "russet", "sable",  "topaz"};
  std::string text;
  for (int i = 0; i < 40; ++i) {
    const std::string& a = words[i % 20];
    const std::string& b = words[(i * 7 + 3) % 20];
    text += "# " + a + " " + b + std::to_string(i) + "\n\nHere " + a + " meets " + b +
            std::to_string(i) + " and stays with " + words[(i + 5) % 20] + ".\n\n";
  }
  home.write("docs/a.md", text);
  run();
  CollectionInfo info = store.collection("default");
  EXPECT_EQ(info.calibration.queries, 40);
  EXPECT_GT(info.calibration.abstain_line, 0.1);
  EXPECT_LT(info.calibration.abstain_line, 0.95);
  EXPECT_GE(info.calibration.dense_weight, 0);
  EXPECT_LE(info.calibration.dense_weight, 1);
  EXPECT_EQ(info.calibration.chunks, info.chunks);
  Retriever retriever(store, &embedder);
  std::vector<std::string> names = {"default"};
  EXPECT_FALSE(retriever.retrieve("where does amber meet dahlia0", names).below_line);
  Retrieval foreign = retriever.retrieve("parliament budget election committee", names);
  EXPECT_TRUE(foreign.below_line) << foreign.relevance << " " << foreign.abstain_line;
  EXPECT_FALSE(foreign.hits.empty());
  // A small change does not measure again; a collection with few headings has no line.
  int before = embedder.embedded;
  home.write("docs/b.md", "# One more\n\nShort words.\n");
  run();
  EXPECT_EQ(embedder.embedded, before + 1);
}

TEST_F(IngestTest, WordsTellAForeignQuestionWhereTheCosineDoesNot) {
  std::string text;
  for (int i = 0; i < 40; ++i) {
    std::string number = std::to_string(i);
    text += "# alder" + number + " birch" + number + "\n\nHere alder" + number +
            " stands with birch" + number + " and cedar" + number + ".\n\n";
  }
  home.write("docs/a.md", text);
  run();
  // The same cosine with the same chunk: what the question's rare words are in counts.
  int64_t collection = store.collection("default").id;
  auto near = [&](const std::string& question) {
    return relevance(store, IdfOverlap(store, collection, question), 0.85, "alder7 birch7",
                     "Here alder7 stands with birch7 and cedar7.");
  };
  EXPECT_NEAR(near("what stands with alder7 and cedar7"), 0.85 + kOverlapWeight, 1e-6);
  EXPECT_NEAR(near("parliament budget election committee"), 0.85, 1e-6);
  // A common word says little beside one that is nowhere.
  double half = near("the parliament stands");
  EXPECT_GT(half, 0.85);
  EXPECT_LT(half, 0.85 + 0.05);
}

TEST_F(IngestTest, AFewFilesWithoutHeadingsHaveALineToo) {
  home.write("docs/a.txt", "The red fox jumps over the fence behind the mill.");
  home.write("docs/b.txt", "The miller sells flour on Fridays.");
  run();
  EXPECT_GT(store.collection("default").calibration.queries, 0);
  Retriever retriever(store, &embedder);
  std::vector<std::string> names = {"default"};
  EXPECT_FALSE(retriever.retrieve("when does the miller sell flour", names).below_line);
  EXPECT_TRUE(retriever.retrieve("parliament budget election committee", names).below_line);
}

TEST_F(IngestTest, TheAbstainLineIsNoHigherThanForeignQuestionsNeed) {
  // Sections that say their heading again: these questions score near 1, people's would not.
  embedder.size = 2048;
  auto sections = [](const std::string& tree) {
    std::string text;
    for (int i = 0; i < 30; ++i) {
      std::string words = tree + std::to_string(i) + " birch" + std::to_string(i);
      text += "# " + words + "\n\n" + words + ".\n\n";
    }
    return text;
  };
  home.write("docs/a.md", sections("alder"));
  run();
  const double line = store.collection("default").calibration.abstain_line;
  EXPECT_LT(line, 0.6);
  // Questions that the collection answers are not foreign to it: they do not lift the line.
  home.write("docs/egg.txt", "How long should I boil an egg?");
  home.write("docs/carpet.txt", "How do I get red wine out of a carpet?");
  home.write("docs/b.md", sections("elm"));
  run();
  EXPECT_LT(store.collection("default").calibration.abstain_line, line + 0.05);
}

TEST_F(IngestTest, SearchSyntaxFilters) {
  home.write("docs/x/a.md", "# A\n\nThe red fox jumps over fences.\n");
  home.write("docs/x/b.md", "# B\n\nA fox that is red and jumps over no fences.\n");
  home.write("docs/y/c.md", "# C\n\nThe red fox sleeps.\n");
  run();
  Retriever retriever(store, &embedder);
  std::vector<std::string> names = {"default"};
  RetrieveOptions options;
  options.query_syntax = true;
  auto found = [&](const std::string& query) {
    std::string all;
    for (const Hit& h : retriever.retrieve(query, names, options).hits)
      all += Path(h.path).filename().string() + " ";
    std::vector<std::string> parts;
    for (const char* n : {"a.md", "b.md", "c.md"}) {
      if (all.find(n) != std::string::npos) parts.push_back(n);
    }
    return parts;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(found("fox"), (Names{"a.md", "b.md", "c.md"}));
  EXPECT_EQ(found("\"red fox\""), (Names{"a.md", "c.md"}));
  EXPECT_EQ(found("\"red fox\" -sleeps"), (Names{"a.md"}));
  EXPECT_EQ(found("fox path:x/*.md"), (Names{"a.md", "b.md"}));
  EXPECT_EQ(found("fox path:y/**"), (Names{"c.md"}));
  EXPECT_EQ(found("fox after:2200-01-01"), Names{});
  EXPECT_EQ(found("fox before:2200-01-01").size(), 3u);
  EXPECT_THROW(found("\"open"), Error);
  EXPECT_THROW(found("fox after:yesterday"), Error);
  EXPECT_THROW(found("  "), Error);
}

TEST_F(IngestTest, FollowUpsSearchTheLastTwoTurns) {
  home.write("docs/a.md", "# Zebra\n\nThe zebra weighs three hundred kilograms.\n");
  home.write("docs/b.md", "# Piano\n\nThe piano weighs five hundred kilograms.\n");
  run();
  Retriever retriever(store, &embedder);
  std::vector<std::string> names = {"default"};
  RetrieveOptions options;
  options.previous_question = "tell me about the zebra";
  Retrieval follow = retriever.retrieve("how much does it weigh in kilograms", names, options);
  EXPECT_EQ(Path(follow.hits.at(0).path).filename(), "a.md");
  EXPECT_EQ(follow.joined_query, "tell me about the zebra\nhow much does it weigh in kilograms");
}

/// Every term is a token, its vector drawn from its hash.
struct TokenEmbedder : FakeEmbedder {
  int token_width() const override { return 100; }
  void embed_parts(std::span<const std::vector<std::string>> texts, EmbedKind kind,
                   std::span<float> out, const TokenRowsOf& each) override {
    for (size_t i = 0; i < texts.size(); ++i) {
      std::string whole;
      std::vector<float> rows;
      std::vector<int> parts;
      for (const std::string& part : texts[i]) {
        whole += (whole.empty() ? "" : "\n") + part;
        parts.push_back(0);
        for (const std::string& term : terms_of(part)) {
          std::mt19937_64 random(xxh3_64(term));
          std::normal_distribution<float> normal(0, 0.1f);
          for (int d = 0; d < token_width(); ++d) rows.push_back(normal(random));
          ++parts.back();
        }
      }
      embed(std::span(&whole, 1), kind, out.subspan(i * static_cast<size_t>(size), size));
      each(i, rows, parts);
    }
  }
};

class TokenIngestTest : public IngestTest {
 protected:
  IngestReport take_in(TextEmbedder& with) {
    Path root = home / "docs";
    return ingest(store, with, std::span(&root, 1), {});
  }
  Retrieval ask(TextEmbedder& with, const std::string& question, RetrieveOptions options = {}) {
    Retriever retriever(store, &with);
    std::vector<std::string> names = {"default"};
    return retriever.retrieve(question, names, options);
  }
  TokenEmbedder tokens;
};

// Candidates are ordered by their tokens, too, and their sentences come with matches; what decides
// whether there is evidence is as without.
TEST_F(TokenIngestTest, TheBestCandidatesAreOrderedByTheirTokens) {
  home.write("docs/a.md", "# Pump\n\nThe pump hums. It is red. The lever is red.\n");
  home.write("docs/b.md", "# Valve\n\nIt has a spring. The lever opens the pump valve by hand.\n");
  home.write("docs/c.md", "# Pump\n\nThe pump, the pump, the pump, the lever, the lever.\n");
  take_in(tokens);
  const std::string question = "lever opens the pump valve";
  RetrieveOptions options;
  options.dense_weight = 0;  // three chunks' dense scores would decide alone
  options.reorder = false;
  Retrieval plain = ask(tokens, question, options);
  EXPECT_FALSE(plain.hits.at(0).match);
  EXPECT_TRUE(plain.hits.at(0).sentences.empty());
  options.reorder = true;
  Retrieval found = ask(tokens, question, options);
  const Hit& first = found.hits.at(0);
  EXPECT_EQ(Path(first.path).filename(), "b.md");
  EXPECT_EQ(first.rank, 1);
  ASSERT_TRUE(first.match);
  EXPECT_GT(*first.match, 0.6f) << "all of its tokens are there; signs alone reach .8";
  ASSERT_EQ(first.sentences.size(), 2u);
  EXPECT_GT(first.sentences[1].match, first.sentences[0].match + 0.3f);
  EXPECT_EQ(first.source->text.substr(first.sentences[1].begin,
                                      first.sentences[1].end - first.sentences[1].begin),
            "The lever opens the pump valve by hand.");
  for (size_t i = 1; i < found.hits.size(); ++i) {
    EXPECT_LE(found.hits[i].score, found.hits[i - 1].score);
    EXPECT_LT(*found.hits[i].match, *first.match);
  }
  EXPECT_EQ(found.relevance, plain.relevance);
  EXPECT_TRUE(found.warnings.empty());
  options.k = 1;  // chosen from more than are wanted
  EXPECT_EQ(Path(ask(tokens, question, options).hits.at(0).path).filename(), "b.md");
  options.mode = SearchMode::kDense;
  EXPECT_FALSE(ask(tokens, question, options).hits.at(0).match);
}

TEST_F(TokenIngestTest, CodesAreKeptByPart) {
  home.write("docs/a.md", "Alpha beta gamma.\n");
  home.write("docs/b.md", "Delta epsilon zeta.\n");
  take_in(tokens);
  CollectionInfo info = store.collection("default");
  std::vector<int64_t> chunks = store.retrievable_chunks(info.id);
  ASSERT_EQ(chunks.size(), 2u);
  std::vector<std::string> codes = store.token_codes(chunks);
  for (const std::string& packed : codes)
    EXPECT_EQ(packed.size(), 2u + 2 * 2 + 3 * 16) << "no heading, one sentence, three tokens";
  EXPECT_EQ(store.token_centers(tokens.fingerprint()).size(), 200u);
}

TEST_F(TokenIngestTest, CentresOfAnotherWidthAreDamage) {
  home.write("docs/a.md", "Alpha beta gamma.\n");
  take_in(tokens);
  {
    WriteLock lock(store);
    store.set_token_centers(lock, tokens.fingerprint(), std::vector<float>(7, 0.5f));
  }
  home.write("docs/b.md", "Delta epsilon zeta.\n");
  for (bool asks : {true, false}) {
    try {
      asks ? (void)ask(tokens, "alpha beta") : (void)take_in(tokens);
      FAIL() << "taken for centres";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadData);
      EXPECT_NE(std::string(error.what()).find("7 numbers, not 200"), std::string::npos);
    }
  }
}

// Codes go with what they were made of, and a collection without them says so until it is made
// anew.
TEST_F(TokenIngestTest, CodesGoWithTheirTextAndComeWithReindexing) {
  home.write("docs/a.md", "Alpha beta gamma.\n");
  home.write("docs/b.md", "Delta epsilon zeta.\n");
  take_in(embedder);  // of the same fingerprint, without tokens: as a store of before
  CollectionInfo info = store.collection("default");
  auto coded = [&] {
    int n = 0;
    for (const std::string& packed : store.token_codes(store.retrievable_chunks(info.id)))
      n += !packed.empty();
    return n;
  };
  EXPECT_EQ(coded(), 0);
  Retrieval before = ask(tokens, "alpha beta");
  ASSERT_EQ(before.warnings.size(), 1u);
  EXPECT_NE(before.warnings[0].find("apud coll reindex default"), std::string::npos);
  EXPECT_FALSE(before.hits.at(0).match);
  home.write("docs/b.md", "Delta epsilon zeta, eta.\n");
  take_in(tokens);  // one changed: embedded with its codes, the other left as it is
  EXPECT_EQ(coded(), 1);
  EXPECT_TRUE(ask(tokens, "alpha beta").warnings.empty());
  Shadow shadow = build_shadow(store, tokens, "default", {});
  {
    WriteLock lock(store);
    store.adopt_shadow(lock, "default", shadow.generation);
  }
  EXPECT_EQ(coded(), 2);
  EXPECT_EQ(store.vector_keys("fake/1", true).size(), 2u);
  std::vector<int64_t> gone = {store.find_document(info.id, (home / "docs/a.md").string())->id};
  {
    WriteLock lock(store);
    store.remove_documents(lock, gone);
    store.purge(lock);
  }
  EXPECT_EQ(store.vector_keys("fake/1", true).size(), 1u);
  EXPECT_TRUE(store.check().empty());
}

// What a model imagines helps to find, and never decides that there is evidence.
TEST_F(IngestTest, AnImaginedAnswerIsSearchedBesideTheQuestion) {
  home.write("docs/a.md", "# Selector\n\nThe alternatives system picks among several programs.\n");
  home.write("docs/b.md", "# Editors\n\nTwo editors may be installed at once.\n");
  home.write("docs/c.md", "# Garden\n\nTulips want sun.\n");
  run();
  Retriever retriever(store, &embedder);
  std::vector<std::string> names = {"default"};
  RetrieveOptions options;
  Retrieval alone = retriever.retrieve("which editors start", names, options);
  EXPECT_EQ(Path(alone.hits.at(0).path).filename(), "b.md");
  options.also = {"the alternatives system picks among several programs", " "};
  Retrieval both = retriever.retrieve("which editors start", names, options);
  EXPECT_EQ(Path(both.hits.at(0).path).filename(), "a.md");
  EXPECT_DOUBLE_EQ(both.best_dense, alone.best_dense);
}

TEST_F(IngestTest, DryRunWritesNothing) {
  home.write("docs/a.txt", "one two\n");
  IngestOptions dry;
  dry.dry_run = true;
  IngestReport report = run(dry);
  EXPECT_EQ(report.count(FileOutcome::kIndexed), 1);
  EXPECT_EQ(embedder.embedded, 0);
  EXPECT_FALSE(store.find_collection("default"));
}

TEST_F(IngestTest, SecondWriterIsTurnedAway) {
  home.write("docs/a.txt", "one two\n");
  Store other;
  WriteLock lock(other);
  try {
    run();
    FAIL() << "must refuse";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kBusy);
    EXPECT_NE(std::string(e.what()).find(std::to_string(::getpid())), std::string::npos);
  }
}

TEST_F(IngestTest, RemovedTextIsInNoFile) {
  home.write("docs/a.txt", "The word quokkazebrafish stands here, with quokkazebrafish again.\n");
  home.write("docs/b.txt", "Another text stays.\n");
  run();
  auto in_files = [&](const std::string& needle) {
    for (const char* folder : {"data", "cache", "state"}) {
      for (auto& entry : std::filesystem::recursive_directory_iterator(home / folder)) {
        if (entry.is_regular_file() && read_file(entry.path()).find(needle) != std::string::npos)
          return true;
      }
    }
    return false;
  };
  std::filesystem::create_directories(home / "state");
  // The text is compressed, the words of the keyword index are not.
  EXPECT_TRUE(in_files("quokkazebrafish"));
  CollectionInfo info = store.collection("default");
  WriteLock lock(store);
  int64_t id = store.find_document(info.id, (home / "docs/a.txt").string())->id;
  store.save_answer(lock, {"", 0, "talk", "q", "a", "{}", {id}});
  EXPECT_EQ(store.remove_documents(lock, std::span(&id, 1)), std::vector<std::string>{"talk"});
  store.purge(lock);
  EXPECT_FALSE(in_files("quokkazebrafish"));
  EXPECT_TRUE(store.check().empty());
  sqlite::Database db(store.path(), sqlite::Database::Open::kReadOnly);
  EXPECT_EQ(db.integer("SELECT count(*) FROM vectors"), 1) << "of the text that stays";
}

}  // namespace
}  // namespace apud
