#include "rag/packer.h"

#include <gtest/gtest.h>

#include <random>

#include "rag/ingest.h"
#include "rag/text/names.h"
#include "tests/support/fake_embedder.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

using test::FakeCounter;
using test::FakeEmbedder;
using test::TempHome;

std::shared_ptr<const DocumentText> plain(std::string text) {
  return std::make_shared<const DocumentText>(DocumentText{std::move(text), {{0, 1, 0, {}}}});
}

class PackerTest : public testing::Test {
 protected:
  void ingest_docs() {
    Path root = home / "docs";
    ingest(store, embedder, std::span(&root, 1), {});
  }
  std::vector<Hit> search(const std::string& query) {
    Retriever retriever(store, &embedder);
    RetrieveOptions options;
    options.k = 30;
    std::vector<std::string> names = {"default"};
    return retriever.retrieve(query, names, options).hits;
  }

  TempHome home;
  Store store;
  FakeEmbedder embedder;
  FakeCounter counter;
  Packer packer{store, &embedder};
};

/// Text of many sections about many subjects, with one fact each.
std::string long_document(int seed, int sections) {
  static const char* words[] = {"river",  "copper", "winter", "engine", "letter", "garden",
                                "window", "market", "signal", "harbor", "forest", "bridge",
                                "mirror", "velvet", "candle", "orbit"};
  std::mt19937 random(seed);
  std::string text;
  for (int s = 0; s < sections; ++s) {
    text += "# Section " + std::to_string(seed) + "-" + std::to_string(s) + "\n\n";
    for (int i = 0; i < 12; ++i) {
      text += "The";
      for (int w = 0; w < 9; ++w) text += std::string(" ") + words[random() % 16];
      text += i == 5 ? " hides fact" + std::to_string(seed) + "x" + std::to_string(s) + ". " : ". ";
    }
    text += "\n\n";
  }
  return text;
}

TEST_F(PackerTest, NeverAboveTheBudgetAndTheFactIsIn) {
  for (int d = 0; d < 6; ++d) home.write("docs/d" + std::to_string(d) + ".md", long_document(d, 8));
  ingest_docs();
  for (int budget : {1, 5, 20, 40, 60, 100, 300, 1000, 5000}) {
    PackOptions options;
    options.budget = budget;
    Packed packed = packer.pack(search("which one hides fact3x4 in winter"),
                                "which one hides fact3x4 in winter", counter, options);
    EXPECT_LE(packed.tokens, budget);
    EXPECT_EQ(packed.tokens, packed.evidence.empty() ? 0 : counter.count(packed.evidence));
    EXPECT_EQ(packed.evidence, render_evidence(packed.passages));
    if (budget >= 60) {
      EXPECT_NE(packed.evidence.find("fact3x4"), std::string::npos) << budget;
    }
    if (budget == 300) {  // filled, where nothing is asked for by its name
      const std::string open = "which river hides copper in winter";
      EXPECT_GT(packer.pack(search(open), open, counter, options).tokens, budget * 9 / 10);
    }
    if (budget <= 1000) {
      EXPECT_FALSE(packed.left_out.empty());
    }
    for (const Passage& p : packed.passages) {
      EXPECT_FALSE(p.heading_path.empty());
      EXPECT_GT(p.from.line, 0);
      EXPECT_LE(p.from.line, p.to.line);
      EXPECT_EQ(p.source_text, store.text(p.document).text.substr(p.begin, p.end - p.begin));
    }
    for (size_t i = 1; i < packed.passages.size(); ++i) {
      auto key = [&](size_t j) {
        return std::pair(packed.passages[j].document, packed.passages[j].begin);
      };
      EXPECT_LT(key(i - 1), key(i));
      EXPECT_EQ(packed.passages[i].id, packed.passages[i - 1].id + 1);
    }
  }
}

TEST_F(PackerTest, BudgetHoldsToTheToken) {
  for (int d = 0; d < 4; ++d) home.write("docs/d" + std::to_string(d) + ".md", long_document(d, 4));
  ingest_docs();
  auto hits = search("copper engine in winter");
  for (int budget = 20; budget < 220; ++budget) {
    PackOptions options;
    options.budget = budget;
    Packed packed = packer.pack(hits, "copper engine in winter", counter, options);
    ASSERT_LE(counter.count(render_evidence(packed.passages)), budget);
    ASSERT_LE(packed.tokens, budget);
  }
}

TEST_F(PackerTest, SentEvidenceIsReferredToNotRepeated) {
  for (int d = 0; d < 4; ++d) home.write("docs/d" + std::to_string(d) + ".md", long_document(d, 8));
  ingest_docs();
  std::string question = "which one hides fact2x1";
  PackOptions options;
  options.budget = 200;
  Packed first = packer.pack(search(question), question, counter, options);
  ASSERT_FALSE(first.passages.empty());
  int holder = 0;
  for (const Passage& p : first.passages) {
    for (const TextRange& part : p.parts)
      options.sent.push_back({p.id, p.document, part.begin, part.end});
    if (p.text.find("fact2x1") != std::string::npos) holder = p.id;
  }
  options.first_id = first.passages.back().id + 1;
  Packed second = packer.pack(search(question), question, counter, options);
  EXPECT_EQ(second.evidence.find("fact2x1"), std::string::npos);
  EXPECT_NE(std::find(second.referred.begin(), second.referred.end(), holder),
            second.referred.end());
  for (const Passage& p : second.passages) EXPECT_GE(p.id, options.first_id);
  // What stands in the prompt is paid for: the same question again brings next to nothing.
  EXPECT_LT(second.tokens, first.tokens / 2);
}

TEST_F(PackerTest, WhatASentPassageLeavesOutCanStillBePacked) {
  for (int d = 0; d < 4; ++d) home.write("docs/d" + std::to_string(d) + ".md", long_document(d, 8));
  ingest_docs();
  std::string question = "which one hides fact2x1";
  PackOptions options;
  options.budget = 200;
  Packed first = packer.pack(search(question), question, counter, options);
  // Sentences of the passage on both sides of the one asked for were sent, it was not.
  for (const Passage& p : first.passages) {
    EXPECT_EQ(p.parts.front().begin, p.begin);
    EXPECT_EQ(p.parts.back().end, p.end);
    size_t at = p.source_text.find("fact2x1");
    if (at == std::string::npos) continue;
    options.sent.push_back(
        {p.id, p.document, p.begin - std::min<size_t>(p.begin, 400), p.begin + at - 1});
    options.sent.push_back({p.id, p.document, p.begin + at + 60, p.end + 400});
  }
  ASSERT_FALSE(options.sent.empty());
  options.first_id = first.passages.back().id + 1;
  Packed second = packer.pack(search(question), question, counter, options);
  EXPECT_NE(second.evidence.find("fact2x1"), std::string::npos);
}

TEST_F(PackerTest, NearDuplicatesAreDroppedAndSaid) {
  home.write("docs/a.md",
             "# One\n\nThe copper engine drives the harbor bridge every winter morning.\n");
  home.write(
      "docs/b.md",
      "# Two\n\nThe copper engine drives the harbor bridge, every winter morning!\n\nAnd more.\n");
  ingest_docs();
  std::string question = "what drives the harbor bridge";
  Packed packed = packer.pack(search(question), question, counter, {});
  size_t count = 0;
  for (size_t at = 0; (at = packed.evidence.find("harbor bridge", at)) != std::string::npos; ++at)
    ++count;
  EXPECT_EQ(count, 1u);
  ASSERT_EQ(packed.left_out.size(), 1u);
}

TEST_F(PackerTest, WholeDocumentWhenNamedAndItFits) {
  home.write("docs/install-notes.md",
             "# Steps\n\nFirst unpack. Then run it.\n\n# Other\n\nNothing about the rest.\n");
  home.write("docs/other.md", long_document(1, 6));
  ingest_docs();
  std::string question = "what does install-notes.md say about steps to unpack";
  Packed packed = packer.pack(search(question), question, counter, {});
  EXPECT_NE(packed.evidence.find("First unpack. Then run it."), std::string::npos);
  EXPECT_NE(packed.evidence.find("Nothing about the rest."), std::string::npos);
}

TEST_F(PackerTest, WhatIsIngestedAfterTheSearchDoesNotChangeWhatIsPacked) {
  home.write("docs/a.md", "# Lamps\n\nThe lamps of the bridge are of copper.\n");
  home.write("docs/b.md", "# Bells\n\nThe bells of the bridge are of iron.\n");
  ingest_docs();
  std::vector<Hit> hits = search("lamps of the bridge");
  ASSERT_EQ(hits.size(), 2u);
  home.write("docs/a.md",
             "Preface.\n\n# Signals\n\nNo word of those here, and much else besides.\n");
  std::filesystem::remove(home / "docs/b.md");
  ingest_docs();
  Packed packed = packer.pack(hits, "lamps of the bridge", counter, {});
  ASSERT_EQ(packed.passages.size(), 2u);
  for (const Passage& p : packed.passages) {
    EXPECT_NE(p.text.find("of the bridge"), std::string::npos) << p.text;
    EXPECT_EQ(p.from.line, 3) << p.text;
  }
}

// Far hits leave their room to more of the near ones, and the receipt says so.
TEST_F(PackerTest, HitsFarBehindTheBestStayOut) {
  home.write(
      "docs/near.md",
      "# Locks\n\nThe brass padlock of the granary opens with two keys. The clerk holds one of "
      "them. Nobody remembers the smith.\n");
  const char* far[] = {"rainy", "misty", "sunny", "windy", "snowy", "dry"};
  for (const char* weather : far)
    home.write(
        std::string("docs/") + weather + ".md",
        std::string("# Weather\n\nThe autumn was ") + weather + ". Apples fell " + weather + ".\n");
  ingest_docs();
  const std::string question = "which padlock of the granary opens with two keys";
  auto hits = search(question);
  ASSERT_EQ(hits.size(), 7u);
  PackOptions options;
  options.budget = 1000;
  options.whole_document = false;
  Packed packed = packer.pack(hits, question, counter, options);
  EXPECT_EQ(packed.passages.size(), 4u) << packed.evidence;
  EXPECT_NE(packed.evidence.find("Nobody remembers the smith."), std::string::npos);
  ASSERT_EQ(packed.left_out.size(), 3u);
  for (const LeftOut& left : packed.left_out) EXPECT_EQ(left.reason, "far behind the best");
}

TEST_F(PackerTest, OfATextInTwoLanguagesTheReadersOwnComesFirst) {
  home.write("docs/a.md", "# 锁\n\nGranary padlock 有两把钥匙。\n");
  home.write("docs/b.md", "# Locks\n\nGranary padlock with two keys.\n");
  ingest_docs();
  Packer by_words(store, nullptr);
  for (auto [question, path] :
       {std::pair("granary padlock", "b.md"), std::pair("granary padlock 钥匙", "a.md")}) {
    auto hits = search("granary padlock");
    ASSERT_EQ(hits.size(), 2u);
    for (Hit& hit : hits) {  // what else tells them apart
      hit.rank = 1;
      hit.dense = 0.5F;
    }
    PackOptions options;
    options.budget =
        2 + std::max(counter.count("[1] b.md · Locks\nGranary padlock with two keys.\n"),
                     counter.count("[1] a.md · 锁\nGranary padlock 有两把钥匙。\n"));
    options.whole_document = false;
    Packed packed = by_words.pack(hits, question, counter, options);
    ASSERT_EQ(packed.passages.size(), 1u) << packed.evidence;
    EXPECT_TRUE(packed.passages[0].path.ends_with(path)) << packed.evidence;
  }
}

TEST_F(PackerTest, OfTwoThatSayAsMuchTheShorterOneComesFirst) {
  std::string padding;
  for (int i = 0; i < 30; ++i) padding += " filler" + std::to_string(i);
  home.write("docs/a.md", "# Barn\n\nGranary padlock" + padding + " with two keys.\n");
  home.write("docs/b.md", "# Locks\n\nGranary padlock and what else hangs beside it there.\n");
  ingest_docs();
  Packer by_words(store, nullptr);
  auto hits = search("granary padlock");
  ASSERT_EQ(hits.size(), 2u);
  for (Hit& hit : hits) {  // what else tells them apart
    hit.rank = 1;
    hit.dense = 0.5F;
  }
  PackOptions options;  // holds either, not both
  options.budget =
      2 + counter.count("[1] a.md · Barn\nGranary padlock" + padding + " with two keys.\n");
  options.whole_document = false;
  Packed packed = by_words.pack(hits, "granary padlock", counter, options);
  ASSERT_EQ(packed.passages.size(), 1u) << packed.evidence;
  EXPECT_TRUE(packed.passages[0].path.ends_with("b.md")) << packed.evidence;
}

TEST_F(PackerTest, WhatStandsBesideTheAnswerComesBeforeAWordOfTheQuestionElsewhere) {
  home.write(
      "docs/a.md",
      "# Trades\n\nAda repairs every copper lantern. She asks for twenty crowns and two days. "
      "Rain fell for weeks upon weeks. Boats came late in the spring. Bread was baked at dawn "
      "by three men. Wool went to market on carts. Nobody paints a lantern here these days.\n");
  ingest_docs();
  const std::string question = "who repairs a copper lantern";
  auto hits = search(question);
  PackOptions options;
  options.whole_document = false;
  for (options.budget = 10; options.budget < 60; ++options.budget) {
    Packed packed = packer.pack(hits, question, counter, options);
    if (packed.evidence.find("Ada repairs") == std::string::npos) continue;
    EXPECT_EQ(packed.evidence.find("Nobody paints"), std::string::npos) << options.budget;
    if (packed.evidence.find("twenty crowns") != std::string::npos) return;
  }
  ADD_FAILURE() << "the sentence beside the answer is never packed";
}

TEST(ExactNames, WhatNamesOneThing) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(exact_names("What does E14 mean, and part TL-4471 of order 20417?"),
            (Names{"E14", "TL-4471", "20417"}));
  EXPECT_EQ(exact_names("does fetch_stock read /etc/resolv.conf?"),
            (Names{"fetch_stock", "resolv.conf"}));
  EXPECT_EQ(exact_names("锅炉出现E02故障怎么办？"), (Names{"E02"}));
  EXPECT_EQ(exact_names("On the 2nd of May 2025, e.g. 5kg at 3.50 or 12 km, i.e. 1990s"), Names{});
  EXPECT_TRUE(holds_name("(see TL-4471)", "tl-4471"));
  EXPECT_FALSE(holds_name("see 4471, TL", "TL-4471"));
  EXPECT_FALSE(holds_name("E1 and 4", "E14"));
}

TEST_F(PackerTest, WhoAsksForACodeGetsTheLineThatHoldsIt) {
  std::string codes = "# Fault codes\n\n";
  for (int i = 1; i < 120; ++i) {
    codes += "F" + std::to_string(100 + i) + " the pump number " + std::to_string(i) +
             " stands still.\n\n";
  }
  home.write("docs/codes.md", codes);
  // Nearer to the question by all of its other words.
  for (int i = 0; i < 12; ++i) {
    home.write("docs/help" + std::to_string(i) + ".md",
               "# Help\n\nWhat does a code mean and what should one do about fault " +
                   std::string(1, static_cast<char>('a' + i)) + "?\n");
  }
  ingest_docs();
  const std::string question = "What does fault code F157 mean and what should one do about it?";
  std::vector<Hit> hits = search(question);
  EXPECT_NE(hits.at(0).text.find("F157 the pump number 57"), std::string::npos) << hits[0].text;
  EXPECT_LE(hits[0].score, 1);
  PackOptions options;
  options.budget = 60;
  EXPECT_NE(packer.pack(hits, question, counter, options).evidence.find("F157 the pump number 57"),
            std::string::npos);
  // There is room for more; what is far from it would only distract.
  options.budget = 4000;
  Packed alone = packer.pack(search("F157 pump"), "F157 pump", counter, options);
  EXPECT_NE(alone.evidence.find("F157 the pump number 57"), std::string::npos);
  EXPECT_EQ(alone.evidence.find("should one do"), std::string::npos) << alone.evidence;
  options.budget = 40;
  EXPECT_NE(packer.pack_text("codes", plain(codes), question, counter, options)
                .evidence.find("F157 the pump number 57"),
            std::string::npos);
  std::vector<std::string> names = {"default"};
  Retriever retriever(store, &embedder);
  EXPECT_TRUE(retriever.retrieve(question, names).warnings.empty());
  // However little else they share: what is asked for by its name is there.
  EXPECT_FALSE(retriever.retrieve("F157 parliament budget election committee", names).below_line);
  EXPECT_TRUE(retriever.retrieve("F991 parliament budget election committee", names).below_line);
  Retrieval unknown = retriever.retrieve("What does F991 mean?", names);
  ASSERT_EQ(unknown.warnings.size(), 1u);
  EXPECT_EQ(unknown.warnings[0], "no document holds F991");
}

TEST_F(PackerTest, LookAlikesOfMarksAreEscaped) {
  EXPECT_EQ(escape_marks("see [1] and [2, 3], a[i], [x], [12"),
            "see (1) and (2, 3), a[i], [x], [12");
  EXPECT_EQ(escape_marks("[[7]]"), "[(7)]");
  home.write("docs/evil.md", "# Head [9]\n\nThe treaty was signed [1] by [2] kings.\n");
  ingest_docs();
  Packed packed =
      packer.pack(search("who signed the treaty"), "who signed the treaty", counter, {});
  EXPECT_EQ(packed.evidence, "[1] evil.md · Head (9)\nThe treaty was signed (1) by (2) kings.\n");
  EXPECT_EQ(packed.passages[0].source_text, "The treaty was signed [1] by [2] kings.");
}

TEST_F(PackerTest, TextFromOutsideTheStore) {
  std::string text = long_document(7, 10);
  PackOptions options;
  options.budget = 150;
  Packed some = packer.pack_text("notes.txt", plain(text), "which hides fact7x6", counter, options);
  EXPECT_LE(some.tokens, 150);
  EXPECT_NE(some.evidence.find("fact7x6"), std::string::npos);
  EXPECT_FALSE(some.left_out.empty());
  Packed whole = packer.pack_text("notes.txt", plain("One line.\n\nAnother line."), "anything",
                                  counter, options);
  ASSERT_EQ(whole.passages.size(), 1u);
  EXPECT_EQ(whole.passages[0].text, "One line.\n\nAnother line.");
  EXPECT_TRUE(whole.left_out.empty());
  auto pages = std::make_shared<const DocumentText>(
      DocumentText{"One page.\n\nAnother page.", {{0, 0, 1, {}}, {11, 0, 2, {}}}});
  Packed book = packer.pack_text("book.pdf", pages, "anything", counter, options);
  ASSERT_EQ(book.passages.size(), 1u);
  EXPECT_EQ(book.passages[0].from.page, 1);
  EXPECT_EQ(book.passages[0].to.page, 2);
  EXPECT_EQ(book.passages[0].from.line, 0);
  EXPECT_TRUE(
      packer.pack_text("empty", plain(" \n "), "anything", counter, options).passages.empty());
}

TEST_F(PackerTest, SentenceVectorsSharpenWithinTheirLimit) {
  for (int d = 0; d < 3; ++d) home.write("docs/d" + std::to_string(d) + ".md", long_document(d, 4));
  ingest_docs();
  PackOptions options;
  options.budget = 120;
  int before = embedder.embedded;
  auto hits = search("fact1x1");
  packer.pack(hits, "fact1x1", counter, options);
  EXPECT_EQ(embedder.embedded, before);
  options.sentence_vector_tokens = 1 << 20;
  Packed packed = packer.pack(hits, "fact1x1", counter, options);
  EXPECT_GT(embedder.embedded, before);
  EXPECT_NE(packed.evidence.find("fact1x1"), std::string::npos);
  // The same question packed again (for a smaller window) embeds nothing.
  before = embedder.embedded;
  options.budget = 60;
  packer.pack(hits, "fact1x1", counter, options);
  EXPECT_EQ(embedder.embedded, before);
  // A limit is kept, and spent on the best hits.
  Packer other(store, &embedder);
  before = embedder.embedded;
  options.sentence_vector_tokens = 110;
  Packed few = other.pack(hits, "fact1x1", counter, options);
  EXPECT_GT(embedder.embedded, before);
  EXPECT_LE(embedder.embedded - before, 110 / 9);
  EXPECT_NE(few.evidence.find("fact1x1"), std::string::npos);
}

// A fact in a chunk that ranks low, and that only its own sentence says: the chunk's cosine cannot
// tell it from its neighbours.
TEST_F(PackerTest, ALowChunksSentenceComesInByItsOwnVector) {
  std::string text;
  for (int s = 0; s < 12; ++s) {
    text += "# Harbor notes " + std::to_string(s) + "\n\n";
    for (int i = 0; i < 6; ++i)
      text += "The harbor bridge keeps signal lamps and copper mirrors number" +
              std::to_string(s * 6 + i) + ". ";
    if (s == 9) text += "Lamps copper bridge. ";
    text += "\n\n";
  }
  home.write("docs/harbor.md", text);
  ingest_docs();
  auto hits = search("lamps copper bridge");
  // The hit with the sentence last, whatever search thought.
  auto low = std::find_if(hits.begin(), hits.end(), [](const Hit& h) {
    return h.text.find("Lamps copper bridge.") != std::string::npos;
  });
  ASSERT_NE(low, hits.end());
  std::rotate(low, low + 1, hits.end());
  for (size_t i = 0; i < hits.size(); ++i) hits[i].rank = static_cast<int>(i) + 1;
  PackOptions options;
  options.budget = 60;
  options.whole_document = false;
  options.sentence_vector_tokens = 1 << 20;
  Packed packed = packer.pack(hits, "lamps copper bridge", counter, options);
  EXPECT_NE(packed.evidence.find("Lamps copper bridge."), std::string::npos) << packed.evidence;
}

// A short heading says little alone; of a long one every passage would pay for the rest.
TEST(RenderEvidence, AShortHeadingKeepsWhatItStandsUnder) {
  auto shown = [](const char* headings) {
    Passage p;
    p.id = 3;
    p.path = "manuals/pump.md";
    p.heading_path = headings;
    p.text = "Text.";
    return render_evidence(std::span(&p, 1));
  };
  EXPECT_EQ(shown(""), "[3] pump.md\nText.\n");
  EXPECT_EQ(shown("Manual > P-200 > Limits"), "[3] pump.md · Manual > P-200 > Limits\nText.\n");
  EXPECT_EQ(shown("Manual of all our pumps > P-200 > Limits"),
            "[3] pump.md · P-200 > Limits\nText.\n");
  EXPECT_EQ(shown("P-200 > Pressures and temperatures it bears"),
            "[3] pump.md · Pressures and temperatures it bears\nText.\n");
}

}  // namespace
}  // namespace apud
