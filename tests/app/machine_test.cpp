#include "app/machine.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "app/progress.h"

namespace apud {
namespace {

CatalogueEntry entry(const std::string& id, double gigabytes, const std::string& registry = "",
                     const std::string& hub = "hub/repo") {
  CatalogueEntry e;
  e.id = id;
  e.kind = "chat";
  e.files = {{"f", static_cast<uint64_t>(gigabytes * 1e9), ""}};
  e.registry = registry;
  e.hub_repo = hub;
  return e;
}

const std::vector<CatalogueEntry>& entries() {
  static const std::vector<CatalogueEntry> all = [] {
    std::vector<CatalogueEntry> list = {entry("small", 0.4, "small"),
                                        entry("coder", 1.0, "coder", ""), entry("general", 1.02),
                                        entry("large", 4.7), entry("huge", 9.0)};
    CatalogueEntry gated = entry("gated", 2.5);
    gated.needs_acceptance = true;
    CatalogueEntry base = entry("base", 3.0);
    base.base = true;
    CatalogueEntry embed = entry("embed", 2.0);
    embed.kind = "embed";
    list.insert(list.begin(), {gated, base, embed});
    return list;
  }();
  return all;
}

constexpr uint64_t kGiB = 1ull << 30;

std::string chosen(uint64_t memory, double bandwidth, bool hub) {
  Recommendation r = recommend_model(entries(), memory, bandwidth, hub);
  EXPECT_EQ(r.entry == nullptr, r.reason.empty());
  if (!r.entry) return "";
  EXPECT_NE(r.reason.find(r.entry->id), std::string::npos) << r.reason;
  return r.entry->id;
}

TEST(RecommendModel, TheLargestThatFitsAndIsFast) {
  EXPECT_EQ(chosen(64 * kGiB, 200e9, true), "huge");
  EXPECT_EQ(chosen(64 * kGiB, 60e9, true), "large") << "9 GB at 60 GB/s is slower than 6 tok/s";
  EXPECT_EQ(chosen(8 * kGiB, 200e9, true), "large") << "memory";
  EXPECT_EQ(chosen(3 * kGiB, 200e9, true), "general");
  EXPECT_EQ(chosen(kGiB + 500'000'000, 200e9, true), "small");
  EXPECT_EQ(chosen(kGiB, 200e9, true), "");
  EXPECT_EQ(chosen(64 * kGiB, 1e9, true), "general")
      << "speed never leads below the default's size";
  EXPECT_EQ(chosen(64 * kGiB, 1e9, false), "coder");
}

TEST(RecommendModel, OnlyWhatCanBeReachedAndNeedsNoConsent) {
  EXPECT_EQ(chosen(64 * kGiB, 200e9, false), "coder") << "the registry's largest";
  EXPECT_NE(recommend_model(entries(), 64 * kGiB, 200e9, false).reason.find("not reached"),
            std::string::npos);
  EXPECT_EQ(chosen(4 * kGiB, 20e9, true), "general")
      << "a general model before a coder of its size; gated, base and embedders never";
}

TEST(RecommendModel, ASlowMachineIsNotPromisedNothing) {
  const std::string reason = recommend_model(entries(), 64 * kGiB, 1e9, false).reason;
  EXPECT_EQ(reason.find("about 0 tok/s"), std::string::npos) << reason;
  EXPECT_NE(reason.find("about 0."), std::string::npos) << reason;
}

TEST(RecommendModel, TheOrderOfTheCatalogueDoesNotMatter) {
  for (double bandwidth : {5e9, 20e9, 60e9, 200e9}) {
    for (uint64_t memory : {kGiB + 500'000'000, 3 * kGiB, 64 * kGiB}) {
      std::vector<CatalogueEntry> reversed(entries().rbegin(), entries().rend());
      Recommendation r = recommend_model(reversed, memory, bandwidth, true);
      EXPECT_EQ(r.entry ? r.entry->id : "", chosen(memory, bandwidth, true))
          << memory << " " << bandwidth;
    }
  }
}

TEST(Machine, FactsAreThere) {
  MachineFacts facts = machine_facts();
  EXPECT_GE(facts.cpus, 1);
  EXPECT_GT(facts.memory_bytes, 100'000'000u);
  EXPECT_GT(facts.available_bytes, 0u);
  EXPECT_LE(facts.available_bytes, facts.memory_bytes);
}

TEST(Numbers, CommasAndBytes) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(-1234567), "-1,234,567");
  EXPECT_EQ(with_commas(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1'536'000), "1.5 MB");
  EXPECT_EQ(human_bytes(491'400'064), "491 MB");
  EXPECT_EQ(human_bytes(999'999), "1.0 MB") << "never 1000 kB";
  EXPECT_EQ(human_bytes(9'990'000'000), "10 GB");
}

}  // namespace
}  // namespace apud
