// What the user reads before a model is loaded on a GPU, without a device.
#include "app/load_report.h"

#include <gtest/gtest.h>

#include "kernels/random_model.h"

namespace apud {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

LoadSubject subject_with(int64_t bytes, int context) {
  LoadSubject s{"llama-7b", "card", {}};
  s.request.device_bytes = bytes;
  s.request.context = context;
  s.request.sequences = 2;
  s.request.read_bytes_per_second = 1e12;
  return s;
}

TEST(LoadReport, TheLineAddsUp) {
  auto m = random_model("llama-7b:q4_k_m");
  LoadSubject s = subject_with(140 * kGiB, 4096);
  LoadPlan plan = plan_load(m->program, m->weights, s.request);
  ASSERT_TRUE(plan.fits);
  std::string line = load_plan_line(s, plan);
  EXPECT_NE(line.find("card: weights 4."), std::string::npos) << line;
  EXPECT_NE(line.find("16-bit copy 13.0"), std::string::npos) << line;
  EXPECT_NE(line.find("KV 4.3 (4096 tokens x 2 conversations)"), std::string::npos) << line;
  EXPECT_NE(line.find("of 150.3 GB free"), std::string::npos) << line;
}

TEST(LoadReport, ARefusalNamesTheLadderMostUsefulFirst) {
  auto m = random_model("llama-7b:q4_k_m");
  LoadSubject s = subject_with(12 * kGiB, 16384);
  LoadPlan plan = plan_load(m->program, m->weights, s.request);
  ASSERT_FALSE(plan.fits);
  CatalogueEntry small, large, embedder;
  small.id = "small", small.kind = "chat", small.approx_bytes = 1u << 30;
  large.id = "large", large.kind = "chat", large.approx_bytes = 9ull << 30;
  embedder.id = "embedder", embedder.kind = "embed", embedder.approx_bytes = 2u << 30;
  Error e = load_refusal(s, plan, {small, large, embedder});
  EXPECT_EQ(e.kind(), ErrorKind::kBusy);
  EXPECT_NE(std::string(e.what()).find("llama-7b does not fit card: weights 4."), std::string::npos)
      << e.what();
  const std::string& advice = e.advice();
  size_t int8 = advice.find("--kv i8"), model = advice.find("-m small (1.1 GB), at most 931 tok/s");
  ASSERT_NE(int8, std::string::npos) << advice;
  ASSERT_NE(model, std::string::npos) << advice;
  EXPECT_LT(int8, model);
  EXPECT_NE(advice.find("one sequence at a time (--ctx"), std::string::npos) << advice;
  EXPECT_EQ(advice.find("large"), std::string::npos) << advice;
  EXPECT_EQ(advice.find("embedder"), std::string::npos) << advice;
}

}  // namespace
}  // namespace apud
