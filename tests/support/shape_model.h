// A random model (kernels/random_model.h) with enough of a tokenizer for the engine.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/random_model.h"
#include "tests/support/fake_model.h"

namespace apud::test {

class ShapeModel : public FakeModel {
 public:
  explicit ShapeModel(const std::string& description,
                      std::vector<int32_t> stops = {FakeTokenizer::kEnd})
      : FakeModel(nullptr, std::string(32, 'f'), std::move(stops)),
        random_(random_model(description)) {
    config_.name = description;
  }
  const ModelConfig& config() const override { return config_; }
  const Program& program() const override { return random_->program; }
  const Weights& weights() const override { return random_->weights; }

 private:
  std::unique_ptr<RandomModel> random_;
  ModelConfig config_;
};

}  // namespace apud::test
