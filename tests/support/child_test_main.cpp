// main() of tests that reach run_in_child (HTML): the test binary serves as its own child.
#include <gtest/gtest.h>

#include "base/child.h"

int main(int argc, char** argv) {
  apud::child_main(argc, argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
