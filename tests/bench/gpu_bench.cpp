// The GPU figures of docs/performance.md from one run, without any file: gpu_bench [quick|full]
// [--stages]; or of some models: gpu_bench MODEL... [--works NAME,...] [--contexts N,...]
// [--prefills NEW+CACHED,...] [--sequences N], works of load, decode, prefill, attention and embed
#include <chrono>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "base/error.h"
#include "kernels/gpu_bench.h"

namespace {

void print(const apud::GpuBenchRow& r) {
  std::printf("%-22s %-22s ctx %6d  %12.*f %-6s", r.work.c_str(), r.model.c_str(), r.context,
              r.value < 10 ? 3 : 1, r.value, r.unit.c_str());
  if (r.share > 0) std::printf("  %5.1f%% of %s", 100 * r.share, r.ceiling.c_str());
  if (r.microseconds_per_stage > 0) std::printf("  %.2f us/stage", r.microseconds_per_stage);
  if (r.logits_hash)
    std::printf("  logits %016llx", static_cast<unsigned long long>(r.logits_hash));
  std::printf("\n");
  for (const auto& s : r.stages)
    std::printf("    %-18s x%-3d %9.1f us  %7.2f each  lost %6.2f\n", s.stage.c_str(), s.count,
                s.microseconds, s.microseconds / s.count, s.lost);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  bool full = false, stages = false;
  int sequences = 1;
  std::vector<std::string> models;
  std::vector<std::string> works = {"load", "decode", "prefill", "attention", "embed"};
  std::vector<int> chosen_contexts = {512};
  std::vector<std::pair<int, int>> chosen_prefills = {{2048, 0}};
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--works") && i + 1 < argc) {
      works.clear();
      std::istringstream list(argv[++i]);
      for (std::string one; std::getline(list, one, ',');) works.push_back(one);
    } else if (!std::strcmp(argv[i], "--contexts") && i + 1 < argc) {
      chosen_contexts.clear();
      std::istringstream list(argv[++i]);
      for (std::string one; std::getline(list, one, ',');)
        chosen_contexts.push_back(std::stoi(one));
    } else if (!std::strcmp(argv[i], "--prefills") && i + 1 < argc) {
      chosen_prefills.clear();
      std::istringstream list(argv[++i]);
      for (std::string one; std::getline(list, one, ',');)
        chosen_prefills.push_back({std::stoi(one), std::stoi(one.substr(one.find('+') + 1))});
    } else if (!std::strcmp(argv[i], "--sequences") && i + 1 < argc) {
      sequences = std::stoi(argv[++i]);
    } else if (!std::strcmp(argv[i], "full"))
      full = true;
    else if (!std::strcmp(argv[i], "--stages"))
      stages = true;
    else if (std::strcmp(argv[i], "quick") != 0)
      models.push_back(argv[i]);
  }
  try {
    apud::GpuCeilings c = apud::measure_gpu_ceilings(0);
    std::printf(
        "%s: read %.0f GB/s, copy %.0f, host link %.1f, gemm %.0f (2048 rows) / %.0f (8192) "
        "TFLOP/s\n",
        c.device.c_str(), c.read / 1e9, c.copy / 1e9, c.host_link / 1e9, c.gemm_2048 / 1e12,
        c.gemm_8192 / 1e12);
    auto run = [&](std::vector<std::string> names, std::vector<std::string> works,
                   std::vector<int> contexts, std::vector<std::pair<int, int>> prefills,
                   std::vector<int> attended = {}) {
      apud::GpuBenchOptions o;
      o.models = models.empty() ? std::move(names) : models;
      o.works = std::move(works);
      o.contexts = std::move(contexts);
      o.prefills = std::move(prefills);
      o.attention_contexts = std::move(attended);
      o.stages = stages;
      o.sequences = sequences;
      apud::gpu_bench(o, c, print);
    };
    if (!models.empty()) {
      run({}, works, chosen_contexts, chosen_prefills);
    } else if (!full) {
      run({"llama-7b:q4_k_m"}, {"load", "decode", "prefill"}, {512}, {{2048, 0}});
      run({"qwen2.5-1.5b:q4_k_m"}, {"load", "decode"}, {512}, {});
      run({"e5-small:f16"}, {"embed"}, {}, {});
    } else {
      const std::vector<int> contexts = {512, 4096, 16384}, attended = {16384, 32768, 65536};
      const std::vector<std::string> works = {"load", "decode", "prefill", "attention"};
      // First what the card's power limits, before anything has made it hot.
      run({"llama-7b:f16", "llama-7b:q4_k_m", "llama-7b:bf16"}, {"prefill"}, {512}, {{2048, 0}});
      run({"llama-7b:q4_k_m"}, works, contexts, {{512, 4096}, {16384, 0}}, attended);
      run({"llama-7b:f16", "llama-7b:bf16", "llama-7b:q8_0"}, {"load", "decode"}, contexts, {});
      run({"llama-3-8b:q4_k_m"}, works, contexts, {{2048, 0}}, attended);
      run({"qwen2.5-1.5b:q4_k_m"}, {"load", "decode", "prefill"}, {512, 2000}, {{2048, 0}});
      run({"e5-small:f16"}, {"embed"}, {}, {});
    }
  } catch (const apud::Error& e) {
    std::fprintf(stderr, "gpu_bench: %s\n%s\n", e.what(), e.advice().c_str());
    return apud::exit_code(e.kind());
  }
  return 0;
}
