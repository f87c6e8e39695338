#include "base/hash.h"

#include <gtest/gtest.h>

#define XXH_INLINE_ALL  // compiled here, with the registers of this file
#include <xxhash.h>

#include <string>

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

// The library's plain functions, without the choice of registers.
TEST(Hash, Xxh3HasTheLibrarysBits) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += static_cast<char>(i * 131 >> 3);
  for (size_t size : {0, 1, 8, 16, 17, 128, 129, 240, 241, 1023, 1024, 1025, 3000}) {
    std::string_view part = std::string_view(text).substr(0, size);
    for (uint64_t seed : {uint64_t{0}, uint64_t{0x9e3779b97f4a7c15}}) {
      const uint64_t want = XXH3_64bits_withSeed(part.data(), size, seed);
      EXPECT_EQ(xxh3_64(part, seed), want) << size;
      Xxh3 pieces(seed);
      for (size_t at = 0, most = 1; at < size; most = most * 3 + 1) {
        std::string_view piece = part.substr(at, most);
        pieces.update(std::as_bytes(std::span(piece)));
        at += piece.size();
      }
      EXPECT_EQ(pieces.finish(), want) << size;
    }
  }
}

}  // namespace
}  // namespace apud
