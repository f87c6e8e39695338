// docs/json.md's table of the smaller documents against what the program prints.
#include <fstream>
#include <set>
#include <sstream>

#include "tests/e2e/library.h"

namespace apud::test {
namespace {

using Keys = std::set<std::string>;

Keys keys_of(const Json& object) {
  Keys keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

/// "a, b[c, d]" as its fields, and the fields of each list's rows.
std::map<std::string, Keys> parse_fields(const std::string& text) {
  std::map<std::string, Keys> fields;
  std::string name, list;
  for (char c : text + ",") {
    if (c == '[') {
      list = std::exchange(name, "");
      fields[list];
    } else if (c == ',' || c == ']') {
      if (!name.empty() && list.empty()) fields[name];
      if (!name.empty() && !list.empty()) fields[list].insert(name);
      name.clear();
      if (c == ']') list.clear();
    } else if (c != ' ') {
      name += c;
    }
  }
  return fields;
}

class JsonDocuments : public LibraryTest {};

TEST_F(JsonDocuments, AreWhatTheDocumentationSays) {
  APUD_REQUIRE_MODEL(kTinyModel);
  ASSERT_EQ(run({"chat", "--no-docs", "-t", "0", "--max-tokens", "2"}, "Hello.\n").code, 0);
  std::ifstream in(source_dir() + "/docs/json.md");
  int documents = 0;
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("| `")) continue;
    size_t end = line.find("` | ");
    if (end == std::string::npos) continue;
    std::istringstream words(line.substr(3, end - 3));
    std::vector<std::string> args;
    for (std::string word; words >> word;) args.push_back(word);
    if (args[0] == "model" && args[1] == "info") args.push_back(model_path(kTinyModel));
    if (args[0] == "bench") args.insert(args.end(), {"-m", model_path(kTinyModel)});
    args.push_back("--json");
    SCOPED_TRACE(line.substr(3, end - 3));
    RunResult r = run(args);
    EXPECT_EQ(r.code, 0) << r;
    Json json = json_of(r);
    EXPECT_EQ(json["schema"], 1);
    std::map<std::string, Keys> fields =
        parse_fields(line.substr(end + 4, line.rfind(" |") - end - 4));
    Keys wanted = {"schema"};
    for (const auto& [name, rows] : fields) {
      wanted.insert(name);
      if (rows.empty()) continue;
      EXPECT_FALSE(json[name].empty()) << name;
      for (const Json& row : json[name]) {
        Keys have = keys_of(row);
        have.erase("rate");  // of some rows of bench
        EXPECT_EQ(have, rows) << name;
      }
    }
    EXPECT_EQ(keys_of(json), wanted);
    ++documents;
  }
  EXPECT_EQ(documents, 12);
}

}  // namespace
}  // namespace apud::test
