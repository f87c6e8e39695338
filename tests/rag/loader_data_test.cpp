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
  Document d = load_bytes("x.csv", "name,note,age\nAnn,\"two\nlines, \"\"quoted\"\"\",7\n\nBob,,8\n");
  EXPECT_EQ(blocks(d), (Strings{"name | note | age", "name: Ann; note: two lines, \"quoted\"; age: 7", "name: Bob; age: 8"}));
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

TEST(LoadJson, RecordsWithPathsAndLines) {
  Document d = load_bytes("x.json", "[\n {\"id\": 1, \"who\": {\"name\": \"Ann\"}},\n {\"id\": 2,\n  \"tags\": [\"x\", \"y\\u4e2d\"], \"n\": null}\n]");
  EXPECT_EQ(blocks(d), (Strings{"id: 1\nwho.name: Ann", "id: 2\ntags: x\ntags: y中"}));
  EXPECT_EQ(lines(d), (Ints{2, 3}));
  d = load_bytes("x.jsonl", "{\"a\": \"one\"}\n{\"a\": \"\\ud83d\\ude00\"}\n");
  EXPECT_EQ(blocks(d), (Strings{"a: one", "a: \xF0\x9F\x98\x80"}));
  EXPECT_EQ(lines(d), (Ints{1, 2}));
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
  Document d = load_bytes("x.py", "import os\n\ndef f():\n    a = 1\n\n    return a\n\n\nclass B:\n    x = 1\n");
  EXPECT_EQ(blocks(d), (Strings{"import os", "def f():\n    a = 1\n\n    return a", "class B:\n    x = 1"}));
  EXPECT_EQ(lines(d), (Ints{1, 3, 9}));
  d = load_bytes("x.cpp", "int f() {\n\n  return 1;\n\n}\n\nint g();\n");
  EXPECT_EQ(blocks(d), (Strings{"int f() {\n\n  return 1;\n\n}", "int g();"}));
}

}  // namespace
}  // namespace apud
