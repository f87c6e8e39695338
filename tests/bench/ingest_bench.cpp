// Parsing alone: how fast the loaders and the chunker read the files of folders, by loader; nothing
// is embedded or stored. Every file is read once before, so that the disk has no part in it.
//
//   ingest_bench JOBS MODEL FOLDER…      MODEL: whose tokenizer sizes the chunks, e.g. e5-small-q4
//
// One line per loader: files, MB of source, pages (PDF), and what each step takes on JOBS threads:
// load (file to normalised text), chunk (to chunks, tokens counted by MODEL's tokenizer), and both
// together.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "base/child.h"
#include "base/error.h"
#include "engine/embedding.h"
#include "rag/chunker.h"
#include "rag/loader.h"
#include "rag/walk.h"
#include "tests/support/models.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void parallel(int jobs, size_t n, const std::function<void(size_t)>& body) {
  std::atomic<size_t> next = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < jobs; ++i)
    threads.emplace_back([&] {
      apud::ChildReuse reuse;  // as ingest's parsers
      for (size_t at; (at = next++) < n;) body(at);
    });
  for (std::thread& t : threads) t.join();
}

}  // namespace

int main(int argc, char** argv) {
  apud::child_main(argc, argv);
  if (argc < 4) {
    std::fprintf(stderr, "ingest_bench JOBS MODEL FOLDER...\n");
    return 2;
  }
  try {
    const int jobs = std::max(1, std::atoi(argv[1]));
    auto model = apud::load_model(apud::test::models_dir() / argv[2]);
    apud::Embedding embedding(model,
                              apud::make_cpu_executor(model->program(), model->weights(), {}));
    const apud::ChunkOptions chunking =
        apud::chunk_options_for(embedding.max_tokens() - embedding.overhead_tokens());
    auto count = [&](std::string_view text) { return embedding.count_tokens(text); };
    std::vector<apud::Path> paths;
    for (int i = 3; i < argc; ++i)
      apud::walk(argv[i], {}, {[&](apud::WalkEntry&& entry) { paths.push_back(entry.path); }, {}});
    // By loader; the first reading warms the disk cache and tells which loader a file has.
    std::vector<apud::LoadedFile> first(paths.size());
    parallel(jobs, paths.size(), [&](size_t i) { first[i] = apud::load_file(paths[i]); });
    std::map<std::string, std::vector<size_t>> by_loader;
    for (size_t i = 0; i < paths.size(); ++i) {
      if (!first[i].document.skipped()) by_loader[first[i].document.loader].push_back(i);
    }
    std::printf("%-14s %6s %9s %9s %7s %10s %11s %10s %9s\n", "loader", "files", "source MB",
                "text MB", "pages", "load MB/s", "chunk MB/s", "both MB/s", "pages/s");
    for (auto& [loader, files] : by_loader) {
      double source = 0, text = 0;
      int pages = 0;
      std::vector<apud::Document> documents(files.size());
      auto start = Clock::now();
      parallel(jobs, files.size(), [&, f = &files](size_t i) {
        documents[i] = apud::load_file(paths[(*f)[i]]).document;
      });
      double load = seconds(start);
      start = Clock::now();
      parallel(jobs, files.size(),
               [&](size_t i) { apud::chunk_document(documents[i], chunking, count); });
      double chunk = seconds(start);
      for (size_t i = 0; i < files.size(); ++i) {
        source += static_cast<double>(first[files[i]].size) / 1e6;
        text += static_cast<double>(documents[i].text.size()) / 1e6;
        for (const apud::Anchor& a : documents[i].anchors) pages += a.page > 0;
      }
      std::printf("%-14s %6zu %9.1f %9.1f %7d %10.1f %11.1f %10.1f %9.0f\n", loader.c_str(),
                  files.size(), source, text, pages, source / load, text / chunk,
                  source / (load + chunk), pages / load);
    }
  } catch (const apud::Error& e) {
    std::fprintf(stderr, "%s\n%s\n", e.what(), e.advice().c_str());
    return apud::exit_code(e.kind());
  }
  return 0;
}
