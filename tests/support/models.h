// Where tests find the real models. A test that needs one that is absent skips with a reason.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace apud::test {

/// Folder of fetched models: $APUD_MODELS, else $XDG_DATA_HOME/apud/models, else
/// $HOME/.local/share/apud/models.
inline std::filesystem::path models_dir() {
  if (const char* dir = std::getenv("APUD_MODELS")) return dir;
  if (const char* data = std::getenv("XDG_DATA_HOME"); data && *data) {
    return std::filesystem::path(data) / "apud" / "models";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home ? home : "/") / ".local/share/apud/models";
}

/// Folder of fetched vocabularies and chat templates (scripts/fetch-vocabularies), next to the data
/// home's models folder whatever $APUD_MODELS says.
inline std::filesystem::path vocabularies_dir() {
  if (const char* data = std::getenv("XDG_DATA_HOME"); data && *data) {
    return std::filesystem::path(data) / "apud" / "vocabularies";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home ? home : "/") / ".local/share/apud/vocabularies";
}

}  // namespace apud::test

/// Skips the current test when the model FILE (relative to models_dir()) is not there.
#define APUD_REQUIRE_MODEL(FILE)                                                          \
  if (!std::filesystem::exists(::apud::test::models_dir() / (FILE)))                      \
  GTEST_SKIP() << "model not fetched: " << (::apud::test::models_dir() / (FILE)).string() \
               << " (run scripts/fetch-models test)"
