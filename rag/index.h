// The vector index of one collection: inner-product search over fp16 rows held in FAISS's inverted
// lists, scanned by our own vectorised loop (Debian's FAISS 1.7.3 is a plain SSE2 build). Up to
// half a million rows lie in one list and every search is exact; above, they are grouped by
// centroids, and a search reads the promising eighth of the groups (recall in
// docs/performance.md).
//
// A cache beside the store: saved in our own checksummed file with the collection's uuid, embedder
// and generation. A file of an earlier generation is brought up to date by the difference; on any
// doubt it is ignored and rebuilt from the store, never answered from. FAISS's deserialiser never
// sees a file. Threads: const methods may run in parallel.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "rag/store.h"

namespace apud {

struct VectorHit {
  int64_t chunk = 0;
  float score = 0;  // inner product of unit vectors
};

/// Instruction sets of the scan; kPortable runs everywhere.
enum class ScanIsa { kPortable, kAvx2, kAvx512 };
const char* scan_isa_name(ScanIsa isa);
/// What this machine can run, best last.
std::vector<ScanIsa> scan_isas();

class VectorIndex {
 public:
  explicit VectorIndex(int dimension);
  ~VectorIndex();
  VectorIndex(VectorIndex&&) noexcept;
  VectorIndex& operator=(VectorIndex&&) noexcept;

  int dimension() const;
  int64_t size() const;  // live rows
  int64_t tombstones() const;
  int lists() const;  // groups of rows; 1: every search is exact

  /// Rows above which a search should not read every row.
  static constexpr int64_t kPartitionAbove = 500'000;
  /// Large enough for groups and not yet grouped, or four times as large as when it was.
  bool wants_partition() const;
  /// Groups the rows by k-means; `lists` 0: the square root of their number. Takes seconds and, for
  /// the while, twice the memory of the rows.
  void partition(int lists = 0);
  /// Adds a row, or replaces the chunk's row. fp16 unit vector (dimension).
  void add(int64_t chunk, std::span<const uint16_t> vector);
  /// Returns false when the chunk is not there. Compacts when a fifth is dead.
  bool remove(int64_t chunk);
  /// Best k by inner product, best first, ties by chunk id. `keep`, when given, filters chunks
  /// (and every row is read).
  /// query (dimension) fp32.
  std::vector<VectorHit> search(std::span<const float> query, int k,
                                const std::function<bool(int64_t)>& keep = {}) const;
  /// Inner products with the given chunks; NaN where absent.
  std::vector<float> scores(std::span<const float> query, std::span<const int64_t> chunks) const;
  /// The chunks' rows, (chunks, dimension); zeros where absent.
  std::vector<float> vectors(std::span<const int64_t> chunks) const;
  /// Forces a scan (tests, bench); nullopt: the best one. Throws kUsage where it cannot run.
  void force_isa(std::optional<ScanIsa> isa);
  ScanIsa isa() const;

  /// Live rows as they are saved: ids (rows), codes (rows, dimension) fp16.
  struct Rows {
    std::vector<int64_t> ids;         // by list
    std::vector<uint8_t> codes;       // by list
    std::vector<int64_t> list_sizes;  // empty: one list
    std::vector<float> centroids;     // (lists, dimension); empty for one list
    int64_t partitioned_at = 0;       // rows when the centroids were trained
  };
  Rows export_rows() const;
  std::vector<int64_t> export_ids() const;  // ascending
  /// Replaces everything. REQUIRES: sizes agree, ids are distinct.
  void import_rows(Rows rows);

  /// Identity under which the file is valid.
  struct Key {
    std::string collection_uuid;
    std::string embedder;  // fingerprint
    int64_t generation = 0;
  };
  /// Atomic replacement of `file`.
  void save(const Path& file, const Key& key) const;
  /// Absent when the file is missing, damaged, or of another key; `why` (when given) says which.
  /// With `generation`, a file of an earlier generation than the key's is loaded as well and its
  /// generation given there: the caller must bring it up to date.
  static std::optional<VectorIndex> load(const Path& file, const Key& key, int dimension,
                                         std::string* why = nullptr, int64_t* generation = nullptr);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// cache_dir()/index/<uuid>.vec
Path vector_index_path(const std::string& collection_uuid);
/// Loads the collection's index or rebuilds it from the store (and saves it, where the cache folder
/// can be written). `note` says what happened when it was not simply loaded.
VectorIndex open_vector_index(Store& store, const CollectionInfo& collection,
                              std::string* note = nullptr);
/// Where a collection has no index file, since removing documents took it: makes it for the next
/// search.
void remake_vector_index(Store& store, const CollectionInfo& collection);

/// Brings an index that was right for an earlier generation of the same collection up to the
/// store's content, in time proportional to the change (chunk ids are never reused and never change
/// vectors).
void refresh_vector_index(VectorIndex& index, Store& store, int64_t collection);

}  // namespace apud
