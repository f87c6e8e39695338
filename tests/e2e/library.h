// A home in which samples/ was ingested, shared by the tests of a process.
//
// Threads: one thread.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <regex>

#include "tests/support/run_apud.h"

namespace apud::test {

using Json = nlohmann::json;

inline constexpr const char* kChatModel = "qwen2.5-coder-0.5b.gguf";
// Small models copy numbers instead of answering: facts are asked of the default model.
inline constexpr const char* kDefaultModel = "qwen2.5-coder-1.5b.gguf";
inline constexpr const char* kTinyModel = "smollm2-135m.gguf";
inline constexpr const char* kEmbedder = "e5-small-q4";

inline std::string model_path(const std::string& name) { return (models_dir() / name).string(); }

/// A home whose configuration names the small chat model. Tests skip where it is not fetched.
class LibraryTest : public testing::Test {
 protected:
  void SetUp() override {
    APUD_REQUIRE_MODEL(kChatModel);
    APUD_REQUIRE_MODEL(kEmbedder);
    if (!shared_) {
      shared_ = std::make_unique<Home>();
      configure(*shared_);
      copy_samples(*shared_);
      first_ingest_ = shared_->run({"ingest", "samples", "--jsonl"});
    }
    ASSERT_EQ(first_ingest_.code, 0) << first_ingest_;
  }

  static void configure(Home& home) {
    home.write(".config/apud/config.toml", "model = '" + model_path(kChatModel) + "'\n");
  }
  static void copy_samples(Home& home) {
    std::filesystem::copy(std::filesystem::path(source_dir()) / "samples", home.path() / "samples",
                          std::filesystem::copy_options::recursive);
  }

  /// The home that tests share: they must leave its documents as they are.
  Home& home() { return *shared_; }
  RunResult run(const std::vector<std::string>& args, const std::string& input = "",
                const Home::During& during = {}) {
    return shared_->run(args, input, during);
  }
  static const RunResult& first_ingest() { return first_ingest_; }

 private:
  static inline std::unique_ptr<Home> shared_;
  static inline RunResult first_ingest_;
};

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// Whole standard output as one JSON document; a test fails where it is not.
inline Json json_of(const RunResult& r) {
  Json json = Json::parse(r.out, nullptr, false);
  if (json.is_discarded()) ADD_FAILURE() << "stdout is not one JSON document" << r;
  return json;
}

/// Standard output as JSON lines.
inline std::vector<Json> json_lines(const std::string& text) {
  std::vector<Json> all;
  for (const std::string& line : RunResult::split(text)) {
    Json json = Json::parse(line, nullptr, false);
    if (json.is_discarded()) ADD_FAILURE() << "not JSON: " << line;
    all.push_back(json);
  }
  return all;
}

inline void expect_no_escape(const RunResult& r) {
  EXPECT_EQ(r.out.find('\x1b'), std::string::npos) << r;
  EXPECT_EQ(r.err.find('\x1b'), std::string::npos) << r;
}

}  // namespace apud::test
