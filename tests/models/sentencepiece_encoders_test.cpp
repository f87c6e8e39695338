// Our SentencePiece encoders against the library, on random vocabularies and texts.
#include "models/tokenizers/sentencepiece_bpe.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "models/tokenizers/sentencepiece_tokenizer.h"
#include "tests/support/mixed_text.h"
#include "tests/support/models.h"
#include "tests/support/paths.h"

namespace apud {
namespace {

using Piece = SentencePieceModel::Piece;

/// Pieces over a small alphabet, so that nearly every text merges, overlaps and ties.
SentencePieceModel random_model(std::mt19937& random, bool byte_fallback) {
  static const char* kAlphabet[] = {"a", "b", "c", "\xE2\x96\x81", "\xC3\xA9", "\xE4\xB8\xAD"};
  SentencePieceModel model;
  model.algorithm = SentencePieceModel::kBpe;
  model.byte_fallback = byte_fallback;
  model.add_dummy_prefix = random() % 2 == 0;
  model.remove_extra_whitespaces = false;
  model.pieces = {{"<unk>", 0, TokenKind::kUnknown}, {"<s>", 0, TokenKind::kControl}};
  for (int b = 0; byte_fallback && b < 256; ++b) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", b);
    model.pieces.push_back({text, 0, TokenKind::kByte});
  }
  std::set<std::string> seen;
  for (int i = 0; i < 60; ++i) {
    std::string text;
    for (uint32_t n = 1 + random() % (i < 20 ? 2 : 5); n > 0; --n) text += kAlphabet[random() % 6];
    if (!seen.insert(text).second) continue;
    uint32_t kind = random() % 12;
    model.pieces.push_back({text, -static_cast<float>(random() % 25),
                            kind == 0   ? TokenKind::kUserDefined
                            : kind <= 2 ? TokenKind::kUnused
                                        : TokenKind::kNormal});
  }
  return model;
}

std::string random_text(std::mt19937& random) {
  static const char* kUnits[] = {"a",
                                 "b",
                                 "c",
                                 " ",
                                 "\xE2\x96\x81",
                                 "\xC3\xA9",
                                 "\xE4\xB8\xAD",
                                 "\xF0\x9F\x99\x82",
                                 "z",
                                 "<s>",
                                 "\xFF",
                                 "\xE2\x96",
                                 "\xED\xA0\x80",
                                 "\n",
                                 "<unk>",
                                 "aaaa",
                                 "abab",
                                 "  ",
                                 "<0x41>"};
  std::string text;
  for (uint32_t n = random() % 60; n > 0; --n) {
    text += kUnits[random() % 4 == 0 ? random() % std::size(kUnits) : random() % 7];
  }
  return text;
}

struct Seen {
  size_t ids = 0, unused = 0, unknown = 0;
};

/// Encodes 200 random texts both ways.
void compare_with_library(SentencePieceSource source, std::mt19937& random, Seen& seen) {
  SentencePieceModel model = source.model;
  source.file = "random.model";
  source.roles.control.resize(model.pieces.size());
  SentencePieceSource library = source;
  library.use_library = true;
  SentencePieceTokenizer ours(std::move(source)), theirs(std::move(library));
  for (int i = 0; i < 200; ++i) {
    std::string text = random_text(random);
    auto got = ours.encode(text);
    ASSERT_EQ(got, theirs.encode(text)) << "text: " << text;
    for (int32_t id : got) {
      ASSERT_NE(model.pieces[id].kind, TokenKind::kControl);
      seen.unused += model.pieces[id].kind == TokenKind::kUnused;
      seen.unknown += model.pieces[id].kind == TokenKind::kUnknown;
    }
    seen.ids += got.size();
  }
}

TEST(SentencePieceBpe, IdsEqualTheLibrarys) {
  std::mt19937 random(7);
  Seen seen;
  for (int m = 0; m < 60; ++m) {
    SentencePieceSource source;
    source.model = random_model(random, m % 2 == 0);
    ASSERT_TRUE(SentencePieceBpe::fits(source.model));
    ASSERT_NO_FATAL_FAILURE(compare_with_library(std::move(source), random, seen)) << m;
  }
  EXPECT_GT(seen.ids, 100'000u);
  EXPECT_GT(seen.unused, 0u);  // those of one character stay
}

TEST(SentencePieceUnigram, IdsEqualTheLibrarys) {
  std::mt19937 random(11);
  Seen seen;
  for (int m = 0; m < 60; ++m) {
    SentencePieceSource source;
    source.model = random_model(random, m % 3 == 0);
    source.model.algorithm = SentencePieceModel::kUnigram;
    source.model.remove_extra_whitespaces = random() % 2 == 0;
    source.model.escape_whitespaces = random() % 4 != 0;
    for (Piece& piece : source.model.pieces) {
      if (piece.kind == TokenKind::kUserDefined) piece.kind = TokenKind::kNormal;
    }
    ASSERT_TRUE(SentencePieceUnigram::fits(source.model));
    ASSERT_NO_FATAL_FAILURE(compare_with_library(std::move(source), random, seen)) << m;
  }
  EXPECT_GT(seen.ids, 50'000u);
  EXPECT_GT(seen.unknown, 1'000u);
}

/// XLM-R's own vocabulary with its charsmap, on real text in which anything may stand.
TEST(SentencePieceUnigram, IdsEqualTheLibrarysForXlmR) {
  Path file = test::models_dir() / "e5-small-q4" / "sentencepiece.bpe.model";
  if (!std::filesystem::exists(file)) file = file.parent_path() / "tokenizer.model";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "model not fetched: " << file;
  SentencePieceSource source;
  source.model = parse_sentencepiece_model(*read_file_if_exists(file, 64 << 20), "e5");
  ASSERT_TRUE(SentencePieceUnigram::fits(source.model));
  source.file = "e5";
  source.roles.control.resize(source.model.pieces.size());
  SentencePieceSource library = source;
  library.use_library = true;
  SentencePieceTokenizer ours(std::move(source)), theirs(std::move(library));
  test::MixedText text(Path(test::test_data()) / "tokenizers" / "seed.txt");
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(ours.encode(text.raw(i)) == theirs.encode(text.raw(i))) << "block " << i;
  }
  for (const char* odd :
       {"", " ", "\xE3\x80\x80", " \xC2\xA0x", "x\xE2\x80\x8B ", "\xEF\xBF\xBD\xFF"})
    EXPECT_EQ(ours.encode(odd), theirs.encode(odd)) << odd;
}

/// The library gives content the id of a control piece of one character; we do not.
TEST(SentencePieceBpe, NeverAControlPieceFromContent) {
  std::mt19937 random(1);
  SentencePieceSource source;
  source.file = "one.model";
  source.model = random_model(random, true);
  source.model.pieces.push_back({"q", 0, TokenKind::kControl});
  int32_t q = static_cast<int32_t>(source.model.pieces.size()) - 1;
  source.roles.control.resize(source.model.pieces.size());
  source.roles.control[q] = 1;
  SentencePieceTokenizer tokenizer(std::move(source));
  for (int32_t id : tokenizer.encode("aqb q")) EXPECT_NE(id, q);
}

TEST(SentencePieceBpe, RefusesLongUserDefinedPieces) {
  std::mt19937 random(1);
  SentencePieceSource source;
  source.file = "long.model";
  source.model = random_model(random, true);
  source.model.pieces.push_back({std::string(513, 'x'), 0, TokenKind::kUserDefined});
  EXPECT_THROW(SentencePieceTokenizer(std::move(source)), Error);
}

}  // namespace
}  // namespace apud
