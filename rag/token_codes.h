// A text's single tokens, kept as the signs of their vectors, for late interaction at the cost of a
// look-up.
//
// Vectors of tokens all point into one narrow cone. Around its centre their signs alone (a bit a
// dimension) say nearly what the vectors do, and MaxSim of the centred vectors orders the
// candidates of a search far better than that of the vectors themselves (docs/performance.md,
// "Retrieval").
//
// Threads: all const functions are re-entrant.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rag/embedder.h"

namespace apud {

/// Where the tokens of an embedder lie: means of their unit vectors, one seen from text without
/// CJK, one from text with it.
class TokenCenters {
 public:
  TokenCenters() = default;
  /// Measured on a built-in text, some 1,100 tokens of two languages and many subjects. REQUIRES:
  /// token_width() > 0.
  static TokenCenters measure(TextEmbedder& embedder);
  /// As values() gave them.
  explicit TokenCenters(std::vector<float> values) : values_(std::move(values)) {}

  bool empty() const { return values_.empty(); }
  size_t width() const { return values_.size() / 2; }
  /// (width): the centre of a text's tokens.
  std::span<const float> of(std::string_view text) const;
  /// (2, width), for the store.
  const std::vector<float>& values() const { return values_; }

 private:
  std::vector<float> values_;
};

/// Signs of the vectors of a text's tokens, part by part (its heading, then its sentences).
struct TokenCodes {
  size_t words = 0;             // of 64 bits, a token
  std::vector<uint16_t> parts;  // tokens of each part
  std::vector<uint64_t> bits;   // (tokens, words), a set bit: above the centre

  /// texts: the parts; rows: (tokens, width) of them all; counts: tokens of each part.
  static TokenCodes of(const TokenCenters& centers, std::span<const std::string> texts,
                       std::span<const float> rows, std::span<const int> counts);
  /// For the store; little-endian whatever the machine.
  std::string pack() const;
  /// None where the bytes are no codes of that width: damaged, or of another embedder.
  static std::optional<TokenCodes> unpack(std::string_view bytes, size_t width);
};

/// How well a text's tokens hold those of a question: MaxSim (ColBERT: Khattab & Zaharia, SIGIR
/// 2020), the mean over the question's tokens of the best cosine around the centre.
struct TokenMatch {
  float all = 0;             // with any part's tokens
  std::vector<float> parts;  // with each part's own; kUnread for a part without tokens
};

/// A question's tokens, ready to be compared.
class TokenQuestion {
 public:
  /// center: of the question's own text, (width); rows: (tokens, width), unit.
  TokenQuestion(std::span<const float> center, std::span<const float> rows);
  /// REQUIRES: codes of the same width. A question or a text without tokens matches nothing (-1).
  TokenMatch match(const TokenCodes& codes) const;

 private:
  /// A centred unit vector in 8 bits a dimension, by planes of bits, so that its product with a row
  /// of signs is a count of bits.
  struct Token {
    std::vector<uint64_t> planes;  // (8, words)
    float scale = 0;               // of a unit of the 8 bits, over the length of a row of signs
    int64_t sum = 0;               // over dimensions, around 128
  };
  size_t words_ = 0;
  std::vector<Token> tokens_;
};

}  // namespace apud
