// Developer's tool behind scripts/eval-loaders: loads files and prints their text, or one JSON-like
// line a file with what became of it.
//   load_dump [--text | --blocks | --chunks] FILE...
// --chunks counts four bytes as a token.
#include <chrono>
#include <cstdio>
#include <cstring>

#include "base/child.h"
#include "rag/chunker.h"
#include "rag/loader.h"

int main(int argc, char** argv) {
  apud::child_main(argc, argv);
  int first = 1;
  bool text = argc > 1 && std::strcmp(argv[1], "--text") == 0;
  bool blocks = argc > 1 && std::strcmp(argv[1], "--blocks") == 0;
  bool chunks = argc > 1 && std::strcmp(argv[1], "--chunks") == 0;
  if (text || blocks || chunks) ++first;
  for (int i = first; i < argc; ++i) {
    auto begin = std::chrono::steady_clock::now();
    apud::LoadedFile file = apud::load_file(argv[i]);
    double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const apud::Document& d = file.document;
    if (text) {
      std::fwrite(d.text.data(), 1, d.text.size(), stdout);
    } else if (chunks) {
      begin = std::chrono::steady_clock::now();
      apud::Chunks c = apud::chunk_document(
          d, {}, [](std::string_view t) { return static_cast<int>(t.size() / 4 + 1); });
      double cutting =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      long tokens = 0;
      for (const apud::Chunk& chunk : c.chunks) tokens += chunk.tokens;
      std::printf(
          "%s\t%zu bytes\t%zu sections\t%zu sentences\t%zu chunks\t%.1f tokens each\tloaded in "
          "%.1f ms\tcut in %.1f ms\n",
          argv[i], d.text.size(), c.sections.size(), c.sentences.size(), c.chunks.size(),
          static_cast<double>(tokens) /
              static_cast<double>(c.chunks.size() + (c.chunks.empty() ? 1 : 0)),
          seconds * 1e3, cutting * 1e3);
    } else if (blocks) {
      for (const apud::Block& block : d.blocks) {
        apud::Anchor at = apud::anchor_at(d, block.begin);
        std::printf("[%d.%d line %d page %d %s] %s\n", static_cast<int>(block.kind), block.level,
                    at.line, at.page, at.member.c_str(),
                    d.text.substr(block.begin, block.end - block.begin).c_str());
      }
    } else {
      std::printf("%s\t%s\t%s\t%s\t%zu text\t%zu blocks\t%d hidden\t%d replaced\t%.1f ms\t%s\n",
                  argv[i], apud::load_status_name(d.status), d.loader.c_str(), d.title.c_str(),
                  d.text.size(), d.blocks.size(), d.hidden_removed, d.replaced, seconds * 1e3,
                  d.reason.c_str());
    }
  }
}
