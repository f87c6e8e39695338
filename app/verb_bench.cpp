// `apud bench`: speed of the executor on a model, beside the ceilings of this machine measured in
// the same run.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "app/json_text.h"
#include "app/machine.h"
#include "app/progress.h"
#include "app/runtime.h"
#include "base/hash.h"

namespace apud {

namespace {

struct Row {
  std::string work;
  int context = 0;
  double value = 0;  // median
  std::string unit = "tok/s";
  double rate = 0;  // GB/s or TFLOP/s behind it
  std::string rate_unit;
  std::optional<double> share;  // of the ceiling
};

double seconds_of(const std::function<void()>& work) {
  auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// One sequence over pages 0, 1, 2 … of one KV store.
class SingleSequence {
 public:
  SingleSequence(Executor& executor, int tokens) : executor_(executor) {
    const Program& program = executor.program();
    int blocks = (tokens + kKvPageTokens - 1) / kKvPageTokens;
    pages_.resize(static_cast<size_t>(blocks));
    for (int i = 0; i < blocks; ++i) pages_[static_cast<size_t>(i)] = i;
    std::vector<int> counts(program.kv_groups.size(), blocks);
    kv_ = executor.make_kv(counts, executor.default_kv_type());
    logits_.resize(static_cast<size_t>(program.values[static_cast<size_t>(program.result)].cols));
  }
  /// Runs tokens at `position`, in chunks the executor takes; logits of the last row are kept.
  void run(std::span<const int32_t> tokens, int position) {
    size_t chunk = static_cast<size_t>(executor_.max_step_tokens());
    for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
      size_t count = std::min(chunk, tokens.size() - begin);
      SequenceSlice slice;
      slice.token_count = static_cast<int>(count);
      slice.position = position + static_cast<int>(begin);
      for (size_t g = 0; g < executor_.program().kv_groups.size(); ++g) slice.pages[g] = pages_;
      bool last = begin + count == tokens.size();
      int32_t row = static_cast<int32_t>(count - 1);
      Batch batch;
      batch.tokens = tokens.subspan(begin, count);
      batch.sequences = {&slice, 1};
      if (last) batch.output_rows = {&row, 1};
      executor_.run(batch, kv_.get(), last ? std::span<float>(logits_) : std::span<float>());
    }
  }
  const std::vector<float>& logits() const { return logits_; }

 private:
  Executor& executor_;
  std::vector<int32_t> pages_;
  std::unique_ptr<KvStore> kv_;
  std::vector<float> logits_;
};

std::vector<int32_t> random_tokens(int count, int vocab) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  uint64_t state = 88172645463325252ull;
  for (int32_t& id : ids) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    id = static_cast<int32_t>(state % static_cast<uint64_t>(vocab));
  }
  return ids;
}

}  // namespace

int verb_bench(Runtime& runtime) {
  const Options& o = runtime.options;
  Terminal& terminal = runtime.terminal;
  MachineFacts facts = machine_facts();
  int threads = o.settings.threads > 0 ? o.settings.threads : facts.cpus;
  terminal.progress("measuring the memory", true);
  double read = measure_read_bandwidth(threads);

  std::string name;
  std::shared_ptr<const Model> model;
  double open_seconds = seconds_of([&] {
    name = runtime.chat_model().installed.id;
    model = runtime.chat_model().model;
  });
  std::unique_ptr<Executor> executor;
  double prepare_seconds = seconds_of([&] { executor = runtime.make_executor(*model, 0); });
  ProgramCost cost = program_cost(model->program(), model->weights());
  bool cpu = executor->name().rfind("cpu", 0) == 0;
  std::vector<Row> rows;
  rows.push_back({"load", 0, open_seconds + prepare_seconds, "s"});

  int longest = *std::max_element(o.bench.prompt_tokens.begin(), o.bench.prompt_tokens.end());
  int deepest = *std::max_element(o.bench.contexts.begin(), o.bench.contexts.end());
  int room =
      std::max(longest, deepest) + o.bench.decode_tokens * (o.bench.repeats + 1) + kKvPageTokens;
  SingleSequence sequence(*executor, room);
  std::vector<int32_t> ids = random_tokens(room, model->config().vocab);
  std::string hash;
  for (int tokens : o.bench.prompt_tokens) {
    std::vector<double> times;
    for (int i = 0; i <= o.bench.repeats; ++i) {  // the first run warms up
      terminal.progress(fmt::format("prefill {} · run {}", tokens, i), true);
      double t = seconds_of([&] { sequence.run({ids.data(), static_cast<size_t>(tokens)}, 0); });
      if (i > 0) times.push_back(t);
    }
    double t = median(times);
    double flops = static_cast<double>(cost.flops_per_token) * tokens +
                   static_cast<double>(cost.attention_flops_per_kv) * tokens * tokens / 2;
    rows.push_back({fmt::format("prefill {}", tokens), tokens, tokens / t, "tok/s",
                    flops / t / 1e12, "TFLOP/s", std::nullopt});
    hash = fmt::format("{:016x}",
                       xxh3_64(sequence.logits().data(), sequence.logits().size() * sizeof(float)));
  }
  for (int context : o.bench.contexts) {
    sequence.run({ids.data(), static_cast<size_t>(context)}, 0);
    std::vector<double> times;
    int position = context;
    for (int i = 0; i <= o.bench.repeats; ++i) {
      terminal.progress(fmt::format("decode at {} · run {}", context, i), true);
      double t = seconds_of([&] {
        for (int j = 0; j < o.bench.decode_tokens; ++j, ++position)
          sequence.run({ids.data() + position, 1}, position);
      });
      if (i > 0) times.push_back(t / o.bench.decode_tokens);
    }
    double t = median(times);
    double bytes = static_cast<double>(cost.read_bytes_per_token) +
                   static_cast<double>(cost.kv_values_per_token) * 2 * context;
    Row row{fmt::format("decode at {}", context),
            context,
            1 / t,
            "tok/s",
            bytes / t / 1e9,
            "GB/s",
            std::nullopt};
    if (cpu) row.share = bytes / t / read;
    rows.push_back(row);
  }
  terminal.progress("", true);

  if (o.common.json) {
    ordered_json out = {{"schema", kJsonSchema},
                        {"machine",
                         {{"cpu", facts.cpu},
                          {"threads", threads},
                          {"memory_bytes", facts.memory_bytes},
                          {"executor", executor->name()}}},
                        {"ceilings", {{"read", {{"value", read / 1e9}, {"unit", "GB/s"}}}}},
                        {"rows", ordered_json::array()},
                        {"logits_hash", hash}};
    for (const Row& row : rows) {
      ordered_json one = {{"work", row.work},
                          {"model", name},
                          {"context", row.context},
                          {"value", row.value},
                          {"unit", row.unit}};
      if (!row.rate_unit.empty()) one["rate"] = {{"value", row.rate}, {"unit", row.rate_unit}};
      one["share"] = row.share ? ordered_json(*row.share) : ordered_json();
      out["rows"].push_back(one);
    }
    terminal.out(dump_json(out) + "\n");
  } else {
    terminal.out(fmt::format("{} · {} · {} threads · {}\nceiling: memory read {:.1f} GB/s\n", name,
                             facts.cpu, threads, executor->name(), read / 1e9));
    for (const Row& row : rows) {
      std::string line = fmt::format("{:<16} {:>10.2f} {}", row.work, row.value, row.unit);
      if (!row.rate_unit.empty()) line += fmt::format("  {:>8.2f} {}", row.rate, row.rate_unit);
      if (row.share) line += fmt::format("  {:.0f}% of read", *row.share * 100);
      terminal.out(line + "\n");
    }
    terminal.out(fmt::format("logits {}  · executor memory {}\n", hash,
                             human_bytes(executor->memory_bytes())));
  }
  terminal.flush();
  return 0;
}

}  // namespace apud
