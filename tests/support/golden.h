// Reader of tests/data/golden (layout: its README) and the comparison that the project promises.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "kernels/quant.h"
#include "tests/support/paths.h"

namespace apud::test {

class GoldenBytes {
 public:
  explicit GoldenBytes(const std::string& file) {
    std::ifstream in(test::test_data() + "/golden/" + file, std::ios::binary);
    data_.assign(std::istreambuf_iterator<char>(in), {});
  }
  template <typename T>
  std::vector<T> take(size_t count) {
    std::vector<T> values(count);
    if (at_ + count * sizeof(T) > data_.size()) throw std::runtime_error("golden file ends early");
    std::memcpy(values.data(), data_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
    return values;
  }
  uint32_t number() { return take<uint32_t>(1)[0]; }
  std::string text(size_t size) {
    auto bytes = take<char>(size);
    return {bytes.begin(), bytes.end()};
  }
  bool done() const { return at_ == data_.size(); }

 private:
  std::string data_;
  size_t at_ = 0;
};

struct GoldenLogits {
  struct Position {
    float norm;
    std::vector<uint32_t> top_ids;
    std::vector<float> top, sampled;
  };
  uint32_t vocab = 0;
  std::vector<int32_t> ids;
  std::vector<uint32_t> samples;
  std::vector<Position> positions;

  explicit GoldenLogits(const std::string& name) {
    GoldenBytes in("logits-" + name + ".bin");
    if (in.text(4) != "APGL" || in.number() != 1) throw std::runtime_error("not golden logits");
    uint32_t count = in.number();
    vocab = in.number();
    uint32_t top = in.number(), sample_count = in.number();
    ids = in.take<int32_t>(count);
    samples = in.take<uint32_t>(sample_count);
    for (uint32_t i = 0; i < count; ++i) {
      Position p;
      p.norm = in.take<float>(1)[0];
      p.top_ids = in.take<uint32_t>(top);
      p.top = in.take<float>(top);
      for (uint16_t half : in.take<uint16_t>(sample_count))
        p.sampled.push_back(half_to_float(half));
      positions.push_back(std::move(p));
    }
    if (!in.done()) throw std::runtime_error("golden file is longer than it says");
  }

  /// Cosine between golden and `logits` (one row of vocab) over the top and the sampled ids.
  double cosine(size_t position, const float* logits) const {
    const Position& p = positions[position];
    double ab = 0, aa = 0, bb = 0;
    auto add = [&](double a, double b) {
      ab += a * b;
      aa += a * a;
      bb += b * b;
    };
    for (size_t i = 0; i < p.top.size(); ++i) add(p.top[i], logits[p.top_ids[i]]);
    for (size_t i = 0; i < samples.size(); ++i) add(p.sampled[i], logits[samples[i]]);
    return ab / std::sqrt(aa * bb);
  }
  /// Expects cosine, best id (where the golden gap is clear) and norm at a position to agree.
  void expect_agrees(size_t position, const float* logits, double least_cosine = 0.9999) const {
    const Position& p = positions[position];
    EXPECT_GE(cosine(position, logits), least_cosine) << "position " << position;
    uint32_t best = 0;
    double squares = 0;
    for (uint32_t i = 0; i < vocab; ++i) {
      if (logits[i] > logits[best]) best = i;
      squares += static_cast<double>(logits[i]) * logits[i];
    }
    if (p.top[0] - p.top[1] > 1e-3) {
      EXPECT_EQ(best, p.top_ids[0]) << "position " << position;
    }
    // The cosine ignores the length: a missing scale or soft cap shows here.
    EXPECT_NEAR(std::sqrt(squares) / p.norm, 1, 0.01) << "position " << position;
  }
};

struct GoldenVectors {
  struct Entry {
    uint32_t role;  // 0 none, 1 query, 2 document
    std::string text;
    std::vector<int32_t> ids;
    std::vector<float> vector;
  };
  std::vector<Entry> entries;

  explicit GoldenVectors(const std::string& name) {
    GoldenBytes in("vectors-" + name + ".bin");
    if (in.text(4) != "APGV" || in.number() != 1) throw std::runtime_error("not golden vectors");
    uint32_t count = in.number(), dim = in.number();
    for (uint32_t i = 0; i < count; ++i) {
      Entry e;
      e.role = in.number();
      e.text = in.text(in.number());
      e.ids = in.take<int32_t>(in.number());
      e.vector = in.take<float>(dim);
      entries.push_back(std::move(e));
    }
    if (!in.done()) throw std::runtime_error("golden file is longer than it says");
  }
};

}  // namespace apud::test
