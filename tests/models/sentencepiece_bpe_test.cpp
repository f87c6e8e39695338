// Our SentencePiece BPE encoder against the library, on random vocabularies and texts.
#include "models/tokenizers/sentencepiece_bpe.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <set>

#include "base/error.h"
#include "models/tokenizers/sentencepiece_tokenizer.h"

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

TEST(SentencePieceBpe, IdsEqualTheLibrarys) {
  std::mt19937 random(7);
  size_t ids = 0, unused = 0;
  for (int m = 0; m < 60; ++m) {
    SentencePieceSource source;
    source.file = "random.model";
    source.model = random_model(random, m % 2 == 0);
    SentencePieceModel model = source.model;
    source.roles.control.resize(model.pieces.size());
    ASSERT_TRUE(SentencePieceBpe::fits(model));
    SentencePieceSource library = source;
    library.use_library = true;
    SentencePieceTokenizer ours(std::move(source)), theirs(std::move(library));
    for (int i = 0; i < 200; ++i) {
      std::string text = random_text(random);
      auto got = ours.encode(text);
      ASSERT_EQ(got, theirs.encode(text)) << "model " << m << ", text: " << text;
      for (int32_t id : got) {
        ASSERT_NE(model.pieces[id].kind, TokenKind::kControl);
        unused += model.pieces[id].kind == TokenKind::kUnused;
      }
      ids += got.size();
    }
  }
  EXPECT_GT(ids, 100'000u);
  EXPECT_GT(unused, 0u);  // those of one character stay
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
