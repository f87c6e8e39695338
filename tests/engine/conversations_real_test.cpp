// Conversations of real models on the CPU, whose default path is the deterministic one: with the
// cache every bit of every logit is as from scratch (real_talks.h).
#include "tests/engine/real_talks.h"

namespace apud {
namespace {

void run_on_cpu(const char* file, int few) {
  test::TalksOptions options;
  options.executor = [](const Model& model) {
    CpuOptions cpu;
    cpu.threads = 1;  // beside other tests two threads wait for each other more than they compute
    return make_cpu_executor(model.program(), model.weights(), cpu);
  };
  test::choose_conversations(options, few);
  test::run_talks(file, options);
}

TEST(RealConversations, SmolLM2IsBitIdentical) {
  APUD_REQUIRE_MODEL("smollm2-135m.gguf");
  run_on_cpu("smollm2-135m.gguf", 4);
}

TEST(RealConversations, Qwen25IsBitIdentical) {
  APUD_REQUIRE_MODEL("qwen2.5-coder-0.5b.gguf");
  run_on_cpu("qwen2.5-coder-0.5b.gguf", 2);
}

}  // namespace
}  // namespace apud
