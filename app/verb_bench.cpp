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
#include "kernels/gpu_bench.h"
#include "kernels/random_model.h"

namespace apud {

namespace {

struct Row {
  std::string work;
  int context = 0;
  double value = 0;  // median
  std::string unit = "tok/s";
  double rate = 0;  // GB/s or TFLOP/s behind it
  std::string rate_unit;
  std::optional<double> share;                   // of the ceiling that binds
  std::optional<double> microseconds_per_stage;  // lost beyond bytes / read, per dependent stage
  std::vector<StageLoss> stages;                 // on a GPU, with --stages
};

struct Report {
  std::string name;      // of the model
  std::string executor;  // which one ran
  ordered_json ceilings = ordered_json::object();
  std::string ceilings_line;
  std::vector<Row> rows;
  std::string hash;  // of the logits
  std::string memory;
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

/// The model measured: the chat model, or random weights of --shape.
struct Subject {
  std::string name;
  std::shared_ptr<const Model> file;
  std::unique_ptr<RandomModel> random;
  const Program& program() const { return random ? random->program : file->program(); }
  const Weights& weights() const { return random ? random->weights : file->weights(); }
};

Subject open_subject(Runtime& runtime) {
  Subject subject;
  if (const std::string& shape = runtime.options.bench.shape; !shape.empty()) {
    subject.random = random_model(shape);
    subject.name = shape;
  } else {
    subject.name = runtime.chat_model().installed.id;
    subject.file = runtime.chat_model().model;
  }
  return subject;
}

ordered_json measured(double value, const char* unit) { return {{"value", value}, {"unit", unit}}; }

/// Everything by kernels/gpu_bench.h, after the start of CUDA itself.
Report bench_gpu(Runtime& runtime) {
  const BenchOptions& o = runtime.options.bench;
  Terminal& terminal = runtime.terminal;
  Report report;
  double start_seconds = seconds_of([] { cuda_memory(0); });
  terminal.progress("measuring the GPU's ceilings", true);
  GpuCeilings c = measure_gpu_ceilings(0);
  report.ceilings = {{"read", measured(c.read / 1e9, "GB/s")},
                     {"copy", measured(c.copy / 1e9, "GB/s")},
                     {"link", measured(c.host_link / 1e9, "GB/s")},
                     {"gemm_2048", measured(c.gemm_2048 / 1e12, "TFLOP/s")},
                     {"gemm_8192", measured(c.gemm_8192 / 1e12, "TFLOP/s")}};
  report.ceilings_line = fmt::format(
      "{} · ceilings: read {:.0f} GB/s, copy {:.0f}, host link {:.1f}, products {:.0f} (2048 rows) "
      "/ {:.0f} (8192) TFLOP/s",
      c.device, c.read / 1e9, c.copy / 1e9, c.host_link / 1e9, c.gemm_2048 / 1e12,
      c.gemm_8192 / 1e12);
  report.executor = "cuda · " + c.device;
  report.rows.push_back({"start of CUDA", 0, start_seconds, "s"});

  GpuBenchOptions g;
  Subject subject = open_subject(runtime);
  report.name = subject.name;
  g.program = &subject.program();
  g.weights = &subject.weights();
  g.name = subject.name;
  g.contexts = o.contexts;
  g.decode_tokens = o.decode_tokens;
  g.prefills.clear();
  for (int tokens : o.prompt_tokens) g.prefills.push_back({tokens, 0});
  g.works = {"load", "decode", "prefill", "attention", "embed"};
  g.stages = o.stages;
  gpu_bench(g, c, [&](const GpuBenchRow& r) {
    Row row{r.work, r.context, r.value, r.unit};
    if (r.share > 0) row.share = r.share;
    if (r.work == "decode") row.microseconds_per_stage = r.microseconds_per_stage;
    row.stages = r.stages;
    if (r.logits_hash) report.hash = fmt::format("{:016x}", r.logits_hash);
    if (!r.ceiling.empty()) row.rate_unit = r.ceiling;
    report.rows.push_back(row);
    terminal.progress(fmt::format("{} {}: {:.1f} {}", r.work, r.context, r.value, r.unit), true);
  });
  terminal.progress("", true);
  return report;
}

Report bench_cpu(Runtime& runtime) {
  const Options& o = runtime.options;
  Terminal& terminal = runtime.terminal;
  MachineFacts facts = machine_facts();
  int threads = o.settings.threads > 0 ? o.settings.threads : facts.cpus;
  terminal.progress("measuring the memory", true);
  double read = measure_read_bandwidth(threads);

  Report report;
  Subject subject;
  double open_seconds = seconds_of([&] { subject = open_subject(runtime); });
  report.name = subject.name;
  if (subject.program().is_encoder())
    throw Error(ErrorKind::kUsage,
                subject.name + " is an embedding model: on the CPU bench measures chat models",
                "choose a chat model (apud model list)");
  std::unique_ptr<Executor> executor;
  double prepare_seconds = seconds_of(
      [&] { executor = runtime.make_executor(subject.program(), subject.weights(), 0); });
  report.executor = executor->name();
  ProgramCost cost = program_cost(subject.program(), subject.weights());
  report.ceilings = {{"read", measured(read / 1e9, "GB/s")}};
  report.ceilings_line = fmt::format("{} · {} threads · ceiling: memory read {:.1f} GB/s",
                                     facts.cpu, threads, read / 1e9);
  std::vector<Row>& rows = report.rows;
  rows.push_back({"load", 0, open_seconds + prepare_seconds, "s"});

  int longest = *std::max_element(o.bench.prompt_tokens.begin(), o.bench.prompt_tokens.end());
  int deepest = *std::max_element(o.bench.contexts.begin(), o.bench.contexts.end());
  int room =
      std::max(longest, deepest) + o.bench.decode_tokens * (o.bench.repeats + 1) + kKvPageTokens;
  SingleSequence sequence(*executor, room);
  std::vector<int32_t> ids = random_tokens(
      room, subject.program().values[static_cast<size_t>(subject.program().result)].cols);
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
    report.hash = fmt::format(
        "{:016x}", xxh3_64(sequence.logits().data(), sequence.logits().size() * sizeof(float)));
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
    row.share = bytes / t / read;
    rows.push_back(row);
  }
  terminal.progress("", true);

  report.memory = human_bytes(executor->memory_bytes());
  return report;
}

}  // namespace

int verb_bench(Runtime& runtime) {
  const Options& o = runtime.options;
  Terminal& terminal = runtime.terminal;
  MachineFacts facts = machine_facts();
  int threads = o.settings.threads > 0 ? o.settings.threads : facts.cpus;
  Report report = runtime.on_gpu() ? bench_gpu(runtime) : bench_cpu(runtime);
  if (o.common.json) {
    ordered_json out = {{"schema", kJsonSchema},
                        {"machine",
                         {{"cpu", facts.cpu},
                          {"threads", threads},
                          {"memory_bytes", facts.memory_bytes},
                          {"executor", report.executor}}},
                        {"ceilings", report.ceilings},
                        {"rows", ordered_json::array()},
                        {"logits_hash", report.hash}};
    for (const Row& row : report.rows) {
      ordered_json one = {{"work", row.work},
                          {"model", report.name},
                          {"context", row.context},
                          {"value", row.value},
                          {"unit", row.unit}};
      if (row.rate > 0) one["rate"] = measured(row.rate, row.rate_unit.c_str());
      one["share"] = row.share ? ordered_json(*row.share) : ordered_json();
      one["microseconds_per_stage"] =
          row.microseconds_per_stage ? ordered_json(*row.microseconds_per_stage) : ordered_json();
      for (const StageLoss& s : row.stages)
        one["stages"].push_back({{"stage", s.stage},
                                 {"count", s.count},
                                 {"microseconds", s.microseconds},
                                 {"lost", s.lost}});
      out["rows"].push_back(one);
    }
    terminal.out(dump_json(out) + "\n");
  } else {
    terminal.out(fmt::format("{} · {}\n{}\n", report.name, report.executor, report.ceilings_line));
    for (const Row& row : report.rows) {
      std::string line = fmt::format("{:<22} {:>10.2f} {}", row.work, row.value, row.unit);
      if (row.rate > 0) line += fmt::format("  {:>8.2f} {}", row.rate, row.rate_unit);
      if (row.share)
        line += fmt::format("  {:.0f}% of {}", *row.share * 100,
                            row.rate > 0 || row.rate_unit.empty() ? "read" : row.rate_unit);
      if (row.microseconds_per_stage)
        line += fmt::format("  {:.2f} us lost a stage", *row.microseconds_per_stage);
      terminal.out(line + "\n");
      for (const StageLoss& s : row.stages)
        terminal.out(
            fmt::format("    {:<18} x{:<3} {:>9.1f} us\n", s.stage, s.count, s.microseconds));
    }
    terminal.out(fmt::format("logits {}{}\n", report.hash,
                             report.memory.empty() ? "" : "  · executor memory " + report.memory));
  }
  terminal.flush();
  return 0;
}

}  // namespace apud
