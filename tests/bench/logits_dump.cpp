// Logits of every position of a model, for comparison with another implementation of it
// (scripts/gpu-parity):
//
//   logits_dump MODEL IDS OUT WAY...   MODEL: a GGUF file or a Hugging Face folder; its tokenizer
//   is
//                                      not read. IDS: int32. WAY: reference, cpu:PATH or
//                                      cuda:TOKENS of a step (up to 8 run decode's kernels, more
//                                      prefill's)
//
// Writes float32 [positions][vocabulary] to OUT.0, OUT.1 ... for each way in order.
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "kernels/backend.h"
#include "models/arch/arch.h"
#include "models/arch/tensors.h"
#include "tests/support/one_sequence.h"

namespace {

using namespace apud;

void write_logits(Executor& executor, std::span<const int32_t> ids, KvType type, size_t step,
                  const std::string& out) {
  std::ofstream file(out, std::ios::binary);
  double seconds = 0;
  size_t steps = 0;
  test::run_one_sequence(executor, ids, type, step,
                         [&](size_t, const std::vector<float>& logits, double taken) {
                           // The first step captures a graph and touches new memory.
                           if (steps++ > 0) seconds += taken;
                           file.write(reinterpret_cast<const char*>(logits.data()),
                                      static_cast<std::streamsize>(logits.size() * sizeof(float)));
                         });
  if (!file.flush()) throw Error(ErrorKind::kIo, "cannot write " + out);
  if (steps > 1)
    std::printf("%s %zu tokens a step: %.3f ms a step\n", executor.name().c_str(), step,
                1e3 * seconds / static_cast<double>(steps - 1));
}

void dump(const std::string& model, const std::string& ids_file, const std::string& out, int ways,
          char** way) {
  std::string bytes = read_file(ids_file, 1 << 20);
  std::vector<int32_t> ids(bytes.size() / sizeof(int32_t));
  std::memcpy(ids.data(), bytes.data(), ids.size() * sizeof(int32_t));
  // What long rope chooses its factors by: the reference does it by the tokens that it gets.
  int context = static_cast<int>(ids.size());
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<TensorSource> source;
  ArchConfig config;
  if (std::filesystem::is_directory(model)) {
    config = config_from_folder(model, context);
    source = std::make_unique<FolderTensors>(model, config.extra_files);
  } else {
    file = std::make_unique<GgufFile>(GgufFile::open(model));
    config = config_from_gguf(*file, context);
    source = make_gguf_source(*file);
  }
  LoadedProgram loaded = build_program(config, *source);
  for (int i = 0; i < ways; ++i) {
    std::string name = way[i], to = out + "." + std::to_string(i);
    if (name == "reference") {
      auto executor = make_reference_executor(loaded.program, loaded.weights);
      write_logits(*executor, ids, KvType::kF32, ids.size(), to);
    } else if (name.starts_with("cpu:")) {
      CpuOptions options;
      for (CpuIsa isa : available_cpu_isas())
        if (name.substr(4) == cpu_isa_name(isa)) options.isa = isa;
      if (options.isa == CpuIsa::kAuto)
        throw Error(ErrorKind::kUsage, name + " is no path of this machine");
      options.max_step_tokens = 256;
      auto executor = make_cpu_executor(loaded.program, loaded.weights, options);
      write_logits(*executor, ids, executor->default_kv_type(), 256, to);
    } else if (name.starts_with("cuda:")) {
      CudaOptions options;
      options.max_step_tokens = std::stoi(name.substr(5));
      auto executor = make_cuda_executor(loaded.program, loaded.weights, options);
      write_logits(*executor, ids, executor->default_kv_type(),
                   static_cast<size_t>(options.max_step_tokens), to);
    } else {
      throw Error(ErrorKind::kUsage, name + " is no way to run a model");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "logits_dump MODEL IDS OUT reference|cpu:PATH|cuda:TOKENS...\n");
    return 2;
  }
  try {
    dump(argv[1], argv[2], argv[3], argc - 4, argv + 4);
  } catch (const Error& e) {
    std::fprintf(stderr, "logits_dump: %s\n%s\n", e.what(), e.advice().c_str());
    return 1;
  }
}
