// Where the tests find what they need. Only paths.cpp knows the folders: a path in every compile
// line would keep worktrees from sharing a compiler cache.
#pragma once

#include <string>

namespace apud::test {

/// The checkout.
std::string source_dir();
/// tests/data of the checkout.
std::string test_data();
/// The program of this build.
std::string apud_binary();
/// Where this build puts its test programs.
std::string tests_folder();

}  // namespace apud::test
