// An executor that runs another one and remembers what each row of logits was: a hash of all of its
// bits, and how far the two highest lie apart.
//
// Threads: as the executor's.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "base/hash.h"
#include "kernels/backend.h"

namespace apud::test {

struct LogitRow {
  uint64_t hash = 0;
  float gap = 0;   // highest - second highest
  float size = 0;  // root of the mean square of all
  bool operator==(const LogitRow&) const = default;
};

/// Passes everything on: for those that look at some of it.
class PassingExecutor : public Executor {
 public:
  explicit PassingExecutor(std::unique_ptr<Executor> inner) : inner_(std::move(inner)) {}
  std::string name() const override { return inner_->name(); }
  const Program& program() const override { return inner_->program(); }
  std::unique_ptr<KvStore> make_kv(std::span<const int> pages, KvType type) override {
    return inner_->make_kv(pages, type);
  }
  KvType default_kv_type() const override { return inner_->default_kv_type(); }
  int max_step_tokens() const override { return inner_->max_step_tokens(); }
  size_t memory_bytes() const override { return inner_->memory_bytes(); }
  void run(const Batch& batch, KvStore* kv, std::span<float> out) override {
    inner_->run(batch, kv, out);
  }

 private:
  std::unique_ptr<Executor> inner_;
};

class Recorder : public PassingExecutor {
 public:
  Recorder(std::unique_ptr<Executor> inner, std::vector<LogitRow>& rows)
      : PassingExecutor(std::move(inner)), rows_(rows) {}
  void run(const Batch& batch, KvStore* kv, std::span<float> out) override {
    PassingExecutor::run(batch, kv, out);
    if (batch.output_rows.empty()) return;
    size_t width = out.size() / batch.output_rows.size();
    for (size_t i = 0; i < batch.output_rows.size(); ++i) {
      std::span<const float> logits = out.subspan(i * width, width);
      float first = -INFINITY, second = -INFINITY;
      double squares = 0;
      for (float value : logits) {
        squares += static_cast<double>(value) * value;
        second = std::max(second, std::min(first, value));
        first = std::max(first, value);
      }
      rows_.push_back({xxh3_64(logits.data(), logits.size_bytes()), first - second,
                       static_cast<float>(std::sqrt(squares / static_cast<double>(width)))});
    }
  }

 private:
  std::vector<LogitRow>& rows_;
};

}  // namespace apud::test
