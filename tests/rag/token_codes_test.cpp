#include "rag/token_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace apud {
namespace {

std::vector<float> unit_rows(std::mt19937_64& random, size_t count, size_t width,
                             const std::vector<float>& around) {
  std::normal_distribution<float> normal(0, 0.05f);
  std::vector<float> rows;
  for (size_t r = 0; r < count; ++r) {
    double norm = 0;
    for (size_t d = 0; d < width; ++d) {
      rows.push_back(around[d] + normal(random));
      norm += double{rows.back()} * rows.back();
    }
    for (size_t d = 0; d < width; ++d)
      rows[r * width + d] = static_cast<float>(rows[r * width + d] / std::sqrt(norm));
  }
  return rows;
}

/// By its definition, in floats.
float max_sim(const std::vector<float>& center, const std::vector<float>& question,
              const std::vector<float>& rows, size_t begin, size_t end) {
  const size_t width = center.size();
  double sum = 0;
  const size_t n = question.size() / width;
  for (size_t q = 0; q < n; ++q) {
    double best = -1, norm = 0;
    for (size_t d = 0; d < width; ++d)
      norm += std::pow(double{question[q * width + d]} - center[d], 2);
    for (size_t r = begin; r < end; ++r) {
      double product = 0;
      for (size_t d = 0; d < width; ++d) {
        product +=
            (question[q * width + d] - center[d]) * (rows[r * width + d] > center[d] ? 1.0 : -1.0);
      }
      best = std::max(best, product / std::sqrt(norm * static_cast<double>(width)));
    }
    sum += best;
  }
  return static_cast<float>(sum / static_cast<double>(n));
}

const std::vector<std::string> kOne = {"one"};

/// The same centre for both scripts.
TokenCenters both(const std::vector<float>& center) {
  std::vector<float> values = center;
  values.insert(values.end(), center.begin(), center.end());
  return TokenCenters(values);
}

TEST(TokenCodes, EachPartIsSeenFromTheCentreOfItsScript) {
  const TokenCenters centers({0.0f, 0.0f, 0.5f, 0.5f});
  EXPECT_EQ(centers.width(), 2u);
  EXPECT_EQ(centers.of("boiler")[0], 0.0f);
  EXPECT_EQ(centers.of("see 锅炉")[0], 0.5f);
  const std::vector<std::string> texts = {"boiler", "锅炉"};
  const std::vector<float> rows = {0.4f, -0.4f, 0.4f, 0.6f};
  TokenCodes codes = TokenCodes::of(centers, texts, rows, std::vector<int>{1, 1});
  EXPECT_EQ(codes.bits, (std::vector<uint64_t>{0b01, 0b10}));
}

TEST(TokenCodes, MatchIsMaxSimOfTheSigns) {
  std::mt19937_64 random(5);
  for (size_t width : {1u, 64u, 100u, 384u}) {
    SCOPED_TRACE(width);
    std::vector<float> center(width, 0.05f);
    std::vector<float> rows = unit_rows(random, 9, width, center);
    std::vector<float> asked = unit_rows(random, 4, width, center);
    const std::vector<int> parts = {2, 0, 3, 4};
    const std::vector<std::string> texts = {"one two", "", "three", "four"};
    TokenCodes codes = TokenCodes::of(both(center), texts, rows, parts);
    TokenMatch match = TokenQuestion(center, asked).match(codes);
    EXPECT_NEAR(match.all, max_sim(center, asked, rows, 0, 9), 0.01);
    ASSERT_EQ(match.parts.size(), 4u);
    EXPECT_NEAR(match.parts[0], max_sim(center, asked, rows, 0, 2), 0.01);
    EXPECT_EQ(match.parts[1], kUnread);
    EXPECT_NEAR(match.parts[2], max_sim(center, asked, rows, 2, 5), 0.01);
    EXPECT_NEAR(match.parts[3], max_sim(center, asked, rows, 5, 9), 0.01);
    // A text that holds the question's own tokens is nearer than any other.
    TokenMatch own = TokenQuestion(center, asked)
                         .match(TokenCodes::of(both(center), kOne, asked, std::vector<int>{4}));
    EXPECT_GE(own.all, match.all);
  }
}

TEST(TokenCodes, NothingMatchesNothing) {
  std::vector<float> center(64, 0.0f), row(64, 0.125f);
  TokenCodes empty =
      TokenCodes::of(both(center), std::vector<std::string>{"", ""}, {}, std::vector<int>{0, 0});
  EXPECT_EQ(TokenQuestion(center, row).match(empty).all, -1);
  TokenCodes one = TokenCodes::of(both(center), kOne, row, std::vector<int>{1});
  EXPECT_EQ(TokenQuestion(center, {}).match(one).all, -1);
  EXPECT_EQ(TokenQuestion(center, center).match(one).all, -1) << "the centre points nowhere";
}

TEST(TokenCodes, UnpackGivesWhatWasPackedAndRefusesWhatWasNot) {
  std::mt19937_64 random(6);
  std::vector<float> center(100, 0.02f);
  const std::vector<std::string> texts = {"", "a", "b"};
  TokenCodes codes = TokenCodes::of(both(center), texts, unit_rows(random, 5, 100, center),
                                    std::vector<int>{0, 4, 1});
  const std::string bytes = codes.pack();
  EXPECT_EQ(bytes.size(), 2u + 3 * 2 + 5 * 2 * 8);
  auto back = TokenCodes::unpack(bytes, 100);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->words, codes.words);
  EXPECT_EQ(back->parts, codes.parts);
  EXPECT_EQ(back->bits, codes.bits);
  EXPECT_FALSE(TokenCodes::unpack(bytes, 200)) << "another embedder's";
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(TokenCodes::unpack(std::string_view(bytes).substr(0, size), 100)) << size;
  EXPECT_FALSE(TokenCodes::unpack(bytes + "x", 100));
  std::string lying = bytes;
  lying[0] = '\xff';
  lying[1] = '\xff';
  EXPECT_FALSE(TokenCodes::unpack(lying, 100));
}

}  // namespace
}  // namespace apud
