#include "app/settings.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <functional>

#include "base/nearest.h"
#include "base/error.h"
#include "tests/support/temp_home.h"

namespace apud {
namespace {

/// The error that `action` throws; a test fails where none comes.
Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error";
  return Error(ErrorKind::kInternal, "none");
}

class SettingsTest : public testing::Test {
 protected:
  void write(const std::string& text) { home_.write("config/apud/config.toml", text); }
  Error load_error() {
    return error_of([] { load_settings(); });
  }
  test::TempHome home_;
};

TEST_F(SettingsTest, DefaultsWithoutAFile) {
  Settings s = load_settings();
  EXPECT_EQ(s.evidence, 0);
  EXPECT_EQ(s.answer, 600);
  EXPECT_EQ(s.collection, "default");
  EXPECT_EQ(s.embedder, "e5-small-q4");
  EXPECT_EQ(settings_path(), home_.path() / "config" / "apud" / "config.toml");
}

TEST_F(SettingsTest, AnotherFileOverThese) {
  Settings s;
  s.collection = "papers";
  s.evidence = 500;
  home_.write("vs.toml", "evidence = 900\nexpand = 'on'\n");
  apply_settings_file(s, home_.path() / "vs.toml");
  EXPECT_EQ(s.collection, "papers");
  EXPECT_EQ(s.evidence, 900);
  EXPECT_EQ(s.expand, "on");
  home_.write("vs.toml", "\nexpand = 'often'\n");
  Error bad = error_of([&] { apply_settings_file(s, home_.path() / "vs.toml"); });
  EXPECT_EQ(bad.kind(), ErrorKind::kConfig);
  for (const char* part : {"vs.toml:2", "expand", "often", "off, on"})
    EXPECT_NE(std::string(bad.what()).find(part), std::string::npos) << bad.what();
  EXPECT_EQ(error_of([&] { apply_settings_file(s, home_.path() / "none.toml"); }).kind(),
            ErrorKind::kNoInput);
}

TEST_F(SettingsTest, EveryKeySurvivesSaveAndLoad) {
  const std::map<std::string, std::string> values = {{"model", "some/path.gguf"},
                                                     {"embedder", "minilm-l6"},
                                                     {"chunk", "128"},
                                                     {"device", "cpu"},
                                                     {"cpu_isa", "avx2"},
                                                     {"threads", "3"},
                                                     {"ctx", "2048"},
                                                     {"kv", "i8"},
                                                     {"evidence", "700"},
                                                     {"answer", "250"},
                                                     {"collection", "papers"},
                                                     {"dense_weight", "0.25"},
                                                     {"rerank", "on"},
                                                     {"rerank_ms", "1500"},
                                                     {"expand", "on"},
                                                     {"temperature", "0.5"},
                                                     {"beams", "4"},
                                                     {"system", "Be \"brief\".\n第二行"},
                                                     {"think", "show"},
                                                     {"cache_gb", "2.5"}};
  for (const auto& [key, value] : values) save_setting(key, value);
  Settings s = load_settings();
  size_t checked = 0;
  for (const SettingKey& key : setting_keys()) {
    ASSERT_TRUE(values.contains(key.name)) << "no value in this test for " << key.name;
    EXPECT_EQ(setting_text(s, key.name), values.at(key.name)) << key.name;
    ++checked;
  }
  EXPECT_EQ(checked, values.size());
  for (const auto& [key, value] : values) save_setting(key, std::nullopt);
  for (const SettingKey& key : setting_keys()) {
    EXPECT_EQ(setting_text(load_settings(), key.name), setting_text(Settings(), key.name))
        << key.name;
  }
  struct stat info {};
  ASSERT_EQ(::stat(settings_path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(SettingsTest, NativeTomlTypesLoad) {
  write("ctx = 8192\ntemperature = 0.25\ncache_gb = 3\nsystem = '''two\nlines'''\n");
  Settings s = load_settings();
  EXPECT_EQ(s.ctx, 8192);
  EXPECT_DOUBLE_EQ(s.temperature, 0.25);
  EXPECT_DOUBLE_EQ(s.cache_gb, 3);
  EXPECT_EQ(s.system, "two\nlines");
}

TEST_F(SettingsTest, AnUnknownKeyNamesTheNearest) {
  write("evidnce = 100\n");
  Error e = load_error();
  EXPECT_EQ(e.kind(), ErrorKind::kConfig);
  EXPECT_EQ(exit_code(e.kind()), 78);
  EXPECT_NE(std::string(e.what()).find("evidnce"), std::string::npos) << e.what();
  EXPECT_NE(std::string(e.what()).find("config.toml:1"), std::string::npos) << e.what();
  EXPECT_NE(e.advice().find("evidence"), std::string::npos) << e.advice();
  write("x_y_z_q_w = 1\n");
  EXPECT_EQ(load_error().advice(), "`apud config list` shows all") << "nothing is near";
}

TEST_F(SettingsTest, ABadValueNamesKeyValueAndWhatWasExpected) {
  for (const auto& [line, words] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"device = 'gpu'", {"device", "gpu", "auto, cuda, cpu"}},
           {"ctx = -1", {"ctx", "-1", "from 0"}},
           {"ctx = 10.5", {"ctx", "10.5", "whole"}},
           {"threads = 'many'", {"threads", "many", "number"}},
           {"temperature = nan", {"temperature", "nan", "number"}},
           {"temperature = inf", {"temperature", "inf", "number"}},
           {"answer = ''", {"answer", "number"}},
           {"beams = 9", {"beams", "9", "1 to 8"}},
           {"think = true", {"think", "expected"}},
           {"model = ['a']", {"model", "expected"}}}) {
    write("# a comment\n" + line + "\n");
    Error e = load_error();
    EXPECT_EQ(e.kind(), ErrorKind::kConfig) << line;
    EXPECT_NE(std::string(e.what()).find(":2"), std::string::npos)
        << "no line number: " << e.what();
    for (const std::string& word : words) {
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos)
          << word << " not in: " << e.what();
    }
  }
}

TEST_F(SettingsTest, ASyntaxErrorNamesFileAndLine) {
  write("ctx = 100\nevidence = \nanswer = 3\n");
  Error e = load_error();
  EXPECT_EQ(e.kind(), ErrorKind::kConfig);
  EXPECT_NE(std::string(e.what()).find("config.toml:2"), std::string::npos) << e.what();
  EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
}

TEST_F(SettingsTest, TheCommandLineGetsUsageErrorsAndTheFileStays) {
  save_setting("ctx", "1024");
  EXPECT_EQ(error_of([] { save_setting("ctxx", "1"); }).kind(), ErrorKind::kUsage);
  EXPECT_EQ(error_of([] { save_setting("ctx", "many"); }).kind(), ErrorKind::kUsage);
  EXPECT_EQ(error_of([] { save_setting("ctxx", std::nullopt); }).kind(), ErrorKind::kUsage);
  EXPECT_EQ(load_settings().ctx, 1024);
}

TEST(Nearest, TypingErrorsComeFirst) {
  const std::vector<std::string> verbs = {"ask",  "batch",  "bench",  "chat",
                                          "coll", "search", "session"};
  EXPECT_EQ(nearest_names("serach", verbs).front(), "search");
  EXPECT_EQ(nearest_names("cht", verbs).front(), "chat");
  EXPECT_EQ(nearest_names("batchs", verbs).front(), "batch");
  EXPECT_EQ(nearest_names("sess", verbs).front(), "session") << "a part of a name is near";
  EXPECT_TRUE(nearest_names("xylophone", verbs).empty());
  EXPECT_LE(nearest_names("c", verbs).size(), 3u);
}

TEST(Nearest, AHostileNameCostsLittle) {
  std::vector<std::string> names(1000, std::string(100000, 'b'));
  auto start = std::chrono::steady_clock::now();
  nearest_names(std::string(1 << 20, 'a'), names);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

}  // namespace
}  // namespace apud
