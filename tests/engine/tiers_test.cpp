// Device, host memory, disk: what the tree gives up moves down, what a prompt needs moves up, and
// no answer ever depends on it. The fake device finishes transfers as late as a real one may.
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>

#include <random>

#include "engine/engine.h"
#include "engine/impl/host_tier.h"
#include "tests/support/fake_model.h"
#include "tests/support/temp_dir.h"

namespace apud {
namespace {

using test::FakeExecutor;
using test::FakeKv;
using test::FakeLog;
using test::FakeModel;

constexpr uint64_t kFakePage = kKvPageTokens * sizeof(uint64_t);

std::vector<int32_t> numbers(int n, int start = 0) {
  std::vector<int32_t> out;
  for (int i = 0; i < n; ++i) out.push_back((start * 31 + i * 7 + i * i % 5) % 251);
  return out;
}

struct Rig {
  Rig(bool device, uint64_t host_pages, const Path& folder = {}, bool choose = false,
      int context = 512) {
    EngineOptions options;
    options.context = context;  // of 512: 9 pages at least; twice that is taken
    options.host_bytes = host_pages * kFakePage;
    options.disk.folder = folder;
    options.disk.free_share = 1;
    options.disk.always_restore = !choose;
    auto executor = std::make_unique<FakeExecutor>(model->program(), log);
    executor->end_chance = 0;
    executor->device = device;
    engine = std::make_unique<Engine>(model, std::move(executor), options);
  }
  Answer ask(std::vector<int32_t> prompt, int max_tokens = 8) {
    Request request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    return engine->generate(request);
  }
  std::shared_ptr<FakeModel> model = std::make_shared<FakeModel>();
  std::shared_ptr<FakeLog> log = std::make_shared<FakeLog>();
  std::unique_ptr<Engine> engine;
};

TEST(Tiers, WhatLeavesTheDeviceComesBackFromHostMemory) {
  Rig rig(true, 64);
  Answer first = rig.ask(numbers(400, 1));
  for (int other = 2; other < 6; ++other) rig.ask(numbers(400, other));  // 7 pages each, 18 there
  Answer again = rig.ask(numbers(400, 1));
  const Usage& usage = again.receipt.usage;
  EXPECT_EQ(usage.cached_device + usage.cached_host, 399);
  EXPECT_GE(usage.cached_host, 300);
  EXPECT_EQ(usage.cached_disk, 0);
  EXPECT_EQ(usage.computed, 1);
  EXPECT_EQ(again.best().tokens, first.best().tokens);
  EXPECT_EQ(again.best().logprobs, first.best().logprobs);
  ASSERT_EQ(again.receipt.tiers.size(), 1u);
  EXPECT_EQ(again.receipt.tiers[0].tier, "host");
  EXPECT_TRUE(again.receipt.tiers[0].used);
  std::string text = receipt_details(again.receipt);
  EXPECT_NE(text.find("host " + std::to_string(usage.cached_host)), std::string::npos) << text;
  // Without the tier, and where KV is host memory already, it is computed.
  for (auto [device, pages] : {std::pair(true, 0), std::pair(false, 64)}) {
    Rig bare(device, static_cast<uint64_t>(pages));
    bare.ask(numbers(400, 1));
    for (int other = 2; other < 6; ++other) bare.ask(numbers(400, other));
    Answer computed = bare.ask(numbers(400, 1));
    EXPECT_EQ(computed.receipt.usage.cached_host, 0);
    EXPECT_GT(computed.receipt.usage.computed, 300);
    EXPECT_EQ(computed.best().logprobs, first.best().logprobs);
  }
}

TEST(Tiers, FromDiskThroughHostMemoryToTheDevice) {
  test::TempDir dir;
  Answer first;
  {
    Rig rig(true, 64, dir.path());
    first = rig.ask(numbers(450, 3));
    rig.engine->save_pending(5000);
  }
  Rig rig(true, 64, dir.path());
  Answer restored = rig.ask(numbers(450, 3));
  EXPECT_EQ(restored.receipt.usage.cached_disk, 449);
  EXPECT_EQ(restored.best().logprobs, first.best().logprobs);
  // It stays in host memory: evicted, it does not need the disk again.
  for (int other = 4; other < 8; ++other) rig.ask(numbers(450, other));
  Answer again = rig.ask(numbers(450, 3));
  EXPECT_GE(again.receipt.usage.cached_host, 300);
  EXPECT_EQ(again.receipt.usage.cached_disk, 0);
  EXPECT_EQ(again.best().logprobs, first.best().logprobs);
}

TEST(Tiers, ATierThatIsSlowerThanComputingIsNotUsedAndSaid) {
  Rig rig(true, 64, {}, true);  // the fake computes faster than its host memory moves
  rig.ask(numbers(400, 1));
  for (int other = 2; other < 6; ++other) rig.ask(numbers(400, other));
  rig.ask(numbers(400, 1));  // not measured yet: used
  bool computed = false;
  for (int round = 0; round < 12 && !computed; ++round) {
    Answer answer = rig.ask(numbers(400, 1 + round % 6));
    for (const TierChoice& choice : answer.receipt.tiers) {
      EXPECT_EQ(choice.used, choice.restore_seconds <= choice.compute_seconds);
      if (choice.used) continue;
      computed = true;
      EXPECT_EQ(answer.receipt.usage.cached_host, 0);
      EXPECT_NE(receipt_details(answer.receipt).find("computed (predicted"), std::string::npos);
    }
  }
  EXPECT_TRUE(computed);
}

TEST(Tiers, AFirstRestoreFromDiskStopsWhereComputingIsFaster) {
  for (double prefill_rate : {1e11, 1e-3}) {
    test::TempDir dir;
    Answer first;
    {
      Rig rig(false, 0, dir.path(), false, 2048);
      first = rig.ask(numbers(1200, 3));
      rig.engine->save_pending(5000);
    }
    // As after a process that computed, at a given speed, and never restored.
    int files = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir.path())) {
      if (entry.path().filename() != "rates.json") continue;
      std::ofstream(entry.path()) << "{\"prefill_tokens_per_second\": " << prefill_rate << "}";
      ++files;
    }
    ASSERT_EQ(files, 1);
    Rig rig(false, 0, dir.path(), true, 2048);
    Answer again = rig.ask(numbers(1200, 3));
    EXPECT_EQ(again.best().logprobs, first.best().logprobs);
    const std::vector<TierChoice>& tiers = again.receipt.tiers;
    bool computes = prefill_rate > 1;
    ASSERT_EQ(tiers.size(), computes ? 2u : 1u);
    EXPECT_TRUE(tiers[0].used);
    EXPECT_EQ(again.receipt.usage.cached_disk, computes ? 12 * kKvPageTokens : 1199);
    EXPECT_EQ(tiers[0].tokens, again.receipt.usage.cached_disk);
    if (!computes) continue;
    EXPECT_FALSE(tiers[1].used);
    EXPECT_EQ(tiers[1].tokens, 1199 - 12 * kKvPageTokens);
    EXPECT_GT(tiers[1].restore_seconds, tiers[1].compute_seconds);
  }
}

TEST(Tiers, ForgettingForgetsHostMemoryToo) {
  Rig rig(true, 64);
  rig.ask(numbers(400, 1));
  for (int other = 2; other < 6; ++other) rig.ask(numbers(400, other));
  EXPECT_GT(rig.engine->reusable(numbers(400, 1)).total, 300);
  rig.engine->clear_cache();
  EXPECT_EQ(rig.engine->reusable(numbers(400, 1)).total, 0);
  EXPECT_EQ(rig.ask(numbers(400, 1)).receipt.usage.cached, 0);
}

/// Prompts that share, diverge inside pages and come back, over small tiers: every answer as from
/// scratch.
TEST(Tiers, AnswersNeverDependOnThem) {
  std::mt19937 random(7);
  EngineOptions plain;
  plain.context = 512;
  plain.prefix_cache = false;
  int64_t from_host = 0, from_disk = 0;
  for (int world = 0; world < 6; ++world) {
    test::TempDir dir;
    bool disk = world % 2;
    auto rig = std::make_unique<Rig>(true, 3 + random() % 20, disk ? dir.path() : Path());
    Rig truth(false, 0);
    auto scratch = std::make_unique<FakeExecutor>(truth.model->program(), truth.log);
    scratch->end_chance = 0;
    Engine uncached(truth.model, std::move(scratch), plain);
    std::vector<std::vector<int32_t>> seen;
    for (int step = 0; step < 150; ++step) {
      std::vector<int32_t> prompt;
      if (!seen.empty() && random() % 4) {
        prompt = seen[random() % seen.size()];
        prompt.resize(1 + random() % prompt.size());
      }
      auto more = numbers(1 + static_cast<int>(random() % 150), static_cast<int>(random() % 40));
      prompt.insert(prompt.end(), more.begin(), more.end());
      if (prompt.size() > 480) prompt.resize(480);
      Answer answer = rig->ask(prompt, 1 + static_cast<int>(random() % 20));
      Request request;
      request.prompt = prompt;
      request.max_tokens = static_cast<int>(answer.best().tokens.size());
      Answer expected = uncached.generate(request);
      ASSERT_EQ(answer.best().tokens, expected.best().tokens) << "world " << world << ", " << step;
      ASSERT_EQ(answer.best().logprobs, expected.best().logprobs);
      const Usage& usage = answer.receipt.usage;
      ASSERT_EQ(usage.cached, usage.cached_device + usage.cached_host + usage.cached_disk);
      from_host += usage.cached_host;
      from_disk += usage.cached_disk;
      prompt.insert(prompt.end(), answer.best().tokens.begin(), answer.best().tokens.end());
      seen.push_back(prompt);
      if (disk && random() % 25 == 0) {
        rig->engine->save_pending(2000);
        rig.reset();
        rig = std::make_unique<Rig>(true, 3 + random() % 20, dir.path());
      }
    }
  }
  EXPECT_GT(from_host, 2000);
  EXPECT_GT(from_disk, 2000);
}

// --- The host tier alone ------------------------------------------------------------------------

TEST(HostTier, KeepsItsLimitAndGivesUpTheCheapestLeastUsed) {
  FakeKv kv(4, true);
  HostTier tier(kv, kFakePage, 5 * kFakePage + 17, 0);
  EXPECT_EQ(tier.page_count(), 5);
  auto tokens = numbers(64 * 8, 2);
  for (int block = 0; block < 5; ++block) {
    int slot = tier.put(std::span(tokens).first(static_cast<size_t>(64 * (block + 1))), block);
    ASSERT_GE(slot, 0);
    std::fill(tier.bytes(slot).begin(), tier.bytes(slot).end(), static_cast<std::byte>(block));
  }
  EXPECT_EQ(tier.match_length(tokens, 0), 320);
  EXPECT_EQ(tier.put(tokens, 2), -1) << "there already";
  tier.find(tokens, 0);  // used: block 1 is the oldest now
  ASSERT_GE(tier.put(std::span(tokens).first(384), 5), 0);
  EXPECT_EQ(tier.find(tokens, 1).slot, -1);
  EXPECT_EQ(tier.match_length(tokens, 0), 64);
  HostTier::Page page = tier.find(tokens, 4);
  ASSERT_GE(page.slot, 0);
  EXPECT_EQ(tier.bytes(page.slot)[9], std::byte{4});
}

TEST(HostTier, PartialPagesShareWhatIsCommon) {
  FakeKv kv(4, true);
  HostTier tier(kv, kFakePage, 8 * kFakePage, 0);
  auto tokens = numbers(100, 3);
  ASSERT_GE(tier.put(std::span(tokens).first(64), 0), 0);
  ASSERT_GE(tier.put(std::span(tokens).first(80), 1), 0);
  auto other = tokens;
  other[75] += 1;
  EXPECT_EQ(tier.match_length(tokens, 0), 80);
  EXPECT_EQ(tier.match_length(other, 0), 75);
  EXPECT_EQ(tier.match_length(other, 75), 75) << "nothing beyond";
  ASSERT_GE(tier.put(std::span(tokens).first(90), 1), 0) << "longer: takes the shorter one's place";
  EXPECT_EQ(tier.match_length(tokens, 0), 90);
  ASSERT_GE(tier.put(std::span(other).first(76), 1), 0);
  EXPECT_EQ(tier.match_length(other, 0), 76);
}

TEST(HostTier, HeldPagesStay) {
  FakeKv kv(4, true);
  HostTier tier(kv, kFakePage, 2 * kFakePage, 0);
  auto a = numbers(64, 1), b = numbers(64, 2), c = numbers(64, 3);
  tier.hold(tier.put(a, 0));
  tier.hold(tier.put(b, 0));
  EXPECT_EQ(tier.put(c, 0), -1);
  tier.release_held();
  EXPECT_GE(tier.put(c, 0), 0);
  EXPECT_EQ(tier.find(a, 0).slot, -1);
  EXPECT_GE(tier.find(b, 0).slot, 0);
}

}  // namespace
}  // namespace apud
