#include "base/hash.h"

#include <gtest/gtest.h>

namespace apud {
namespace {

TEST(Hash, Sha256OfTheStandard) {
  // FIPS 180-4 examples.
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Hash, PiecesEqualTheWhole) {
  Sha256 sha;
  sha.update("a");
  sha.update("bc");
  EXPECT_EQ(sha.finish_hex(), sha256_hex("abc"));
}

TEST(Hash, Xxh3IsSeeded) {
  EXPECT_EQ(xxh3_64("abc"), xxh3_64("abc"));
  EXPECT_NE(xxh3_64("abc"), xxh3_64("abc", 1));
  EXPECT_NE(xxh3_64("abc"), xxh3_64("abd"));
}

}  // namespace
}  // namespace apud
