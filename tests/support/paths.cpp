#include "tests/support/paths.h"

#include <cstdlib>

namespace apud::test {

std::string source_dir() {
  const char* there = std::getenv("APUD_TEST_SOURCE");  // on a machine that has not the tree
  return there ? there : APUD_SOURCE_DIR;
}
std::string test_data() { return APUD_SOURCE_DIR "/tests/data"; }
std::string apud_binary() { return APUD_BINARY; }
std::string tests_folder() { return APUD_TESTS_FOLDER; }

}  // namespace apud::test
