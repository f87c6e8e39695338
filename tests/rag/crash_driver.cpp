// Ingests a folder with the fake embedder and acknowledges each file on stdout once it is durable;
// with "reindex" cuts and embeds the collection anew by another embedder and swaps.
// The crash test runs this under strace's fault injection.
#include <unistd.h>

#include <cstdio>
#include <string>

#include "base/error.h"
#include "rag/ingest.h"
#include "rag/reindex.h"
#include "tests/support/fake_embedder.h"

int main(int argc, char** argv) {
  bool reindexing = argc == 3 && std::string(argv[2]) == "reindex";
  if (argc != 2 && !reindexing) return 2;
  try {
    apud::Store store;
    apud::test::FakeEmbedder embedder;
    if (reindexing) {
      embedder.print = "fake/2";
      embedder.size = 48;
      apud::Shadow shadow = apud::build_shadow(store, embedder, "default", {{110, 120, 0}, 1});
      apud::WriteLock lock(store);
      store.adopt_shadow(lock, "default", shadow.generation);
      return 0;
    }
    apud::Path root = argv[1];
    apud::IngestOptions options;
    options.jobs = 1;
    apud::ingest(store, embedder, std::span(&root, 1), options, [](const apud::IngestProgress& p) {
      if (!p.event) return;
      std::string line =
          std::string(apud::file_outcome_name(p.event->outcome)) + " " + p.event->path + "\n";
      if (::write(1, line.data(), line.size()) < 0) ::_exit(99);
    });
  } catch (const apud::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return apud::exit_code(e.kind());
  }
  return 0;
}
