// A folder that stands in for HOME and the XDG folders while the test lives.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "tests/support/temp_dir.h"

namespace apud::test {

class TempHome {
 public:
  TempHome() {
    ::setenv("HOME", path().c_str(), 1);
    for (auto [variable, folder] : {std::pair("XDG_DATA_HOME", "data"),
                                    {"XDG_CACHE_HOME", "cache"},
                                    {"XDG_CONFIG_HOME", "config"},
                                    {"XDG_STATE_HOME", "state"}}) {
      ::setenv(variable, (path() / folder).c_str(), 1);
    }
  }
  const std::filesystem::path& path() const { return dir_.path(); }
  std::filesystem::path operator/(const std::string& name) const { return path() / name; }
  /// Writes a file, its folders included.
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::filesystem::path file = path() / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
    return file;
  }

 private:
  TempDir dir_;
};

}  // namespace apud::test
