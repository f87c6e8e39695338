#include "rag/chunker.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"
#include "base/utf8.h"
#include "rag/loader.h"

namespace apud {
namespace {

// Words and Han characters: a fake tokenizer that is additive over sentences.
int words(std::string_view text) {
  int count = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    Utf8Char c = utf8_decode(text, i);
    bool gap = c.code == ' ' || c.code == '\n';
    if (is_cjk(c.code)) {
      ++count;
      inside = false;
    } else {
      count += !gap && !inside;
      inside = !gap;
    }
    i += c.size;
  }
  return count;
}

std::vector<std::string> sentences(std::string_view text) {
  std::vector<std::string> out;
  for (const Sentence& s : split_sentences(text))
    out.emplace_back(text.substr(s.begin, s.end - s.begin));
  return out;
}
using Strings = std::vector<std::string>;

TEST(Sentences, English) {
  EXPECT_EQ(sentences("First one. Second one!  Third (really?) one."),
            (Strings{"First one.", "Second one!", "Third (really?) one."}));
  EXPECT_EQ(
      sentences("See e.g. Dr. J. Smith, Fig. 3. Version 1.5 is out. He said \"No.\" Then left."),
      (Strings{"See e.g. Dr. J. Smith, Fig. 3.", "Version 1.5 is out.", "He said \"No.\"",
               "Then left."}));
  EXPECT_EQ(sentences("A line that is wrapped\nright here goes on. next is lower"),
            (Strings{"A line that is wrapped", "right here goes on. next is lower"}));
  EXPECT_EQ(
      sentences("A much longer line that is wrapped in the middle of\nits sentence. Done."),
      (Strings{"A much longer line that is wrapped in the middle of\nits sentence.", "Done."}));
  EXPECT_EQ(sentences("Items of a list follow on these lines here:\n- one\n- two"),
            (Strings{"Items of a list follow on these lines here:", "- one", "- two"}));
  EXPECT_EQ(sentences("1. Numbered item. Next."), (Strings{"1. Numbered item.", "Next."}));
  EXPECT_TRUE(sentences(" \n ").empty());
}

TEST(Sentences, Chinese) {
  EXPECT_EQ(sentences("这是第一句。这是第二句！“真的吗？”他问。没有句号"),
            (Strings{"这是第一句。", "这是第二句！", "“真的吗？”", "他问。", "没有句号"}));
}

TEST(Sentences, RowsOfATableAreOneEach) {
  const std::string one = "Article: P-17; Description: Life jacket. For adults; Supplier: SafeSea",
                    two = "Article: P-18; Description: Fender, sixty centimetres; Supplier: Brandt";
  EXPECT_EQ(sentences("Before them a line. And another\n" + one + "\n" + two + "\n\nBehind."),
            (Strings{"Before them a line.", "And another", one, two, "Behind."}));
  // What has to be cut is cut between its lines.
  std::string log;
  for (int i = 10; i < 40; ++i)
    log += "a line of some ninety columns, no end of a sentence in it, number " +
           std::to_string(i) + ", and so on for a while\n";
  for (auto [begin, end] : sentence_ranges(log, 0)) {
    EXPECT_TRUE(begin == 0 || log[begin - 1] == '\n') << begin;
    EXPECT_LE(end - begin, 1500u);
  }
}

Document document(std::string_view markdown) { return load_bytes("x.md", markdown); }

std::string prose(int count, const std::string& tag) {
  std::string out;
  for (int i = 0; i < count; ++i)
    out += "This is sentence " + std::to_string(i) + " of " + tag + " with ten words. ";
  return out;
}

void check_invariants(const Document& d, const Chunks& c, const ChunkOptions& options) {
  for (const Chunk& chunk : c.chunks) {
    ASSERT_LT(chunk.begin, chunk.end);
    ASSERT_LE(chunk.end, d.text.size());
    EXPECT_LE(chunk.tokens, options.max_tokens);
    EXPECT_LE(words(embedded_text(d, c, chunk)), options.max_tokens);
    const Section& section = c.sections[static_cast<size_t>(chunk.section)];
    EXPECT_GE(chunk.begin, section.begin);
    EXPECT_LE(chunk.end, section.end);
    EXPECT_EQ(c.sentences[chunk.first_sentence].begin, chunk.begin);
    EXPECT_EQ(c.sentences[chunk.first_sentence + chunk.sentence_count - 1].end, chunk.end);
    EXPECT_TRUE(utf8_valid(std::string_view(d.text).substr(chunk.begin, chunk.end - chunk.begin)));
  }
  // Everything that is no heading or space lies in a chunk.
  std::vector<char> covered(d.text.size(), 0);
  for (const Chunk& chunk : c.chunks)
    std::fill(covered.begin() + long(chunk.begin), covered.begin() + long(chunk.end), 1);
  for (const Block& block : d.blocks) {
    if (block.kind == BlockKind::kHeading) continue;
    for (size_t i = block.begin; i < block.end; ++i) {
      ASSERT_TRUE(covered[i] || d.text[i] == ' ' || d.text[i] == '\n') << "byte " << i << " lost";
    }
  }
}

TEST(Chunker, SectionsHeadingsAndPaths) {
  Document d = document(
      "# Book\n\nIntro here.\n\n## One\n\nText one.\n\n### Deep\n\nText deep.\n\n## Two\n\nText "
      "two.\n\n## Empty\n");
  ChunkOptions options;
  Chunks c = chunk_document(d, options, words);
  check_invariants(d, c, options);
  ASSERT_EQ(c.chunks.size(), 5u);
  EXPECT_EQ(embedded_text(d, c, c.chunks[0]), "Book\nIntro here.");
  EXPECT_EQ(c.sections[static_cast<size_t>(c.chunks[2].section)].path, "Book > One > Deep");
  EXPECT_EQ(embedded_text(d, c, c.chunks[2]), "Deep\nText deep.");
  EXPECT_EQ(c.sections[static_cast<size_t>(c.chunks[3].section)].path, "Book > Two");
  EXPECT_EQ(embedded_text(d, c, c.chunks[4]), "Empty");
  EXPECT_EQ(c.sections[2].parent, 1);
}

TEST(Chunker, LongSectionIsCutEvenlyWithOverlapInsideParagraphs) {
  Document d = document("# T\n\n" + prose(60, "one paragraph"));
  ChunkOptions options;
  Chunks c = chunk_document(d, options, words);
  check_invariants(d, c, options);
  ASSERT_GE(c.chunks.size(), 3u);
  for (size_t i = 1; i < c.chunks.size(); ++i) {
    EXPECT_LT(c.chunks[i].begin, c.chunks[i - 1].end) << "overlap expected";
    size_t shared = c.chunks[i - 1].end - c.chunks[i].begin;
    EXPECT_LE(words(std::string_view(d.text).substr(c.chunks[i].begin, shared)), 40);
    EXPECT_GT(c.chunks[i].tokens, 100);
  }
}

TEST(Chunker, CutsBetweenParagraphsWithoutOverlap) {
  std::string text = "# T\n\n";
  for (int i = 0; i < 12; ++i) text += prose(6, "p" + std::to_string(i)) + "\n\n";
  Document d = document(text);
  ChunkOptions options;
  Chunks c = chunk_document(d, options, words);
  check_invariants(d, c, options);
  ASSERT_GE(c.chunks.size(), 3u);
  for (size_t i = 1; i < c.chunks.size(); ++i) {
    EXPECT_GE(c.chunks[i].begin, c.chunks[i - 1].end);
    bool starts_block = false;
    for (const Block& b : d.blocks) starts_block |= b.begin == c.chunks[i].begin;
    EXPECT_TRUE(starts_block) << i;
  }
}

TEST(Chunker, TableRowsAndCodeStayWhole) {
  std::string text = "# T\n\n| a | b |\n|---|---|\n";
  for (int i = 0; i < 100; ++i)
    text += "| row " + std::to_string(i) + " | some value with a few words |\n";
  text += "\n```\n";
  for (int i = 0; i < 60; ++i)
    text += "int f" + std::to_string(i) + "() { return " + std::to_string(i) + "; }\n\n";
  text += "```\n";
  Document d = document(text);
  ChunkOptions options;
  Chunks c = chunk_document(d, options, words);
  check_invariants(d, c, options);
  for (const Chunk& chunk : c.chunks) {
    EXPECT_TRUE(chunk.begin == 0 || d.text[chunk.begin - 1] == '\n');
    EXPECT_TRUE(chunk.end == d.text.size() || d.text[chunk.end] == '\n');
  }
}

// TextEmbedder::max_tokens() of MiniLM is 254, of e5-small 506 and of EmbeddingGemma 2,034: what is
// left beside special tokens and prompt.
TEST(Chunker, SizesThatSuitAnEmbedder) {
  EXPECT_EQ(chunk_options_for(254).max_tokens, 240);
  EXPECT_EQ(chunk_options_for(506).max_tokens, 400);
  EXPECT_EQ(chunk_options_for(2034).max_tokens, 400);
  EXPECT_EQ(chunk_options_for(126).max_tokens, 118);
  EXPECT_EQ(chunk_options_for(506, 498).max_tokens, 498);
  EXPECT_THROW(chunk_options_for(506, 499), Error);
  EXPECT_THROW(chunk_options_for(506, 31), Error);
}

TEST(Chunker, LongHeadingsAndSmallBudgets) {
  std::string heading = "# " + prose(8, "a heading");
  Document d = document(heading + "\n\n" + prose(40, "text"));
  for (int budget : {16, 32, 64, 240}) {
    ChunkOptions options;
    options.max_tokens = budget;
    options.target_tokens = std::min(220, budget);
    Chunks c = chunk_document(d, options, words);
    ASSERT_FALSE(c.chunks.empty());
    check_invariants(d, c, options);
  }
}

TEST(Chunker, HostileTextIsLinear) {
  ChunkOptions options;
  auto begin = std::chrono::steady_clock::now();
  for (const std::string& text :
       {std::string(4u << 20, 'a'), std::string(4u << 20, '.'), std::string(1u << 20, '\n') + "x",
        [] {
          std::string s;
          for (int i = 0; i < 400000; ++i) s += "\xE4\xB8\xAD";
          return s;
        }(),
        [] {
          std::string s;
          for (int i = 0; i < 200000; ++i) s += "# h\n";
          return s;
        }(),
        [] {
          std::string s;
          for (int i = 0; i < 400000; ++i) s += "a. ";
          return s;
        }()}) {
    Document d = load_bytes("x.txt", text);
    check_invariants(d, chunk_document(d, options, words), options);
    Document m = document(text);
    check_invariants(m, chunk_document(m, options, words), options);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

}  // namespace
}  // namespace apud
