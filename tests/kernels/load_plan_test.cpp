// The plan made before loading, and the ladder of what would fit, without a device.
#include "kernels/load_plan.h"

#include <gtest/gtest.h>

#include "kernels/random_model.h"

namespace apud {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

TEST(LoadPlan, KvBytesAreWholePagesOfEveryLayer) {
  auto m = random_model("llama-3-8b:q4_k_m");
  // 32 layers, K and V, 8 heads of 128 halves: 128 KiB a token.
  EXPECT_EQ(kv_bytes(m->program, 64, KvType::kF16), 64 * 128 * 1024);
  EXPECT_EQ(kv_bytes(m->program, 1, KvType::kF16), 64 * 128 * 1024);
  EXPECT_EQ(kv_bytes(m->program, 65, KvType::kF16), 128 * 128 * 1024);
  EXPECT_EQ(kv_bytes(m->program, 64, KvType::kI8), 64 * 32 * 2 * 8 * (128 + 4));
}

TEST(LoadPlan, WindowsKeepTheirPagesButAreReadAlone) {
  auto m = random_model("tiny:f16");
  LoadRequest r;
  r.device_bytes = kGiB;
  r.context = 1 << 24;
  r.read_bytes_per_second = 1e12;
  const int64_t all = kv_bytes(m->program, 8192, KvType::kF16);
  const LoadPlan plain = plan_load(m->program, m->weights, r);
  m->program.kv_groups[0].window = 512;
  EXPECT_EQ(kv_bytes(m->program, 8192, KvType::kF16), all) << "as the engine allocates";
  const LoadPlan windowed = plan_load(m->program, m->weights, r);
  ASSERT_FALSE(plain.ladder.empty());
  ASSERT_EQ(plain.ladder.size(), windowed.ladder.size());
  EXPECT_EQ(windowed.ladder[0].context, plain.ladder[0].context);
  EXPECT_GT(windowed.ladder[0].tokens_per_second, 2 * plain.ladder[0].tokens_per_second);
}

TEST(LoadPlan, PagesInWhichSequencesPartAreCounted) {
  auto m = random_model("llama-7b:q4_k_m");
  LoadRequest r;
  r.device_bytes = 140 * kGiB;
  r.sequences = 256;
  r.spare_tokens = 2 * kKvPageTokens;
  const LoadPlan p = plan_load(m->program, m->weights, r);
  ASSERT_TRUE(p.fits);
  EXPECT_EQ(p.kv, 256 * kv_bytes(m->program, p.context + r.spare_tokens, r.kv_type));
  EXPECT_LE(p.total(), r.device_bytes);
  r.spare_tokens = 0;
  EXPECT_EQ(plan_load(m->program, m->weights, r).context, p.context + 2 * kKvPageTokens);
}

TEST(LoadPlan, AutoContextTakesWhatFitsAndNoMore) {
  auto m = random_model("llama-3-8b:q4_k_m");
  LoadRequest r;
  r.device_bytes = 16 * kGiB;
  LoadPlan p = plan_load(m->program, m->weights, r);
  ASSERT_TRUE(p.fits);
  EXPECT_EQ(p.context % kKvPageTokens, 0);
  EXPECT_LE(p.total(), r.device_bytes);
  EXPECT_GT(p.total() + kv_bytes(m->program, kKvPageTokens, r.kv_type), r.device_bytes);
  r.device_bytes = 140 * kGiB;
  p = plan_load(m->program, m->weights, r);
  EXPECT_EQ(p.context, m->program.max_positions) << "never beyond what the model was made for";
  EXPECT_GT(p.half_copy, 0);
}

TEST(LoadPlan, ARefusalComesWithWhatWouldFit) {
  auto m = random_model("llama-7b:q4_k_m");
  LoadRequest r;
  r.device_bytes = 12 * kGiB;
  r.context = 16384;
  r.read_bytes_per_second = 1e12;
  LoadPlan p = plan_load(m->program, m->weights, r);
  EXPECT_FALSE(p.fits);
  ASSERT_GE(p.ladder.size(), 2u);
  for (const LoadStep& s : p.ladder) {
    LoadRequest again = r;
    again.context = s.context;
    again.kv_type = s.kv_type;
    again.sequences = s.sequences;
    EXPECT_TRUE(plan_load(m->program, m->weights, again).fits) << s.change;
    EXPECT_GT(s.tokens_per_second, 0);
    EXPECT_LE(s.context, r.context);
  }
  EXPECT_EQ(p.ladder[0].kv_type, KvType::kI8);
  r.device_bytes = 2 * kGiB;
  p = plan_load(m->program, m->weights, r);
  EXPECT_FALSE(p.fits);
  EXPECT_TRUE(p.ladder.empty()) << "the weights alone do not fit";
}

TEST(LoadPlan, MoreSequencesAreFreeOnlyWhereNothingShrinks) {
  auto m = random_model("llama-7b:q4_k_m");
  LoadRequest r;
  r.sequences = 4;
  auto free_on = [&](int64_t gib) {
    r.device_bytes = gib * kGiB;
    return more_sequences_are_free(m->program, m->weights, r, 8);
  };
  // Eight contexts of 4,096 tokens are 16 GiB, the weights 4.
  r.context = 4096;
  EXPECT_TRUE(free_on(140));
  EXPECT_TRUE(free_on(24)) << "there is no 16-bit copy with four either";
  EXPECT_FALSE(free_on(16)) << "would be refused";
  r.context = 0;
  EXPECT_FALSE(free_on(24)) << "a shorter context";
  r.context = 4096;
  // Cards that hold the 16-bit copy beside four of them alone.
  auto has_copy = [&](int64_t gib, int sequences) {
    LoadRequest of = r;
    of.device_bytes = gib * kGiB;
    of.sequences = sequences;
    return plan_load(m->program, m->weights, of).half_copy > 0;
  };
  int64_t gib = 24;
  while (gib < 140 && !(has_copy(gib, 4) && !has_copy(gib, 8))) ++gib;
  ASSERT_LT(gib, 140);
  EXPECT_FALSE(free_on(gib)) << "of " << gib << " GiB";
}

}  // namespace
}  // namespace apud
