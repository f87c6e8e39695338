// SentencePiece's ModelProto, read and written by ourselves: the library crashes on hostile files,
// so it only ever sees what we have checked and serialised again.
//
// Threads: values and free functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/tokenizers/special_tokens.h"

namespace apud {

/// U+2581, which stands for a space in pieces.
inline constexpr std::string_view kPieceSpace = "\xE2\x96\x81";
/// Positions are 32 bits wide: longer text is cut.
inline constexpr size_t kLongestText = 1u << 30;

struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    TokenKind kind = TokenKind::kNormal;
  };
  enum Algorithm { kUnigram = 1, kBpe = 2 };

  std::vector<Piece> pieces;
  int algorithm = kUnigram;
  bool byte_fallback = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  std::string charsmap;  // precompiled normaliser, empty: identity
};

/// Reads the protobuf wire format; unknown fields are skipped. Throws kBadData naming `file` and
/// byte.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& file);

/// Makes a model fit for the library or throws kBadData: one unknown piece, byte pieces spelled
/// right and all 256 with byte fallback, pieces of at most 64 KiB, finite scores, few nested
/// user-defined pieces, a charsmap whose every unit stays inside. Empty and repeated pieces become
/// unused ones.
void check_sentencepiece_model(SentencePieceModel& model, const std::string& file);

/// The wire format of a checked model.
std::string serialize_sentencepiece_model(const SentencePieceModel& model);

/// Byte of a piece spelled <0xHH>, or -1.
int byte_of_piece(std::string_view piece);

}  // namespace apud
