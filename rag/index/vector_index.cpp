#include <faiss/IndexScalarQuantizer.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "base/check.h"
#include "base/error.h"
#include "rag/index.h"
#include "rag/index/scan.h"

namespace apud {
namespace {

constexpr int64_t kBlock = 1024;  // rows scored before the selection looks at them

}  // namespace

struct VectorIndex::Impl {
  explicit Impl(int d)
      : dimension(d), rows(d, faiss::ScalarQuantizer::QT_fp16, faiss::METRIC_INNER_PRODUCT) {
    rows.is_trained = true;  // fp16 learns nothing
  }

  int dimension;
  faiss::IndexScalarQuantizer rows;  // codes (ntotal, dimension) fp16
  std::vector<int64_t> ids;          // (ntotal) chunk of a row
  std::vector<uint8_t> dead;         // (ntotal) 1: tombstone
  int64_t dead_count = 0;
  bool ascending = true;                        // ids are sorted: rows are found by bisection
  std::unordered_map<int64_t, int64_t> row_of;  // otherwise by this
  ScanIsa isa = scan_isas().back();

  const uint16_t* data() const { return reinterpret_cast<const uint16_t*>(rows.codes.data()); }
  int64_t count() const { return static_cast<int64_t>(ids.size()); }

  /// Live row of a chunk, or -1.
  int64_t find(int64_t chunk) const {
    if (ascending) {
      auto at = std::lower_bound(ids.begin(), ids.end(), chunk);
      if (at == ids.end() || *at != chunk) return -1;
      int64_t row = at - ids.begin();
      return dead[row] ? -1 : row;
    }
    auto at = row_of.find(chunk);
    return at == row_of.end() ? -1 : at->second;
  }

  void append(int64_t chunk, const uint16_t* vector) {
    if (ascending && !ids.empty() && chunk <= ids.back()) {
      ascending = false;
      for (int64_t i = 0; i < count(); ++i) {
        if (!dead[i]) row_of[ids[i]] = i;
      }
    }
    if (!ascending) row_of[chunk] = count();
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(vector);
    rows.codes.insert(rows.codes.end(), bytes, bytes + dimension * sizeof(uint16_t));
    rows.ntotal += 1;
    ids.push_back(chunk);
    dead.push_back(0);
  }

  void compact() {
    size_t width = dimension * sizeof(uint16_t);
    int64_t to = 0;
    for (int64_t i = 0; i < count(); ++i) {
      if (dead[i]) continue;
      if (to != i) {
        std::copy_n(rows.codes.data() + i * width, width, rows.codes.data() + to * width);
        ids[to] = ids[i];
      }
      ++to;
    }
    ids.resize(to);
    rows.codes.resize(to * width);
    rows.ntotal = to;
    dead.assign(to, 0);
    dead_count = 0;
    ascending = std::is_sorted(ids.begin(), ids.end());
    row_of.clear();
    if (!ascending) {
      for (int64_t i = 0; i < to; ++i) row_of[ids[i]] = i;
    }
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
int64_t VectorIndex::size() const { return impl_->count() - impl_->dead_count; }
int64_t VectorIndex::tombstones() const { return impl_->dead_count; }
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
  impl_->append(chunk, vector.data());
}

bool VectorIndex::remove(int64_t chunk) {
  int64_t row = impl_->find(chunk);
  if (row < 0) return false;
  impl_->dead[row] = 1;
  impl_->dead_count += 1;
  if (!impl_->ascending) impl_->row_of.erase(chunk);
  if (impl_->dead_count * 5 > impl_->count() && impl_->dead_count > 64) impl_->compact();
  return true;
}

std::vector<VectorHit> VectorIndex::search(std::span<const float> query, int k,
                                           const std::function<bool(int64_t)>& keep) const {
  APUD_CHECK(static_cast<int>(query.size()) == impl_->dimension,
             "the query has the index's dimension");
  std::vector<VectorHit> best;  // a heap whose front is the worst kept
  if (k <= 0) return best;
  // `a` before `b` in the result.
  auto better = [](const VectorHit& a, const VectorHit& b) {
    return a.score > b.score || (a.score == b.score && a.chunk < b.chunk);
  };
  ScanFunction scan = scan_function(impl_->isa);
  float scores[kBlock];
  for (int64_t begin = 0; begin < impl_->count(); begin += kBlock) {
    int64_t n = std::min(kBlock, impl_->count() - begin);
    scan(impl_->data() + begin * impl_->dimension, query.data(), impl_->dimension, n, scores);
    for (int64_t i = 0; i < n; ++i) {
      bool full = static_cast<int>(best.size()) == k;
      if (full && scores[i] < best.front().score) continue;
      if (impl_->dead[begin + i]) continue;
      VectorHit hit{impl_->ids[begin + i], scores[i]};
      if (full && !better(hit, best.front())) continue;
      if (keep && !keep(hit.chunk)) continue;
      if (full) {
        std::pop_heap(best.begin(), best.end(), better);
        best.pop_back();
      }
      best.push_back(hit);
      std::push_heap(best.begin(), best.end(), better);
    }
  }
  std::sort_heap(best.begin(), best.end(), better);
  return best;
}

std::vector<float> VectorIndex::scores(std::span<const float> query,
                                       std::span<const int64_t> chunks) const {
  APUD_CHECK(static_cast<int>(query.size()) == impl_->dimension,
             "the query has the index's dimension");
  ScanFunction scan = scan_function(impl_->isa);
  std::vector<float> out;
  out.reserve(chunks.size());
  for (int64_t chunk : chunks) {
    int64_t row = impl_->find(chunk);
    float score = std::numeric_limits<float>::quiet_NaN();
    if (row >= 0)
      scan(impl_->data() + row * impl_->dimension, query.data(), impl_->dimension, 1, &score);
    out.push_back(score);
  }
  return out;
}

VectorIndex::Rows VectorIndex::export_rows() const {
  Rows rows;
  size_t width = impl_->dimension * sizeof(uint16_t);
  rows.ids.reserve(size());
  rows.codes.reserve(size() * width);
  for (int64_t i = 0; i < impl_->count(); ++i) {
    if (impl_->dead[i]) continue;
    rows.ids.push_back(impl_->ids[i]);
    const uint8_t* code = impl_->rows.codes.data() + i * width;
    rows.codes.insert(rows.codes.end(), code, code + width);
  }
  return rows;
}

std::vector<int64_t> VectorIndex::export_ids() const {
  std::vector<int64_t> ids;
  ids.reserve(size());
  for (int64_t i = 0; i < impl_->count(); ++i) {
    if (!impl_->dead[i]) ids.push_back(impl_->ids[i]);
  }
  return ids;
}

void VectorIndex::import_rows(Rows rows) {
  size_t width = impl_->dimension * sizeof(uint16_t);
  APUD_CHECK(rows.codes.size() == rows.ids.size() * width, "one code per id");
  impl_->ids = std::move(rows.ids);
  impl_->rows.codes = std::move(rows.codes);
  impl_->rows.ntotal = impl_->count();
  impl_->dead.assign(impl_->ids.size(), 0);
  impl_->dead_count = 0;
  impl_->row_of.clear();
  impl_->ascending = std::is_sorted(impl_->ids.begin(), impl_->ids.end());
  if (!impl_->ascending) {
    for (int64_t i = 0; i < impl_->count(); ++i) impl_->row_of[impl_->ids[i]] = i;
  }
}

}  // namespace apud
