// `apud doctor`: what this machine, build and data have, and what is wrong with it.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "app/json_text.h"
#include "app/machine.h"
#include "app/progress.h"
#include "app/runtime.h"
#include "base/child.h"
#include "kernels/backend.h"

namespace apud {

namespace {

struct Finding {
  const char* what;
  std::string state;
  std::string advice;  // empty: all well
};

/// A folder is made where it is missing, so what counts is the nearest that is there.
bool can_write(Path path) {
  std::error_code ignored;
  while (!std::filesystem::exists(path, ignored) && path.has_relative_path())
    path = path.parent_path();
  return ::access(path.c_str(), W_OK) == 0;
}

}  // namespace

int verb_doctor(Runtime& runtime) {
  Terminal& terminal = runtime.terminal;
  MachineFacts facts = machine_facts();
  std::vector<Finding> findings;
  auto add = [&](const char* what, std::string state, std::string advice = {}) {
    findings.push_back({what, std::move(state), std::move(advice)});
  };

  add("version", std::string("apud ") + APUD_VERSION);
  add("cpu", fmt::format("{}, {} usable", facts.cpu, facts.cpus));
  std::string isas;
  for (CpuIsa isa : available_cpu_isas())
    isas += (isas.empty() ? "" : ", ") + std::string(cpu_isa_name(isa));
  add("cpu paths", isas.empty() ? "none" : isas,
      isas.empty() ? "this CPU lacks AVX2, FMA or F16C: the engine cannot run here" : "");
  add("memory",
      fmt::format("{} of {} available, read at {:.1f} GB/s", human_bytes(facts.available_bytes),
                  human_bytes(facts.memory_bytes), measure_read_bandwidth(facts.cpus) / 1e9));
  std::string reason = cuda_unavailable_reason();
  if (reason.empty()) {
    add("gpu", "usable");
  } else if (facts.nvidia_card && !cuda_compiled()) {
    add("gpu", "a card is here, but this build has no CUDA",
        "install the CUDA toolkit, 12.4 or newer (on Debian 12: " APUD_CUDA_FIX
        "), then run scripts/quickstart again");
  } else if (facts.nvidia_card) {
    add("gpu", reason, "check the driver with nvidia-smi");
  } else {
    add("gpu", "no NVIDIA card (" + reason + ")");
  }
  bool pdftotext = find_program("pdftotext").has_value();
  add("pdftotext", pdftotext ? "found" : "missing",
      pdftotext ? "" : "apt-get install poppler-utils (PDFs are skipped without it)");
  for (const auto& [what, path] : {std::pair<const char*, Path>{"data", data_dir()},
                                   {"cache", cache_dir()},
                                   {"state", state_dir()},
                                   {"config", config_dir()}}) {
    uint64_t room = free_space(path);
    bool writable = can_write(path) && (path != data_dir() || can_write(Store::default_path()));
    add(what,
        fmt::format("{} ({})", path.string(),
                    writable ? human_bytes(room) + " free" : "cannot be written"),
        !writable             ? "nothing new is kept there: check its permissions and its mount"
        : room < (1ull << 30) ? "less than 1 GB free: free some space"
                              : "");
  }
  size_t chat = 0, embed = 0;
  for (const InstalledModel& model : installed_models()) {
    add("model", fmt::format("{} ({}, {})", model.id, model.kind, human_bytes(model.bytes)));
    (model.kind == "chat" ? chat : embed) += 1;
  }
  if (!chat) add("chat model", "none", "apud model pull default");
  if (!embed) add("embedder", "none", "apud model pull e5-small-q4");
  if (runtime.has_store()) {
    try {
      std::vector<std::string> damage = runtime.store().check();
      int64_t documents = 0;
      for (const CollectionInfo& c : runtime.store().collections()) documents += c.documents;
      add("store",
          damage.empty() ? fmt::format("sound, {} files", with_commas(documents)) : damage.front(),
          damage.empty() ? ""
                         : "keep a copy of " + Store::default_path().string() +
                               ", remove it, and ingest again");
    } catch (const Error& e) {
      add("store", e.what(), e.advice());
    }
  } else {
    add("store", "empty: apud ingest FOLDER");
  }
  bool sound = true;
  ordered_json out = {{"schema", kJsonSchema}, {"findings", ordered_json::array()}};
  for (const Finding& finding : findings) {
    sound &= finding.advice.empty();
    if (runtime.options.common.json) {
      out["findings"].push_back({{"what", finding.what},
                                 {"state", finding.state},
                                 {"ok", finding.advice.empty()},
                                 {"advice", finding.advice}});
    } else {
      terminal.out_text(fmt::format("{} {:<10} {}\n", finding.advice.empty() ? "  " : "! ",
                                    finding.what, finding.state));
      if (!finding.advice.empty())
        terminal.out_text(fmt::format("             → {}\n", finding.advice));
    }
  }
  if (runtime.options.common.json) terminal.out(dump_json(out) + "\n");
  terminal.flush();
  return sound ? 0 : 69;
}

}  // namespace apud
