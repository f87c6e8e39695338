#include <gtest/gtest.h>

#include <chrono>

#include "rag/loader.h"

namespace apud {
namespace {

std::vector<std::string> blocks(const Document& d) {
  std::vector<std::string> out;
  for (const Block& b : d.blocks) out.push_back(d.text.substr(b.begin, b.end - b.begin));
  return out;
}
std::vector<int> lines(const Document& d) {
  std::vector<int> out;
  for (const Block& b : d.blocks) out.push_back(anchor_at(d, b.begin).line);
  return out;
}
using Strings = std::vector<std::string>;
using Ints = std::vector<int>;

TEST(LoadCsv, HeaderIsRepeatedAndLinesKept) {
  Document d =
      load_bytes("x.csv", "name,note,age\nAnn,\"two\nlines, \"\"quoted\"\"\",7\n\nBob,,8\n");
  EXPECT_EQ(blocks(d),
            (Strings{"name | note | age", "name: Ann; note: two lines, \"quoted\"; age: 7",
                     "name: Bob; age: 8"}));
  EXPECT_EQ(lines(d), (Ints{1, 2, 5}));
  d = load_bytes("x.csv", "a;b\n1;2\n3;4\n");
  EXPECT_EQ(blocks(d), (Strings{"a | b", "a: 1; b: 2", "a: 3; b: 4"}));
  d = load_bytes("x.tsv", "1\t2\n3\t4\n");
  EXPECT_EQ(blocks(d), (Strings{"1 | 2", "3 | 4"}));
  EXPECT_EQ(load_bytes("x.csv", "a,\"unterminated").blocks.size(), 1u);
  EXPECT_EQ(load_bytes("x.csv", "").status, LoadStatus::kEmpty);
  std::string wide(1u << 20, ',');
  EXPECT_EQ(load_bytes("x.csv", wide).status, LoadStatus::kEmpty);
}

TEST(LoadSvg, LetteringIsTextAndShapesAreNot) {
  Document d =
      load_bytes("x.svg",
                 "<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\">\n"
                 "<title>Pump &amp; valve</title><style>.a{fill:red}</style>\n"
                 "<g><path d=\"M 12.5,3 C 1,2 3,4 5,6\"/>\n"
                 "<text x=\"3\"><tspan>inlet</tspan><tspan>40 mm</tspan></text></g></svg>");
  EXPECT_EQ(d.status, LoadStatus::kOk);
  EXPECT_EQ(blocks(d), (Strings{"Pump & valve", "inlet 40 mm"}));
  EXPECT_EQ(lines(d), (Ints{3, 5}));
  EXPECT_EQ(load_bytes("x.svg", "<svg><path d=\"M 1,2\"/></svg>").status, LoadStatus::kEmpty);
  EXPECT_EQ(load_bytes("x.svg", "<svg><text>open").status, LoadStatus::kMalformed);
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "<g>";
  EXPECT_NE(load_bytes("x.svg", deep).status, LoadStatus::kOk);
}

TEST(LoadJson, RecordsWithPathsAndLines) {
  Document d = load_bytes("x.json",
                          "[\n {\"id\": 1, \"who\": {\"name\": \"Ann\"}},\n {\"id\": 2,\n  "
                          "\"tags\": [\"x\", \"y\\u4e2d\"], \"n\": null}\n]");
  EXPECT_EQ(blocks(d), (Strings{"id: 1\nwho.name: Ann", "id: 2\ntags: x\ntags: y中"}));
  EXPECT_EQ(lines(d), (Ints{2, 3}));
  d = load_bytes("x.jsonl", "{\"a\": \"one\"}\n{\"a\": \"\\ud83d\\ude00\"}\n");
  EXPECT_EQ(blocks(d), (Strings{"a: one", "a: \xF0\x9F\x98\x80"}));
  EXPECT_EQ(lines(d), (Ints{1, 2}));
  d = load_bytes("x.json", R"({"a": "one\n\ttwo \"three\" \\ \/ four"})");
  EXPECT_EQ(blocks(d), (Strings{"a: one\n\ttwo \"three\" \\ / four"}));
  // Every value has the line it stands on: brackets have lines of their own, strings with line
  // breaks one, and on a single line all have that.
  d = load_bytes("x.json", "{\n \"a\": {\n  \"b\": \"one\\ntwo\",\n  \"c\": [\n   3\n  ]}}");
  EXPECT_EQ(d.text, "a.b: one\ntwo\na.c: 3");
  auto line_of = [&](const char* word) {
    return anchor_at(d.text, d.anchors, d.text.find(word)).line;
  };
  EXPECT_EQ(line_of("one"), 3);
  EXPECT_EQ(line_of("two"), 3);
  EXPECT_EQ(line_of("3"), 5);
  d = load_bytes("x.json", R"({"a": {"b": "one", "c": "two"}})");
  EXPECT_EQ(line_of("one"), 1);
  EXPECT_EQ(line_of("two"), 1);
  // What is no JSON is text; hostile depth is no JSON to us.
  EXPECT_EQ(load_bytes("x.json", "{not json").loader, "text/1");
  auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(load_bytes("x.json", std::string(1000000, '[')).loader, "text/1");
  std::string nested;
  for (int i = 0; i < 100000; ++i) nested += "{\"a\":";
  EXPECT_EQ(load_bytes("x.json", nested).loader, "text/1");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST(LoadCode, FunctionsAreBlocks) {
  Document d = load_bytes(
      "x.py", "import os\n\ndef f():\n    a = 1\n\n    return a\n\n\nclass B:\n    x = 1\n");
  EXPECT_EQ(blocks(d),
            (Strings{"import os", "def f():\n    a = 1\n\n    return a", "class B:\n    x = 1"}));
  EXPECT_EQ(lines(d), (Ints{1, 3, 9}));
  d = load_bytes("x.cpp", "int f() {\n\n  return 1;\n\n}\n\nint g();\n");
  EXPECT_EQ(blocks(d), (Strings{"int f() {\n\n  return 1;\n\n}", "int g();"}));
}

TEST(LoadEmail, TextWithoutQuotesAndSignature) {
  Document d = load_bytes(
      "x.eml",
      "From: =?utf-8?B?546L6I+y?= <w@example.org>\r\nTo: a@example.org\r\nSubject: "
      "=?utf-8?Q?Caf=C3=A9_?=\r\n =?utf-8?Q?plan?=\r\n"
      "Content-Type: multipart/mixed; boundary=\"XX\"\r\n\r\npreamble\r\n--XX\r\nContent-Type: "
      "multipart/alternative; boundary=YY\r\n\r\n"
      "--YY\r\nContent-Type: text/plain; charset=gb2312\r\nContent-Transfer-Encoding: "
      "quoted-printable\r\n\r\n"
      "=D6=D0=CE=C4 body that goes=\r\n on.\r\n\r\nSecond.\r\n\r\nOn Monday, Bob wrote:\r\n> "
      "old\r\n> words\r\n-- \r\nMe\r\n"
      "--YY\r\nContent-Type: text/html\r\n\r\n<p>html version</p>\r\n--YY--\r\n"
      "--XX\r\nContent-Type: application/pdf; name=report.pdf\r\nContent-Disposition: "
      "attachment\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERi0=\r\n--XX--\r\n");
  EXPECT_EQ(
      blocks(d),
      (Strings{"Café plan", "From: 王菲 <w@example.org>\nTo: a@example.org\nAttachment: report.pdf",
               "中文 body that goes on.", "Second."}));
  d = load_bytes("x.eml",
                 "Subject: h\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: "
                 "base64\n\nPHA+T25seSA8Yj5IVE1MPC9iPjwvcD4=\n");
  EXPECT_EQ(blocks(d), (Strings{"h", "Only HTML"}));
  d = load_bytes("x.mbox",
                 "From a@b Mon\nSubject: one\n\nfirst\n\nFrom c@d Tue\nSubject: two\n\nsecond\n");
  EXPECT_EQ(blocks(d), (Strings{"one", "first", "two", "second"}));
  EXPECT_EQ(anchor_at(d, d.blocks[3].begin).member, "message 2");
  // A mail of nothing but nested parts, and boundaries that never end.
  std::string nested = "Subject: n\n";
  for (int i = 0; i < 5000; ++i)
    nested += "Content-Type: multipart/mixed; boundary=b" + std::to_string(i) + "\n\n--b" +
              std::to_string(i) + "\n";
  EXPECT_FALSE(load_bytes("x.eml", nested).skipped());
  std::string parts = "Content-Type: multipart/mixed; boundary=b\n\n";
  for (int i = 0; i < 200000; ++i) parts += "--b\n\nx\n";
  auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(load_bytes("x.eml", parts).skipped());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST(LoadNotebook, CellsInOrder) {
  Document d = load_bytes(
      "x.ipynb", R"json({"cells": [{"cell_type": "markdown", "source": ["# Head\n", "text"]},
      {"cell_type": "code", "source": "print(1)", "outputs": [{"text": ["1\n"]}, {"data": {"image/png": "AAAA", "text/plain": "<Figure>"}}]}],
      "nbformat": 4})json");
  EXPECT_EQ(blocks(d), (Strings{"Head", "text", "print(1)", "1", "<Figure>"})) << d.reason;
  EXPECT_EQ(anchor_at(d, d.blocks[2].begin).member, "cell 2");
  EXPECT_EQ(anchor_at(d, d.blocks[2].begin).page, 0) << "a cell is no page";
  EXPECT_EQ(load_bytes("x.ipynb", "{}").status, LoadStatus::kMalformed);
  EXPECT_EQ(load_bytes("x.ipynb", "{\"cells\": 3}").status, LoadStatus::kMalformed);
  EXPECT_EQ(load_bytes("x.ipynb", std::string(1000000, '[')).status, LoadStatus::kMalformed);
  EXPECT_EQ(load_bytes("x.ipynb", "{\"cells\": [1, {}, {\"source\": 5}, [] ]}").status,
            LoadStatus::kEmpty);
}

}  // namespace
}  // namespace apud
