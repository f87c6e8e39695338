#include "rag/loader.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "base/utf8.h"
#include "rag/loaders/encoding.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::TempDir;

std::string block_text(const Document& d, size_t i) {
  return d.text.substr(d.blocks[i].begin, d.blocks[i].end - d.blocks[i].begin);
}

const std::string kChinese =
    "中文文本检测需要足够多的汉字。这是一段普通的说明文字，讨论如何安装软件包以及配置系统。";

TEST(Encoding, EveryCommonEncodingOfChineseAndEnglish) {
  struct Case {
    const char* encoding;
    std::string bytes;
  };
  auto encode = [](const std::string& utf8, bool big, bool bom) {
    std::string out = bom ? (big ? "\xFE\xFF" : "\xFF\xFE") : "";
    for (size_t i = 0; i < utf8.size();) {
      Utf8Char c = utf8_decode(utf8, i);
      char hi = static_cast<char>(c.code >> 8), lo = static_cast<char>(c.code);
      out += big ? hi : lo;
      out += big ? lo : hi;
      i += c.size;
    }
    return out;
  };
  std::string mixed = "Line one\n" + kChinese + "\nEnd.\n";
  EXPECT_EQ(decode_text(mixed).clean.text, mixed);
  EXPECT_EQ(decode_text("\xEF\xBB\xBF" + mixed).clean.text, mixed);
  for (bool big : {false, true}) {
    for (bool bom : {false, true}) {
      DecodedText d = decode_text(encode(mixed, big, bom));
      EXPECT_EQ(d.clean.text, mixed) << "UTF-16 big " << big << " bom " << bom;
      EXPECT_EQ(d.clean.hidden, 0);
    }
  }
  // GB18030 bytes of 中文安装系统, five Han in 3 kB of English, which statistics alone get wrong.
  std::string gb;
  for (int i = 0; i < 60; ++i) gb += "The quick brown fox jumps over the lazy dog again. ";
  gb += "\xD6\xD0\xCE\xC4\xB0\xB2\xD7\xB0\xCF\xB5\xCD\xB3";
  DecodedText d = decode_text(gb);
  EXPECT_EQ(d.encoding, "GB18030");
  EXPECT_NE(d.clean.text.find("中文安装系统"), std::string::npos);
  // Two Han: too few for statistics, enough for the byte ranges.
  d = decode_text(
      "Release notes of version 1.0. See the section called \xD6\xD0\xCE\xC4 of the manual.");
  EXPECT_EQ(d.clean.text,
            "Release notes of version 1.0. See the section called 中文 of the manual.");
  // Latin-1 French stays Latin.
  d = decode_text(
      "L'\xE9t\xE9 dernier, nous avons visit\xE9 le ch\xE2teau pr\xE8s de la for\xEAt.");
  EXPECT_EQ(d.clean.text, "L'été dernier, nous avons visité le château près de la forêt.");
  EXPECT_TRUE(decode_text(std::string("\0\1\2\3\x7F"
                                      "ELF\0\0",
                                      10))
                  .binary);
}

TEST(Encoding, CleaningCountsWhatItRemoves) {
  CleanText c = clean_utf8(
      "a\r\nb\rc\f\x1b[31mred\x1b[0m \x1b]0;title\x07x \x1b]8;;http://e\x1b\\link\x1b]8;;\x1b\\ "
      "e\bf\x07!");
  EXPECT_EQ(c.text, "a\nb\nc\nred x link f!");
  c = clean_utf8(
      "ad\u202Emin\u2069 \u200Bz\u2060w \U000E0041\U000E0042 soft\u00ADhyphen nb\u00A0sp");
  EXPECT_EQ(c.text, "admin zw  softhyphen nb\u00A0sp");
  EXPECT_EQ(c.hidden, 6);
  c = clean_utf8("bad \xFF\xC0\xAF \xED\xA0\x80 \xF0\x9F\x98 end");
  EXPECT_TRUE(utf8_valid(c.text));
  EXPECT_EQ(c.replaced, 7);
  // Every byte string of length 1 and 2 ends as valid UTF-8 without controls.
  for (int a = 0; a < 256; ++a) {
    for (int b = -1; b < 256; ++b) {
      std::string bytes(1, static_cast<char>(a));
      if (b >= 0) bytes += static_cast<char>(b);
      std::string text = clean_utf8(bytes).text;
      ASSERT_TRUE(utf8_valid(text)) << a << " " << b;
      ASSERT_EQ(text.find('\x1b'), std::string::npos);
    }
  }
  // Unterminated sequences must not swallow the document.
  EXPECT_EQ(clean_utf8("\x1b]0;never ends\nkept").text, "]0;never ends\nkept");
}

// A blob in the middle of a file is not words, and is said.
TEST(LoadText, RunsOfDataAreShortened) {
  const std::string data = std::string(200, 'Q') + "+/4_-" + std::string(1u << 20, 'z') + "==";
  const std::string most(511, 'x');
  Document d = load_bytes("x.txt", "key: " + data + " end\n" + most + "\n" + data);
  EXPECT_EQ(d.text, "key: " + std::string(64, 'Q') + "\xE2\x80\xA6 end\n" + most + "\n" +
                        std::string(64, 'Q') + "\xE2\x80\xA6");
  EXPECT_EQ(d.status, LoadStatus::kOk);
  EXPECT_TRUE(d.reason.starts_with("2 runs of data")) << d.reason;
  EXPECT_EQ(anchor_at(d, d.text.size() - 1).line, 3);
  const std::string list = "[\"" + data + "\"]\n", page = "<p>" + data + "</p>",
                    mail = "From: a@b.c\nSubject: key\n\n" + data + "\n";
  for (auto [name, text] :
       {std::pair("x.py", list), std::pair("x.md", list), std::pair("x.csv", list),
        std::pair("x.json", list), std::pair("x.html", page), std::pair("x.eml", mail)}) {
    d = load_bytes(name, text);
    EXPECT_LT(d.text.size(), 100u) << name;
    EXPECT_TRUE(d.reason.starts_with("1 run of data")) << name << ": " << d.reason;
  }
  // Text of other letters has no such runs, however long its lines are.
  std::string minified;
  while (minified.size() < 4096) minified += "f(a.b,c=>d[e]);";
  std::string chinese;
  while (chinese.size() < 4096) chinese += "春天的茶园";
  for (const std::string& text : {minified, chinese}) {
    d = load_bytes("x.txt", text);
    EXPECT_EQ(d.text, text);
    EXPECT_EQ(d.reason, "");
  }
}

// D5 of the corpus.
TEST(LoadText, HostileText) {
  auto begin = std::chrono::steady_clock::now();
  Document d = load_bytes("x.txt", std::string(50u << 20, '~'));
  EXPECT_EQ(d.status, LoadStatus::kOk);
  EXPECT_EQ(d.text.size(), 50u << 20);
  d = load_bytes("x.txt", [] {
    std::string s;
    for (int i = 0; i < 1 << 20; ++i) s += "\x1b]0;x";
    return s;
  }());
  EXPECT_EQ(d.text.find('\x1b'), std::string::npos);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  d = load_bytes("x.txt",
                 "almost all of it is fine: "
                 "\xE4\xB8\xAD\xE6\x96\x87\xE4\xB8\xAD\xE6\x96\x87\xE4\xB8\xAD\xE6\x96\x87\xE4\xB8"
                 "\xAD\xE6\x96\x87 but \xFF");
  EXPECT_EQ(d.status, LoadStatus::kBadEncoding);
  EXPECT_EQ(d.replaced, 1);
  EXPECT_EQ(load_bytes("x.txt", std::string("text\0text", 9)).status, LoadStatus::kBinary);
  EXPECT_EQ(load_bytes("x.dat", std::string("\0\1\2bin", 6)).status, LoadStatus::kBinary)
      << "three Han characters of UTF-16, or six bytes";
  EXPECT_EQ(load_bytes("x.txt", " \n\t\n").status, LoadStatus::kEmpty);
  EXPECT_EQ(load_bytes("x.txt", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc").status,
            LoadStatus::kSecret);
}

TEST(LoadText, ParagraphsHeadingsLines) {
  Document d =
      load_bytes("x.rst", "Title\n=====\n\nFirst para\ngoes on.\n\nSub\n---\nText.\r\n\r\nLast.");
  ASSERT_EQ(d.blocks.size(), 5u);
  EXPECT_EQ(block_text(d, 0), "Title");
  EXPECT_EQ(d.blocks[0].kind, BlockKind::kHeading);
  EXPECT_EQ(d.blocks[2].level, 2);
  EXPECT_EQ(block_text(d, 1), "First para\ngoes on.");
  EXPECT_EQ(block_text(d, 4), "Last.");
  EXPECT_EQ(anchor_at(d, d.blocks[4].begin).line, 11);
  EXPECT_EQ(d.title, "Title");
}

TEST(LoadMarkdown, BlocksLinesAndMarkup) {
  std::string source =
      "---\ntitle: \"Front\"\n---\n# Head *one*\n\nA [link](https://example.org/x) and "
      "[rel](a.md), `code` &amp; "
      "**bold**\nsecond line.\n\n- item one\n- item two\n  - nested\n\n3. three\n4. "
      "four\n\n```sh\nls -l\n\n  indented\n```\n\n"
      "| a | b |\n|---|---|\n| 1 | 2 |\n\n> quote\n\n<div>html <b>text</b></div>\n\n## Two\nEnd.\n";
  Document d = load_bytes("x.md", source);
  EXPECT_EQ(d.title, "Front");
  struct Expected {
    BlockKind kind;
    const char* text;
    int line;
  };
  const Expected expected[] = {
      {BlockKind::kCode, "title: \"Front\"", 2},
      {BlockKind::kHeading, "Head one", 4},
      {BlockKind::kParagraph, "A link (https://example.org/x) and rel, code & bold\nsecond line.",
       6},
      {BlockKind::kListItem, "- item one", 9},
      {BlockKind::kListItem, "- item two", 10},
      {BlockKind::kListItem, "- nested", 11},
      {BlockKind::kListItem, "3. three", 13},
      {BlockKind::kListItem, "4. four", 14},
      {BlockKind::kCode, "ls -l\n\n  indented", 17},
      {BlockKind::kTableRow, "a | b", 22},
      {BlockKind::kTableRow, "1 | 2", 24},
      {BlockKind::kParagraph, "quote", 26},
      {BlockKind::kParagraph, "html text", 28},
      {BlockKind::kHeading, "Two", 30},
      {BlockKind::kParagraph, "End.", 31},
  };
  ASSERT_EQ(d.blocks.size(), std::size(expected));
  for (size_t i = 0; i < std::size(expected); ++i) {
    EXPECT_EQ(block_text(d, i), expected[i].text);
    EXPECT_EQ(d.blocks[i].kind, expected[i].kind) << i;
    EXPECT_EQ(anchor_at(d, d.blocks[i].begin).line, expected[i].line) << expected[i].text;
  }
}

// md4c 0.4.8 alone is quadratic on some of these.
TEST(LoadMarkdown, HostileMarkdownIsLinear) {
  auto repeat = [](const std::string& s, size_t bytes) {
    std::string out;
    while (out.size() < bytes) out += s;
    return out;
  };
  for (const char* unit :
       {"> ", "- ",       "[",        "![",    "*a ",       "_a__", "`",  "<",
        "|",  "a|\n-|\n", "[a]: b\n", "***",   "    x\n",   "&",    "\\", "~~~\n",
        "# ", "[a](",     "<!--",     "1. \n", "<a href='", "a\n"}) {
    auto begin = std::chrono::steady_clock::now();
    Document d = load_bytes("x.md", repeat(unit, 1u << 20));
    EXPECT_TRUE(utf8_valid(d.text));
    double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    EXPECT_LT(seconds, 5) << unit;
  }
}

TEST(LoadMarkdown, LargeFilesKeepLines) {
  std::string source;
  int line = 1;
  std::vector<std::pair<std::string, int>> headings;
  for (int i = 0; source.size() < (400u << 10); ++i) {
    headings.emplace_back("Heading " + std::to_string(i), line);
    source += "# Heading " + std::to_string(i) +
              "\n\nText of it\non two lines.\n\n```\n# no heading\n```\n\n";
    line += 9;
  }
  Document d = load_bytes("x.md", source);
  size_t seen = 0;
  for (const Block& b : d.blocks) {
    if (b.kind != BlockKind::kHeading) continue;
    ASSERT_LT(seen, headings.size());
    ASSERT_EQ(d.text.substr(b.begin, b.end - b.begin), headings[seen].first);
    ASSERT_EQ(anchor_at(d, b.begin).line, headings[seen].second);
    ++seen;
  }
  EXPECT_EQ(seen, headings.size());
}

// Whatever the bytes: valid UTF-8 out, blocks in order and inside the text, anchors in order.
TEST(LoadAny, DamagedFilesKeepTheContract) {
  const std::pair<const char*, std::string> samples[] = {
      {"x.md",
       "---\ntitle: t\n---\n# H\n\n- a\n  - b\n\n| a | b |\n|---|---|\n| 1 | 2 "
       "|\n\n```c\nx\n```\n> q [l](http://e) &amp; `c`\n"},
      {"x.txt", "Title\n=====\n\n\xE4\xB8\xAD\xE6\x96\x87 text \x1b[1mbold\x1b[0m\n\nmore\n"},
      {"x.csv", "name,age\n\"A, \"\"x\"\"\",7\nB,8\n"},
      {"x.json", "[{\"a\": {\"b\": [1, true, null, \"\\u4e2d\\n\"]}}, 2.5e3]"},
      {"x.eml",
       "Subject: =?utf-8?B?5Lit?=\nContent-Type: multipart/mixed; "
       "boundary=b\n\n--b\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n--b--\n"},
      {"x.ipynb",
       "{\"cells\": [{\"cell_type\": \"markdown\", \"source\": [\"# H\\n\"]}, {\"cell_type\": "
       "\"code\", \"source\": \"x\", \"outputs\": [{\"text\": \"1\"}]}]}"},
      {"x.py", "import os\n\ndef f():\n    return 1\n\nclass A:\n    pass\n"},
  };
  uint64_t state = 88172645463325252ull;
  auto random = [&](size_t bound) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<size_t>(state % bound);
  };
  for (const auto& [name, sample] : samples) {
    for (int round = 0; round < 3000; ++round) {
      std::string bytes = sample;
      for (size_t k = 1 + random(6); k > 0 && !bytes.empty(); --k) {
        switch (random(4)) {
          case 0:
            bytes[random(bytes.size())] = static_cast<char>(random(256));
            break;
          case 1:
            bytes.erase(random(bytes.size()), 1 + random(8));
            break;
          case 2:
            bytes.insert(random(bytes.size()), bytes.substr(random(bytes.size()), 1 + random(20)));
            break;
          default:
            bytes.resize(random(bytes.size()) + 1);
            break;
        }
      }
      Document d = load_bytes(name, bytes);
      ASSERT_TRUE(utf8_valid(d.text)) << name << " round " << round;
      ASSERT_TRUE(utf8_valid(d.reason) && utf8_valid(d.title));
      size_t last = 0;
      for (const Block& b : d.blocks) {
        ASSERT_TRUE(b.begin >= last && b.begin < b.end && b.end <= d.text.size())
            << name << " round " << round;
        last = b.end;
      }
      for (size_t i = 1; i < d.anchors.size(); ++i)
        ASSERT_LE(d.anchors[i - 1].offset, d.anchors[i].offset) << name;
      ASSERT_EQ(d.text.find('\x1b'), std::string::npos);
    }
  }
}

TEST(LoadFile, ChangingFileIsSkipped) {
  TempDir dir;
  Path path = dir.write("x.txt", std::string(4u << 20, '~'));
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) std::ofstream(path, std::ios::app | std::ios::binary) << "more ";
  });
  int changing = 0, good = 0, rounds = 0;
  // On a busy machine the writer may pause: go on until it was met, for at most 30 seconds.
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (; rounds < 40 || (changing == 0 && std::chrono::steady_clock::now() < end); ++rounds) {
    LoadedFile f = load_file(path);
    changing += f.document.status == LoadStatus::kChanging;
    good += f.document.status == LoadStatus::kOk;
    if (f.document.status == LoadStatus::kOk) {
      EXPECT_EQ(f.document.text.size(), f.size);
    }
  }
  stop = true;
  writer.join();
  EXPECT_GT(changing, 0);
  EXPECT_EQ(changing + good, rounds);
  EXPECT_EQ(load_file(path).document.status, LoadStatus::kOk);
}

TEST(LoadFile, HashIsOfWhatWasRead) {
  TempDir dir;
  LoadedFile f = load_file(dir.write("x.md", "abc"));
  EXPECT_EQ(f.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(f.size, 3u);
  EXPECT_EQ(load_file(dir.write("b.bin", std::string("\x7F"
                                                     "ELF\0\0",
                                                     6)))
                .document.status,
            LoadStatus::kBinary);
}

}  // namespace
}  // namespace apud
