#include "tests/support/paths.h"

namespace apud::test {

std::string source_dir() { return APUD_SOURCE_DIR; }
std::string test_data() { return APUD_SOURCE_DIR "/tests/data"; }
std::string apud_binary() { return APUD_BINARY; }
std::string tests_folder() { return APUD_TESTS_FOLDER; }

}  // namespace apud::test
