// Conversations of real models on the GPU (real_talks.h). With `deterministic` every bit is as from
// scratch; on the default path the share of equal answers is told, and answers may part only where
// the two highest logits lie closer than two ways to compute them.
#include "tests/engine/real_talks.h"

namespace apud {
namespace {

class CudaConversations : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string reason = cuda_unavailable_reason();
    if (!reason.empty()) GTEST_SKIP() << "no CUDA device: " << reason;
  }
};

void run_on_gpu(const char* file, bool deterministic) {
  test::TalksOptions options;
  options.executor = [deterministic](const Model& model) {
    CudaOptions cuda;
    cuda.deterministic = deterministic;
    auto executor = make_cuda_executor(model.program(), model.weights(), cuda);
    EXPECT_EQ(executor->name().substr(0, 7), "cuda-sm");
    return executor;
  };
  test::choose_conversations(options, 8);
  options.exact = deterministic;
  test::run_talks(file, options);
}

TEST_F(CudaConversations, SmolLM2IsBitIdentical) {
  APUD_REQUIRE_MODEL("smollm2-135m.gguf");
  run_on_gpu("smollm2-135m.gguf", true);
}

TEST_F(CudaConversations, Qwen25IsBitIdentical) {
  APUD_REQUIRE_MODEL("qwen2.5-coder-0.5b.gguf");
  run_on_gpu("qwen2.5-coder-0.5b.gguf", true);
}

TEST_F(CudaConversations, SmolLM2PartsOnlyWhereItIsClose) {
  APUD_REQUIRE_MODEL("smollm2-135m.gguf");
  run_on_gpu("smollm2-135m.gguf", false);
}

TEST_F(CudaConversations, Qwen25PartsOnlyWhereItIsClose) {
  APUD_REQUIRE_MODEL("qwen2.5-coder-0.5b.gguf");
  run_on_gpu("qwen2.5-coder-0.5b.gguf", false);
}

}  // namespace
}  // namespace apud
