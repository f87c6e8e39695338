// Measures retrieval on a corpus with questions, with a real embedder; scripts/eval-retrieval runs
// it.
//
//   retrieval_eval --model FOLDER_OR_NAME --corpus DIR --questions FILE.jsonl --store FILE.db
//                  [--collection NAME] [--excerpts N [--vector-tokens N]]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "app/engine_embedder.h"
#include "base/child.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "tests/bench/retrieval_eval.h"
#include "tests/support/models.h"

int main(int argc, char** argv) {
  apud::child_main(argc, argv);
  apud::bench::EvalArguments arguments;
  std::string model = "e5-small-q4";
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string option = argv[i];
    if (option == "--model") {
      model = argv[i + 1];
    } else if (option == "--corpus") {
      arguments.corpus = argv[i + 1];
    } else if (option == "--questions") {
      arguments.questions = argv[i + 1];
    } else if (option == "--store") {
      arguments.store = argv[i + 1];
    } else if (option == "--collection") {
      arguments.collection = argv[i + 1];
    } else if (option == "--excerpts") {
      arguments.excerpts = std::strtoul(argv[i + 1], nullptr, 10);
    } else if (option == "--vector-tokens") {
      arguments.vector_tokens = std::atoi(argv[i + 1]);
    } else {
      std::fprintf(stderr, "unknown option %s\n", argv[i]);
      return 2;
    }
  }
  if (arguments.corpus.empty() || arguments.questions.empty() || arguments.store.empty()) {
    std::fprintf(stderr, "--corpus, --questions and --store are needed\n");
    return 2;
  }
  try {
    apud::Path path =
        model.find('/') == std::string::npos ? apud::test::models_dir() / model : apud::Path(model);
    auto loaded = apud::load_model(path);
    auto make = [&](const apud::Program& program) {
      return apud::make_cpu_executor(program, loaded->weights(), {});
    };
    apud::EngineEmbedder embedder(
        model, apud::Embedding(loaded, apud::make_embedding_executor(*loaded, make)));
    std::string scores = arguments.excerpts > 0
                             ? apud::bench::evaluate_excerpts(embedder, arguments)
                             : apud::bench::evaluate_retrieval(embedder, arguments);
    std::printf("%s\n", scores.c_str());
  } catch (const apud::Error& e) {
    std::fprintf(stderr, "%s\n%s\n", e.what(), e.advice().c_str());
    return apud::exit_code(e.kind());
  }
  return 0;
}
