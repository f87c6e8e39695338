// Embedders on the CPU: embedding_bench FOLDER [ISA] [THREADS] [TOKENS] [GOLDEN]
//
// ISA: auto, or one that this machine has. Prints the time from nothing to a first vector, tokens a
// second of chunks of TOKENS (256) tokens and the milliseconds of a query of 16 tokens (medians,
// and the processor's own time, which other programs on the machine disturb less). With GOLDEN (a
// name of tests/data/golden/vectors-*.bin) also how far its vectors are from the golden ones.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>

#include "base/error.h"
#include "engine/embedding.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "tests/support/golden.h"

namespace {

using namespace apud;
using Clock = std::chrono::steady_clock;

CpuIsa isa_named(const std::string& name) {
  for (CpuIsa isa : available_cpu_isas()) {
    if (name == cpu_isa_name(isa)) return isa;
  }
  return CpuIsa::kAuto;
}

struct Seconds {
  double wall = 0, cpu = 0;
};

class Watch {
 public:
  /// Since the last call.
  Seconds lap() {
    Seconds s{std::chrono::duration<double>(Clock::now() - wall_).count(), cpu_now() - cpu_};
    *this = {};
    return s;
  }

 private:
  static double cpu_now() {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
  Clock::time_point wall_ = Clock::now();
  double cpu_ = cpu_now();
};

// Median seconds of one step of `count` sequences of `length` tokens.
Seconds step(Executor& executor, int vocab, int dim, int count, int length, int runs) {
  std::mt19937 random(1);
  std::vector<int32_t> tokens(static_cast<size_t>(count * length));
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % static_cast<unsigned>(vocab));
  std::vector<SequenceSlice> slices;
  for (int i = 0; i < count; ++i) slices.push_back({i * length, length, 0, {}});
  std::vector<float> out(static_cast<size_t>(count * dim));
  std::vector<double> wall, cpu;
  for (int run = 0; run < runs + (runs > 1 ? 1 : 0); ++run) {
    Watch watch;
    executor.run({tokens, slices, {}}, nullptr, out);
    Seconds s = watch.lap();
    if (runs > 1 && run == 0) continue;
    wall.push_back(s.wall);
    cpu.push_back(s.cpu);
  }
  std::sort(wall.begin(), wall.end());
  std::sort(cpu.begin(), cpu.end());
  return {wall[wall.size() / 2], cpu[cpu.size() / 2]};
}

void compare(Executor& executor, const std::string& name, size_t dim) {
  test::GoldenVectors golden(name);
  double least = 1, sum = 0;
  for (const auto& entry : golden.entries) {
    SequenceSlice slice{0, static_cast<int>(entry.ids.size()), 0, {}};
    std::vector<float> vector(dim);
    executor.run({entry.ids, std::span(&slice, 1), {}}, nullptr, vector);
    double dot = 0;
    for (size_t i = 0; i < dim; ++i) dot += static_cast<double>(vector[i]) * entry.vector[i];
    least = std::min(least, dot);
    sum += dot;
  }
  std::printf("golden: %zu vectors, 1 - cosine: most %.2e, mean %.2e\n", golden.entries.size(),
              1 - least, 1 - sum / static_cast<double>(golden.entries.size()));
}

int run(int argc, char** argv) {
  Watch watch;
  auto model = load_model(argv[1]);
  Seconds load = watch.lap();
  CpuOptions options;
  if (argc > 2) options.isa = isa_named(argv[2]);
  if (argc > 3) options.threads = std::atoi(argv[3]);
  int length = argc > 4 ? std::atoi(argv[4]) : 256;
  auto executor = make_cpu_executor(model->program(), model->weights(), options);
  Seconds pack = watch.lap();
  model->tokenizer();
  Seconds tokenizer = watch.lap();
  int vocab = model->config().vocab, dim = model->config().embedding_dim;
  Seconds first = step(*executor, vocab, dim, 1, 16, 1);
  std::printf(
      "%s on %s, ms (of processors): load %.0f (%.0f), weights %.0f (%.0f), tokenizer %.0f "
      "(%.0f), first query %.1f (%.1f)\n",
      model->config().name.c_str(), executor->name().c_str(), load.wall * 1e3, load.cpu * 1e3,
      pack.wall * 1e3, pack.cpu * 1e3, tokenizer.wall * 1e3, tokenizer.cpu * 1e3, first.wall * 1e3,
      first.cpu * 1e3);
  int count = std::max(1, executor->max_step_tokens() / length);
  Seconds chunk = step(*executor, vocab, dim, count, length, 9);
  Seconds query = step(*executor, vocab, dim, 1, 16, 31);
  std::printf(
      "%d x %d tokens: %.0f tok/s, %.0f a second of processors; query of 16: %.2f ms (%.2f); "
      "%.0f MiB\n",
      count, length, count * length / chunk.wall, count * length / chunk.cpu, query.wall * 1e3,
      query.cpu * 1e3, static_cast<double>(executor->memory_bytes()) / (1 << 20));
  if (argc > 5) compare(*executor, argv[5], static_cast<size_t>(dim));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "embedding_bench FOLDER [ISA] [THREADS] [TOKENS] [GOLDEN]\n");
    return 2;
  }
  try {
    return run(argc, argv);
  } catch (const Error& e) {
    std::fprintf(stderr, "embedding_bench: %s\n%s\n", e.what(), e.advice().c_str());
    return 1;
  }
}
