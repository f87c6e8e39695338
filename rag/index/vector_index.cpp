#include <faiss/Clustering.h>
#include <faiss/IndexFlat.h>
#include <faiss/invlists/InvertedLists.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "rag/index.h"
#include "rag/index/blas.h"
#include "rag/index/scan.h"
#include "rag/store/half.h"

namespace apud {
namespace {

constexpr int64_t kBlock = 1024;          // rows scored before the selection looks at them
constexpr int64_t kAssignBlock = 4096;    // rows given to their lists at a time
constexpr int64_t kTrainingPerList = 64;  // FAISS's guide: 30 to 256
constexpr int kTrainingRounds = 8;
constexpr int kProbedShare = 8;  // one list in so many is read by a search
constexpr int kFewestProbes = 16;

/// Where a chunk's row is.
struct Place {
  int64_t chunk;
  uint32_t list;
  uint32_t row;
};

/// The best k so far.
class Best {
 public:
  explicit Best(size_t k) : k_(k) {}
  float bar() const {
    return heap_.size() < k_ ? -std::numeric_limits<float>::infinity() : heap_.front().score;
  }
  bool would_take(const VectorHit& hit) const {
    return heap_.size() < k_ || better(hit, heap_.front());
  }
  void take(const VectorHit& hit) {
    if (heap_.size() == k_) {
      std::pop_heap(heap_.begin(), heap_.end(), better);
      heap_.pop_back();
    }
    heap_.push_back(hit);
    std::push_heap(heap_.begin(), heap_.end(), better);
  }
  std::vector<VectorHit> sorted() && {
    std::sort_heap(heap_.begin(), heap_.end(), better);
    return std::move(heap_);
  }

 private:
  static bool better(const VectorHit& a, const VectorHit& b) {
    return a.score > b.score || (a.score == b.score && a.chunk < b.chunk);
  }
  size_t k_;
  std::vector<VectorHit> heap_;  // the front is the worst kept
};

}  // namespace

/// Rows lie in FAISS's inverted lists: one list without a centroid is the exact index, several with
/// centroids in a FAISS flat index are the partitioned one.
struct VectorIndex::Impl {
  explicit Impl(int d) : dimension(d) { reset(1); }

  int dimension;
  std::unique_ptr<faiss::ArrayInvertedLists> rows;  // by list: codes (n, dimension) fp16, chunk ids
  std::vector<std::vector<uint8_t>> dead;           // by list: 1: tombstone
  std::unique_ptr<faiss::IndexFlatIP> centroids;    // (lists, dimension); null: one list
  std::vector<Place> places;                        // by chunk id, of live and dead rows
  int64_t dead_count = 0;
  int64_t partitioned_at = 0;  // live rows when the centroids were trained
  ScanIsa isa = scan_isas().back();

  size_t width() const { return static_cast<size_t>(dimension) * sizeof(uint16_t); }
  size_t list_count() const { return rows->nlist; }
  int64_t list_rows(size_t list) const { return static_cast<int64_t>(rows->ids[list].size()); }
  const uint16_t* codes(size_t list) const {
    return reinterpret_cast<const uint16_t*>(rows->codes[list].data());
  }

  void reset(size_t lists) {
    rows = std::make_unique<faiss::ArrayInvertedLists>(lists, width());
    dead.assign(lists, {});
    places.clear();
    dead_count = 0;
    if (lists == 1) centroids.reset();
  }

  /// Place of a chunk's live row, or null.
  /// A row as floats, (dimension).
  void widen(const Place& place, float* to) const {
    const auto d = static_cast<size_t>(dimension);
    const uint16_t* row = codes(place.list) + size_t{place.row} * d;
    for (size_t i = 0; i < d; ++i) to[i] = half::to_float(row[i]);
  }

  const Place* find(int64_t chunk) const {
    auto at = std::lower_bound(places.begin(), places.end(), chunk,
                               [](const Place& p, int64_t c) { return p.chunk < c; });
    for (; at != places.end() && at->chunk == chunk; ++at) {
      if (!dead[at->list][at->row]) return &*at;
    }
    return nullptr;
  }

  size_t nearest_list(const uint16_t* vector) const {
    if (!centroids) return 0;
    std::vector<float> wide(static_cast<size_t>(dimension));
    for (int d = 0; d < dimension; ++d) wide[static_cast<size_t>(d)] = half::to_float(vector[d]);
    float score;
    faiss::Index::idx_t list = 0;
    centroids->search(1, wide.data(), 1, &score, &list);
    return static_cast<size_t>(std::max<int64_t>(list, 0));
  }

  void append(size_t list, int64_t chunk, const uint16_t* vector) {
    Place place{chunk, static_cast<uint32_t>(list), static_cast<uint32_t>(rows->ids[list].size())};
    if (places.empty() || places.back().chunk <= chunk) {
      places.push_back(place);
    } else {
      places.insert(std::upper_bound(places.begin(), places.end(), chunk,
                                     [](int64_t c, const Place& p) { return c < p.chunk; }),
                    place);
    }
    rows->add_entries(list, 1, &chunk, reinterpret_cast<const uint8_t*>(vector));
    dead[list].push_back(0);
  }

  /// After lists were filled or rewritten as a whole.
  void rebuild_places() {
    places.clear();
    for (size_t list = 0; list < list_count(); ++list) {
      for (int64_t row = 0; row < list_rows(list); ++row) {
        places.push_back({rows->ids[list][static_cast<size_t>(row)], static_cast<uint32_t>(list),
                          static_cast<uint32_t>(row)});
      }
    }
    auto by_chunk = [](const Place& a, const Place& b) { return a.chunk < b.chunk; };
    if (!std::is_sorted(places.begin(), places.end(), by_chunk))
      std::sort(places.begin(), places.end(), by_chunk);
  }

  void compact() {
    for (size_t list = 0; list < list_count(); ++list) {
      auto& ids = rows->ids[list];
      auto& bytes = rows->codes[list];
      size_t to = 0;
      for (size_t i = 0; i < ids.size(); ++i) {
        if (dead[list][i]) continue;
        if (to != i) {
          std::copy_n(bytes.data() + i * width(), width(), bytes.data() + to * width());
          ids[to] = ids[i];
        }
        ++to;
      }
      ids.resize(to);
      bytes.resize(to * width());
      dead[list].assign(to, 0);
    }
    dead_count = 0;
    rebuild_places();
  }

  /// Lists that a search reads.
  std::vector<size_t> lists_for(std::span<const float> query, bool all) const {
    std::vector<size_t> lists;
    if (!centroids || all) {
      lists.resize(list_count());
      std::iota(lists.begin(), lists.end(), size_t{0});
      return lists;
    }
    auto probes = std::min<int64_t>(
        static_cast<int64_t>(list_count()),
        std::max<int64_t>(kFewestProbes, static_cast<int64_t>(list_count()) / kProbedShare));
    std::vector<float> scores(static_cast<size_t>(probes));
    std::vector<faiss::Index::idx_t> found(static_cast<size_t>(probes));
    centroids->search(1, query.data(), probes, scores.data(), found.data());
    for (auto list : found) {
      if (list >= 0) lists.push_back(static_cast<size_t>(list));
    }
    return lists;
  }
};

VectorIndex::VectorIndex(int dimension) {
  APUD_CHECK(dimension > 0, "vectors have a dimension");
  impl_ = std::make_unique<Impl>(dimension);
}
VectorIndex::~VectorIndex() = default;
VectorIndex::VectorIndex(VectorIndex&&) noexcept = default;
VectorIndex& VectorIndex::operator=(VectorIndex&&) noexcept = default;

int VectorIndex::dimension() const { return impl_->dimension; }
int64_t VectorIndex::size() const {
  return static_cast<int64_t>(impl_->places.size()) - impl_->dead_count;
}
int64_t VectorIndex::tombstones() const { return impl_->dead_count; }
int VectorIndex::lists() const { return static_cast<int>(impl_->list_count()); }
ScanIsa VectorIndex::isa() const { return impl_->isa; }

void VectorIndex::force_isa(std::optional<ScanIsa> isa) {
  auto there = scan_isas();
  if (!isa) isa = there.back();
  if (std::find(there.begin(), there.end(), *isa) == there.end()) {
    throw Error(ErrorKind::kUsage, std::string("this CPU has no ") + scan_isa_name(*isa));
  }
  impl_->isa = *isa;
}

void VectorIndex::add(int64_t chunk, std::span<const uint16_t> vector) {
  APUD_CHECK(static_cast<int>(vector.size()) == impl_->dimension,
             "a row has the index's dimension");
  remove(chunk);
  impl_->append(impl_->nearest_list(vector.data()), chunk, vector.data());
}

bool VectorIndex::remove(int64_t chunk) {
  const Place* place = impl_->find(chunk);
  if (!place) return false;
  impl_->dead[place->list][place->row] = 1;
  impl_->dead_count += 1;
  if (impl_->dead_count * 5 > static_cast<int64_t>(impl_->places.size()) && impl_->dead_count > 64)
    impl_->compact();
  return true;
}

std::vector<VectorHit> VectorIndex::search(std::span<const float> query, int k,
                                           const std::function<bool(int64_t)>& keep) const {
  APUD_CHECK(static_cast<int>(query.size()) == impl_->dimension,
             "the query has the index's dimension");
  if (k <= 0) return {};
  Best best(static_cast<size_t>(k));
  ScanFunction scan = scan_function(impl_->isa);
  float scores[kBlock];
  // A filter may leave little in the promising lists: then all are read.
  for (size_t list : impl_->lists_for(query, static_cast<bool>(keep))) {
    const auto& ids = impl_->rows->ids[list];
    const auto& dead = impl_->dead[list];
    for (int64_t begin = 0; begin < impl_->list_rows(list); begin += kBlock) {
      int64_t n = std::min(kBlock, impl_->list_rows(list) - begin);
      scan(impl_->codes(list) + begin * impl_->dimension, query.data(), impl_->dimension, n,
           scores);
      for (int64_t i = 0; i < n; ++i) {
        if (scores[i] < best.bar()) continue;
        auto row = static_cast<size_t>(begin + i);
        if (dead[row]) continue;
        VectorHit hit{ids[row], scores[i]};
        if (best.would_take(hit) && (!keep || keep(hit.chunk))) best.take(hit);
      }
    }
  }
  return std::move(best).sorted();
}

std::vector<float> VectorIndex::scores(std::span<const float> query,
                                       std::span<const int64_t> chunks) const {
  APUD_CHECK(static_cast<int>(query.size()) == impl_->dimension,
             "the query has the index's dimension");
  ScanFunction scan = scan_function(impl_->isa);
  std::vector<float> out;
  out.reserve(chunks.size());
  for (int64_t chunk : chunks) {
    float score = std::numeric_limits<float>::quiet_NaN();
    if (const Place* place = impl_->find(chunk)) {
      scan(impl_->codes(place->list) + int64_t{place->row} * impl_->dimension, query.data(),
           impl_->dimension, 1, &score);
    }
    out.push_back(score);
  }
  return out;
}

std::vector<float> VectorIndex::vectors(std::span<const int64_t> chunks) const {
  const auto d = static_cast<size_t>(impl_->dimension);
  std::vector<float> out(chunks.size() * d, 0);
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (const Place* place = impl_->find(chunks[i])) impl_->widen(*place, out.data() + i * d);
  }
  return out;
}

bool VectorIndex::wants_partition() const {
  if (size() <= kPartitionAbove) return false;
  return lists() == 1 || size() > 4 * impl_->partitioned_at;
}

void VectorIndex::partition(int lists) {
  Impl& impl = *impl_;
  impl.compact();
  int64_t n = size();
  if (lists <= 0) lists = static_cast<int>(std::lround(std::sqrt(static_cast<double>(n))));
  lists = static_cast<int>(std::clamp<int64_t>(lists, 1, std::max<int64_t>(1, n / 4)));
  auto d = static_cast<size_t>(impl.dimension);
  // Spherical k-means over a sample that is spread evenly over the collection.
  int64_t sampled = std::min(n, kTrainingPerList * lists);
  std::vector<float> sample(static_cast<size_t>(sampled) * d);
  for (int64_t i = 0; i < sampled; ++i)
    impl.widen(impl.places[static_cast<size_t>(i * n / sampled)], sample.data() + i * d);
  load_blas();
  faiss::ClusteringParameters parameters;
  parameters.niter = kTrainingRounds;
  parameters.spherical = true;
  parameters.seed = 1234;
  parameters.min_points_per_centroid = 1;
  parameters.max_points_per_centroid = kTrainingPerList;
  auto centroids = std::make_unique<faiss::IndexFlatIP>(impl.dimension);
  faiss::Clustering clustering(impl.dimension, lists, parameters);
  clustering.train(sampled, sample.data(), *centroids);
  sample = {};

  // The new lists are filled beside the old ones and take their place at the end.
  Impl next(impl.dimension);
  next.isa = impl.isa;
  next.reset(static_cast<size_t>(lists));
  std::vector<float> block(static_cast<size_t>(kAssignBlock) * d), scores(kAssignBlock);
  std::vector<faiss::Index::idx_t> to(kAssignBlock);
  for (int64_t begin = 0; begin < n; begin += kAssignBlock) {
    int64_t rows = std::min(kAssignBlock, n - begin);
    for (int64_t i = 0; i < rows; ++i)
      impl.widen(impl.places[static_cast<size_t>(begin + i)], block.data() + i * d);
    centroids->search(rows, block.data(), 1, scores.data(), to.data());
    for (int64_t i = 0; i < rows; ++i) {
      const Place& place = impl.places[static_cast<size_t>(begin + i)];
      next.append(static_cast<size_t>(std::max<int64_t>(to[static_cast<size_t>(i)], 0)),
                  place.chunk, impl.codes(place.list) + size_t{place.row} * d);
    }
  }
  if (lists > 1) next.centroids = std::move(centroids);
  next.partitioned_at = n;
  impl = std::move(next);
}

VectorIndex::Rows VectorIndex::export_rows() const {
  Rows rows;
  size_t width = impl_->width();
  rows.ids.reserve(static_cast<size_t>(size()));
  rows.codes.reserve(static_cast<size_t>(size()) * width);
  for (size_t list = 0; list < impl_->list_count(); ++list) {
    size_t before = rows.ids.size();
    for (size_t i = 0; i < impl_->dead[list].size(); ++i) {
      if (impl_->dead[list][i]) continue;
      rows.ids.push_back(impl_->rows->ids[list][i]);
      const uint8_t* code = impl_->rows->codes[list].data() + i * width;
      rows.codes.insert(rows.codes.end(), code, code + width);
    }
    rows.list_sizes.push_back(static_cast<int64_t>(rows.ids.size() - before));
  }
  if (impl_->centroids) {
    const float* from = impl_->centroids->get_xb();
    rows.centroids.assign(from, from + impl_->list_count() * static_cast<size_t>(dimension()));
  }
  rows.partitioned_at = impl_->partitioned_at;
  return rows;
}

std::vector<int64_t> VectorIndex::export_ids() const {
  std::vector<int64_t> ids;
  ids.reserve(static_cast<size_t>(size()));
  for (const Place& place : impl_->places) {
    if (!impl_->dead[place.list][place.row]) ids.push_back(place.chunk);
  }
  return ids;
}

void VectorIndex::import_rows(Rows rows) {
  Impl& impl = *impl_;
  size_t width = impl.width();
  APUD_CHECK(rows.codes.size() == rows.ids.size() * width, "one code per id");
  if (rows.list_sizes.empty()) rows.list_sizes = {static_cast<int64_t>(rows.ids.size())};
  size_t lists = rows.list_sizes.size();
  APUD_CHECK(rows.centroids.size() == (lists > 1 ? lists * static_cast<size_t>(dimension()) : 0),
             "one centroid per list");
  impl.reset(lists);
  if (lists == 1) {
    impl.rows->ids[0] = std::move(rows.ids);
    impl.rows->codes[0] = std::move(rows.codes);
    impl.dead[0].assign(impl.rows->ids[0].size(), 0);
  } else {
    impl.centroids = std::make_unique<faiss::IndexFlatIP>(dimension());
    impl.centroids->add(static_cast<int64_t>(lists), rows.centroids.data());
    size_t at = 0;
    for (size_t list = 0; list < lists; ++list) {
      auto n = static_cast<size_t>(rows.list_sizes[list]);
      APUD_CHECK(at + n <= rows.ids.size(), "list sizes add up");
      impl.rows->ids[list].assign(rows.ids.begin() + at, rows.ids.begin() + at + n);
      impl.rows->codes[list].assign(rows.codes.begin() + at * width,
                                    rows.codes.begin() + (at + n) * width);
      impl.dead[list].assign(n, 0);
      at += n;
    }
  }
  impl.partitioned_at = rows.partitioned_at;
  impl.rebuild_places();
}

}  // namespace apud
