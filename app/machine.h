// What this machine has: for choosing a default model, for doctor and for bench.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/catalogue.h"

namespace apud {

struct MachineFacts {
  std::string cpu;               // model name
  int cpus = 1;                  // usable ones
  uint64_t memory_bytes = 0;     // total, cgroup limit respected
  uint64_t available_bytes = 0;  // without swapping
  bool nvidia_card = false;      // a driver is loaded
};
MachineFacts machine_facts();

/// Bytes per second that `threads` threads read from memory, 1 GiB (a quarter of what is available,
/// where that is less) in huge pages where the kernel has them, as weights lie; the best of three
/// passes, half a second in all.
double measure_read_bandwidth(int threads);

/// A model chosen for a machine, with the reason in words.
struct Recommendation {
  const CatalogueEntry* entry = nullptr;
  std::string reason;
};
/// The largest chat model that fits `memory_bytes` with room for KV and decodes at 6 tok/s or more
/// when weights are read at half of `read_bandwidth`; among those that `reachable` (the hub, the
/// registry) has and whose licence needs no acceptance. A pure function of its arguments.
Recommendation recommend_model(const std::vector<CatalogueEntry>& entries, uint64_t memory_bytes,
                               double read_bandwidth, bool hub_reachable);

}  // namespace apud
