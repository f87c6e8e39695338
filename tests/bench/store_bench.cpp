// A synthetic store of many chunks: removing a document, opening and searching the vectors, exact
// and by groups. Issue figures; nothing is embedded, vectors are random mixtures.
//
//   store_bench FOLDER CHUNKS [MIX]   (kept in FOLDER; a rerun goes on with it)
//
// MIX: a file of fp16 vectors (384 each) of real passages; rows and queries are normalised sums of
// two of them, the second at .5, so that they lie as real ones do.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "rag/index.h"
#include "rag/store.h"
#include "rag/store/half.h"
#include "rag/token_codes.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kDimension = 384;
constexpr int kChunksOfDocument = 50;

double ms(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

class Vectors {
 public:
  explicit Vectors(const char* file) {
    if (!file) return;
    std::string bytes = apud::read_file(file);
    std::vector<uint16_t> halves(bytes.size() / 2);
    std::copy_n(bytes.data(), halves.size() * 2, reinterpret_cast<char*>(halves.data()));
    for (uint16_t h : halves) real_.push_back(apud::half::to_float(h));
  }
  std::vector<float> next() {
    std::vector<float> row(kDimension);
    std::normal_distribution<float> normal;
    size_t n = real_.size() / kDimension;
    const float* a = n ? &real_[random_() % n * kDimension] : nullptr;
    const float* b = n ? &real_[random_() % n * kDimension] : nullptr;
    double norm = 0;
    for (int d = 0; d < kDimension; ++d) {
      row[d] = n ? a[d] + 0.5f * b[d] : normal(random_);
      norm += double{row[d]} * row[d];
    }
    for (float& v : row) v = static_cast<float>(v / std::sqrt(norm));
    return row;
  }

 private:
  std::vector<float> real_;
  std::mt19937_64 random_{1};
};

std::string words(std::mt19937_64& random, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) {
    // Zipf-like: few frequent words, many rare ones.
    double u = std::uniform_real_distribution<double>(0, 1)(random);
    out +=
        "w" + std::to_string(static_cast<int>(std::pow(50'000.0, u))) + (i % 12 == 11 ? ". " : " ");
  }
  return out;
}

void fill(apud::Store& store, Vectors& vectors, int64_t chunks) {
  apud::WriteLock lock(store);
  auto found = store.find_collection("big");
  apud::CollectionInfo info =
      found ? *found : store.create_collection(lock, "big", {"bench", "bench", kDimension}, "x");
  std::mt19937_64 random(2);
  for (int64_t have = store.chunk_count(info.id); have < chunks; have += kChunksOfDocument) {
    apud::Document document;
    std::vector<apud::NewChunk> parts;
    std::vector<std::string> keys, codes;
    std::vector<float> rows;
    for (int i = 0; i < kChunksOfDocument; ++i) {
      size_t begin = document.text.size();
      document.text += words(random, 60);
      std::string key = apud::text_key(std::to_string(have + i));
      parts.push_back(
          {begin, document.text.size(), "Heading " + std::to_string(i), "Book", 80, key});
      keys.push_back(key);
      apud::TokenCodes tokens;  // as large as real ones
      tokens.words = kDimension / 64;
      tokens.parts = {0, 80};
      tokens.bits.assign(80 * tokens.words, random());
      codes.push_back(tokens.pack());
      std::vector<float> row = vectors.next();
      rows.insert(rows.end(), row.begin(), row.end());
    }
    apud::DocumentInfo doc;
    doc.collection = info.id;
    doc.path = "/docs/" + std::to_string(have) + ".txt";
    doc.content_hash = std::to_string(have);
    store.put_document(lock, doc, document, parts, keys, rows, codes);
    if (have % 50'000 == 0) std::fprintf(stderr, "\r%ld chunks", static_cast<long>(have));
  }
  std::fprintf(stderr, "\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "store_bench FOLDER CHUNKS [MIX]\n");
    return 2;
  }
  try {
    apud::Path folder = argv[1];
    Vectors vectors(argc > 3 ? argv[3] : nullptr);
    apud::make_private_dir(folder);
    apud::Store store(folder / "apud.db");
    fill(store, vectors, std::atoll(argv[2]));
    apud::CollectionInfo info = store.collection("big");
    std::printf("%ld chunks in %ld documents\n", static_cast<long>(info.chunks),
                static_cast<long>(info.documents));
    std::vector<apud::DocumentInfo> documents = store.documents(info.id);
    std::vector<double> times;
    {
      apud::WriteLock lock(store);
      for (size_t i = 0; i < 9; ++i) {
        int64_t id = documents[(i + 1) * documents.size() / 11].id;
        auto start = Clock::now();
        store.remove_documents(lock, {&id, 1});
        store.purge(lock);
        times.push_back(ms(start));
      }
    }
    std::sort(times.begin(), times.end());
    std::printf("remove a document of %d chunks, its words purged: median %.1f ms, worst %.1f ms\n",
                kChunksOfDocument, times[4], times.back());

    apud::Path file = folder / "big.vec";
    apud::VectorIndex index(kDimension);
    auto start = Clock::now();
    store.for_each_vector(info.id,
                          [&](const apud::VectorRow& row) { index.add(row.chunk, row.vector); });
    std::printf("vectors from the store: %.1f s\n", ms(start) / 1000);
    constexpr int kQueries = 100, kBest = 10;
    std::vector<std::vector<float>> queries;
    std::vector<std::vector<apud::VectorHit>> exact;
    start = Clock::now();
    for (int q = 0; q < kQueries; ++q) {
      queries.push_back(vectors.next());
      exact.push_back(index.search(queries.back(), kBest));
    }
    std::printf("exact search: %.1f ms\n", ms(start) / kQueries);
    start = Clock::now();
    index.partition();
    std::printf("partition into %d lists: %.1f s\n", index.lists(), ms(start) / 1000);
    start = Clock::now();
    int right = 0;
    for (int q = 0; q < kQueries; ++q) {
      for (const apud::VectorHit& h : index.search(queries[q], kBest)) {
        right += std::any_of(exact[q].begin(), exact[q].end(),
                             [&](const auto& e) { return e.chunk == h.chunk; });
      }
    }
    std::printf("search by lists: %.1f ms, recall@10 %.4f\n", ms(start) / kQueries,
                right / double{kQueries * kBest});
    apud::VectorIndex::Key key{std::string(32, 'a'), "bench", 1};
    index.save(file, key);
    start = Clock::now();
    bool there = apud::VectorIndex::load(file, key, kDimension).has_value();
    std::printf("reopen: %.0f ms\n", ms(start));
    return there ? 0 : 1;
  } catch (const apud::Error& e) {
    std::fprintf(stderr, "%s\n%s\n", e.what(), e.advice().c_str());
    return apud::exit_code(e.kind());
  }
}
