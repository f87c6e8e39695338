// What the corpora of bad files share: each file is refused as bad data, soon, with a message; how
// many there were is printed at the end (docs name the numbers to reach).
//
// Threads: one thread.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <ctime>
#include <optional>
#include <string>

#include "base/error.h"

namespace apud::test {

// CPU time, so that a busy machine fails no test; sanitizers slow everything down.
#ifdef __SANITIZE_ADDRESS__
inline constexpr double kSlower = 10;
#else
inline constexpr double kSlower = 1;
#endif
inline constexpr double kCorpusSeconds = 0.1 * kSlower;

inline double cpu_seconds(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

class CorpusCount : public testing::Environment {
 public:
  static inline int files = 0;
  void TearDown() override { std::printf("corpus: %d files\n", files); }
};
inline testing::Environment* const kCorpusCount =
    testing::AddGlobalTestEnvironment(new CorpusCount);

/// What `body` throws.
template <class Body>
std::optional<Error> error_of(Body&& body) {
  try {
    body();
  } catch (const Error& e) {
    return e;
  }
  return std::nullopt;
}

/// The message with which `load` refuses a file, empty when it loads; within `seconds`.
template <class Load>
std::string refusal_of(Load&& load, double seconds = kCorpusSeconds) {
  ++CorpusCount::files;
  std::clock_t start = std::clock();
  std::optional<Error> error = error_of(load);
  std::string message = error ? error->what() : "";
  if (error) {
    EXPECT_EQ(error->kind(), ErrorKind::kBadData) << message;
  }
  EXPECT_LT(cpu_seconds(start), seconds) << message;
  return message;
}

}  // namespace apud::test
