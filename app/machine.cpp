#include "app/machine.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <new>

#include "app/progress.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "kernels/prefetch.h"

namespace apud {

namespace {

uint64_t meminfo(const char* key) {
  std::ifstream in("/proc/meminfo");
  std::string line;
  while (std::getline(in, line)) {
    if (line.rfind(key, 0) == 0)
      return std::strtoull(line.c_str() + std::strlen(key), nullptr, 10) * 1024;
  }
  return 0;
}

/// Memory limit of this process's cgroup, if one is set.
std::optional<uint64_t> cgroup_limit() {
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream in(path);
    uint64_t value = 0;
    if (in >> value && value < (1ull << 60)) return value;
  }
  return std::nullopt;
}

}  // namespace

MachineFacts machine_facts() {
  MachineFacts facts;
  std::ifstream in("/proc/cpuinfo");
  std::string line;
  while (std::getline(in, line)) {
    if (line.rfind("model name", 0) == 0) {
      facts.cpu = line.substr(line.find(':') + 2);
      break;
    }
  }
  facts.cpus = usable_cpus();
  facts.memory_bytes = meminfo("MemTotal:");
  facts.available_bytes = meminfo("MemAvailable:");
  if (auto limit = cgroup_limit()) {
    facts.memory_bytes = std::min(facts.memory_bytes, *limit);
    facts.available_bytes = std::min(facts.available_bytes, *limit);
  }
  facts.nvidia_card = std::filesystem::exists("/proc/driver/nvidia/version");
  return facts;
}

double measure_read_bandwidth(int threads) {
  constexpr uint64_t kMost = uint64_t{1} << 30, kLeast = 64u << 20, kHugePage = 2u << 20;
  const size_t bytes =
      std::clamp(machine_facts().available_bytes / 4, kLeast, kMost) / kHugePage * kHugePage;
  std::unique_ptr<void, decltype(&std::free)> buffer(std::aligned_alloc(kHugePage, bytes),
                                                     &std::free);
  if (buffer == nullptr) throw std::bad_alloc();
  madvise(buffer.get(), bytes, MADV_HUGEPAGE);  // as weights lie; a wish: refusal is fine
  ThreadPool pool(threads);
  std::vector<double> rates;
  std::atomic<uint64_t> sink{0};
  const size_t words = bytes / 8 / static_cast<size_t>(threads) / 8 * 8;
  auto part = [&](int worker) {
    return static_cast<uint64_t*>(buffer.get()) + words * static_cast<size_t>(worker);
  };
  pool.run([&](int worker) { std::memset(part(worker), 1, words * 8); });  // every page is touched
  for (int pass = 0; pass < 3; ++pass) {
    auto start = std::chrono::steady_clock::now();
    pool.run([&](int worker) {
      const uint64_t* data = part(worker);
      const PrefetchDistance ahead = prefetch_distance;
      uint64_t sums[8] = {};
      for (size_t i = 0; i < words; i += 8) {
        // As far ahead as the kernels do: a core's own prefetcher has a fifth less.
        __builtin_prefetch(data + i + ahead.first / 8, 0, 3);
        __builtin_prefetch(data + i + ahead.second / 8, 0, 2);
        for (size_t j = 0; j < 8; ++j) sums[j] += data[i + j];
      }
      uint64_t sum = 0;
      for (uint64_t one : sums) sum += one;
      sink += sum;
    });
    double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    rates.push_back(static_cast<double>(words * 8) * threads / seconds);
  }
  return *std::max_element(rates.begin(), rates.end());  // other work only ever slows a pass
}

Recommendation recommend_model(const std::vector<CatalogueEntry>& entries, uint64_t memory_bytes,
                               double read_bandwidth, bool hub_reachable) {
  constexpr double kReadShare = 0.5;  // measured: 0.52 to 0.69, by path (docs/performance.md)
  constexpr double kUsableTokensPerSecond = 6;
  constexpr uint64_t kRoom = 1ull << 30;  // KV, embedder, workspace
  // Below the default's size answers get bad before they get fast enough: a slow machine, or one
  // that was busy when it was measured, is not sent there.
  constexpr uint64_t kSpeedCounts = 1'250'000'000;
  Recommendation best;
  double best_speed = 0;
  for (const CatalogueEntry& entry : entries) {
    if (entry.kind != "chat" || entry.base || entry.needs_acceptance) continue;
    bool reachable = !entry.registry.empty() || (hub_reachable && !entry.hub_repo.empty());
    if (!reachable) continue;
    uint64_t bytes = entry.bytes();
    if (bytes == 0 || bytes + kRoom > memory_bytes) continue;
    double speed = kReadShare * read_bandwidth / static_cast<double>(bytes);
    if (speed < kUsableTokensPerSecond && bytes > kSpeedCounts) continue;
    // A general model before a coder of the same size; else the larger one.
    bool coder = entry.id.find("coder") != std::string::npos;
    bool best_coder = best.entry && best.entry->id.find("coder") != std::string::npos;
    bool better = !best.entry || bytes > best.entry->bytes() * 11 / 10 ||
                  (bytes > best.entry->bytes() * 9 / 10 && best_coder && !coder);
    if (better) {
      best.entry = &entry;
      best_speed = speed;
    }
  }
  if (best.entry) {
    best.reason = fmt::format(
        "{} ({}): the largest that fits {} of free memory and writes about {:.{}f} tok/s or more "
        "at {:.0f} GB/s{}",
        best.entry->id, human_bytes(best.entry->bytes()), human_bytes(memory_bytes), best_speed,
        best_speed < 10 ? 1 : 0, read_bandwidth / 1e9,
        hub_reachable ? "" : "; the model hub is not reached from here");
  }
  return best;
}

}  // namespace apud
