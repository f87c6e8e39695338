// Perplexity of the CPU's paths and of a GPU on a text against exact arithmetic:
//
//   perplexity_bench run MODEL.gguf TEXT TOKENS PATH OUT    PATH: exact, one of the machine's, or
//                                                           cuda[:TOKENS of a step; up to 8 run
//                                                           decode's kernels]
//   perplexity_bench compare EXACT OTHER                    two files that `run` wrote
//
// "exact" is the same program with every quantised matrix dequantised to F32 (through a file beside
// OUT, removed at once: the 1.5B model's takes 7 GB) and keys and values in F32: the reference
// executor but for the order of float sums, and some fifty times as fast. OUT holds a double for
// each token after the first, its log-probability. The standard error is that of the paired
// difference.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "kernels/backend.h"
#include "kernels/quant.h"
#include "models/model.h"
#include "tests/support/one_sequence.h"

namespace {

using namespace apud;

// F32 copies of a model's matrices in a file without a name.
Weights exact_weights(const Model& model, const std::string& beside) {
  std::string path = beside + ".weights";
  int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd < 0) throw Error(ErrorKind::kIo, "cannot write " + path);
  unlink(path.c_str());
  std::vector<size_t> offsets;
  size_t end = 0;
  Weights exact = model.weights();
  for (const WeightView& view : exact) {
    offsets.push_back(end);
    std::vector<float> row(static_cast<size_t>(view.cols));
    for (int64_t r = 0; r < view.rows; ++r) {
      dequantize_row(view, r, row.data());
      size_t bytes = row.size() * sizeof(float);
      if (write(fd, row.data(), bytes) != static_cast<ssize_t>(bytes))
        throw Error(ErrorKind::kIo, "cannot write " + path);
      end += bytes;
    }
  }
  void* map = mmap(nullptr, end, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (map == MAP_FAILED) throw Error(ErrorKind::kBusy, "cannot map " + path);
  for (size_t i = 0; i < exact.size(); ++i) {
    exact[i].data = static_cast<const std::byte*>(map) + offsets[i];
    exact[i].type = WeightType::kF32;
    exact[i].order = RowOrder::kPlain;  // rows were read in the program's order
  }
  return exact;
}

std::vector<double> log_probabilities(Executor& executor, std::span<const int32_t> ids, KvType type,
                                      int step) {
  const Program& program = executor.program();
  auto vocab = static_cast<size_t>(program.values[static_cast<size_t>(program.result)].cols);
  std::vector<double> found;
  test::run_one_sequence(executor, ids, type, static_cast<size_t>(step),
                         [&](size_t at, const std::vector<float>& logits, double) {
                           const size_t count = logits.size() / vocab;
                           for (size_t i = 0; i < count && at + i + 1 < ids.size(); ++i) {
                             const float* row = logits.data() + i * vocab;
                             double top = *std::max_element(row, row + vocab), sum = 0;
                             for (size_t j = 0; j < vocab; ++j) sum += std::exp(row[j] - top);
                             found.push_back(row[ids[at + i + 1]] - top - std::log(sum));
                           }
                           std::fprintf(stderr, "%zu of %zu\n", at + count, ids.size());
                         });
  return found;
}

int run(const std::string& file, const std::string& text, int tokens, const std::string& path,
        const std::string& out) {
  auto model = load_model(file);
  std::vector<int32_t> ids = model->tokenizer().encode(read_file(text, 64 << 20));
  if (ids.size() < static_cast<size_t>(tokens))
    throw Error(ErrorKind::kUsage, text + " has " + std::to_string(ids.size()) + " tokens only");
  ids.resize(static_cast<size_t>(tokens));
  bool exact = path == "exact";
  int step = 0;
  Weights weights = exact ? exact_weights(*model, out) : model->weights();
  std::unique_ptr<Executor> executor;
  if (path.starts_with("cuda")) {
    CudaOptions options;
    options.max_step_tokens = path.size() > 5 ? std::stoi(path.substr(5)) : 512;
    executor = make_cuda_executor(model->program(), weights, options);
    step = options.max_step_tokens;
  } else {
    CpuOptions options;
    options.max_step_tokens = 256;
    for (CpuIsa isa : available_cpu_isas()) {
      if (path == cpu_isa_name(isa)) options.isa = isa;
    }
    if (!exact && options.isa == CpuIsa::kAuto)
      throw Error(ErrorKind::kUsage, path + " is no path of this machine");
    executor = make_cpu_executor(model->program(), weights, options);
    step = options.max_step_tokens;
  }
  auto found =
      log_probabilities(*executor, ids, exact ? KvType::kF32 : executor->default_kv_type(), step);
  std::ofstream(out, std::ios::binary)
      .write(reinterpret_cast<const char*>(found.data()),
             static_cast<std::streamsize>(found.size() * sizeof(double)));
  double mean =
      std::accumulate(found.begin(), found.end(), 0.0) / static_cast<double>(found.size());
  std::printf("%s %s: perplexity %.4f of %zu tokens\n", model->config().name.c_str(), path.c_str(),
              std::exp(-mean), ids.size());
  return 0;
}

std::vector<double> read_doubles(const std::string& path) {
  std::string bytes = read_file(path, 64 << 20);
  std::vector<double> values(bytes.size() / sizeof(double));
  std::copy(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(values.size() * sizeof(double)),
            reinterpret_cast<char*>(values.data()));
  return values;
}

int compare(const std::string& exact, const std::string& other) {
  std::vector<double> a = read_doubles(exact), b = read_doubles(other);
  if (a.size() != b.size() || a.empty()) throw Error(ErrorKind::kUsage, "files of different runs");
  auto n = static_cast<double>(a.size());
  double sum = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += a[i] - b[i];
    squares += (a[i] - b[i]) * (a[i] - b[i]);
  }
  double mean = sum / n, error = std::sqrt((squares / n - mean * mean) / n);
  std::printf("perplexity %+.3f %% (standard error %.3f %%) over %.0f tokens\n",
              100 * (std::exp(mean) - 1), 100 * error, n);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string verb = argc > 1 ? argv[1] : "";
  try {
    if (verb == "run" && argc == 7)
      return run(argv[2], argv[3], std::atoi(argv[4]), argv[5], argv[6]);
    if (verb == "compare" && argc == 4) return compare(argv[2], argv[3]);
  } catch (const Error& e) {
    std::fprintf(stderr, "perplexity_bench: %s\n%s\n", e.what(), e.advice().c_str());
    return 1;
  }
  std::fprintf(stderr, "perplexity_bench run MODEL TEXT TOKENS PATH OUT | compare EXACT OTHER\n");
  return 2;
}
