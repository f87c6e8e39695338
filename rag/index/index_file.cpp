// The index's own flat file (docs/formats.md) and its rebuilding from the store.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <system_error>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "rag/index.h"
#include "rag/store/half.h"

namespace apud {
namespace {

constexpr char kMagic[8] = {'A', 'P', 'U', 'D', 'V', 'E', 'C', '2'};
constexpr int kMaxDimension = 65536;
constexpr uint32_t kMaxLists = 1u << 20;

// All little-endian; 144 bytes.
struct Header {
  char magic[8];
  uint32_t byte_order;  // 0x01020304
  uint32_t dimension;
  int64_t rows;
  int64_t generation;
  char collection[32];  // uuid
  char embedder[32];    // XXH3-128 of the fingerprint, hex
  uint64_t ids_hash;    // XXH3-64 of ids (rows) int64
  uint64_t codes_hash;  // XXH3-64 of codes (rows, dimension) fp16
  uint64_t
      lists_hash;  // XXH3-64 of list sizes (lists) int64, then centroids (lists, dimension) fp32
  uint32_t lists;  // 1: no centroids follow
  uint32_t reserved;
  int64_t partitioned_at;
  uint64_t header_hash;  // XXH3-64 of the 136 bytes before
};
static_assert(sizeof(Header) == 144);

uint64_t lists_hash(const VectorIndex::Rows& rows) {
  std::string bytes(reinterpret_cast<const char*>(rows.list_sizes.data()),
                    rows.list_sizes.size() * sizeof(int64_t));
  bytes.append(reinterpret_cast<const char*>(rows.centroids.data()),
               rows.centroids.size() * sizeof(float));
  return xxh3_64(bytes.data(), bytes.size());
}

Header make_header(const VectorIndex::Key& key, int dimension, const VectorIndex::Rows& rows) {
  Header h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.byte_order = 0x01020304;
  h.dimension = static_cast<uint32_t>(dimension);
  h.rows = static_cast<int64_t>(rows.ids.size());
  h.generation = key.generation;
  APUD_CHECK(key.collection_uuid.size() == sizeof h.collection, "uuid is 32 hex digits");
  std::memcpy(h.collection, key.collection_uuid.data(), sizeof h.collection);
  std::memcpy(h.embedder, xxh3_128_hex(key.embedder).data(), sizeof h.embedder);
  h.ids_hash = xxh3_64(rows.ids.data(), rows.ids.size() * sizeof(int64_t));
  h.codes_hash = xxh3_64(rows.codes.data(), rows.codes.size());
  h.lists = static_cast<uint32_t>(rows.list_sizes.size());
  h.lists_hash = lists_hash(rows);
  h.partitioned_at = rows.partitioned_at;
  h.header_hash = xxh3_64(&h, offsetof(Header, header_hash));
  return h;
}

bool read_all(FileReader& in, void* out, size_t size) {
  char* at = static_cast<char*>(out);
  while (size > 0) {
    size_t got = in.read(at, size);
    if (got == 0) return false;
    at += got;
    size -= got;
  }
  return true;
}

/// Why the file cannot be used, or empty and `rows` filled.
std::string read_rows(const Path& file, const VectorIndex::Key& key, int dimension,
                      VectorIndex::Rows& rows, int64_t* generation) {
  FileReader in(file);
  Header h{};
  if (in.size() < sizeof h || !read_all(in, &h, sizeof h)) return "too short";
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) return "not an index file of this version";
  if (h.header_hash != xxh3_64(&h, offsetof(Header, header_hash))) return "damaged header";
  if (h.byte_order != 0x01020304) return "made on a machine of other byte order";
  if (std::string_view(h.collection, sizeof h.collection) != key.collection_uuid)
    return "of another collection";
  if (std::string_view(h.embedder, sizeof h.embedder) != xxh3_128_hex(key.embedder))
    return "of another embedder";
  if (h.dimension != static_cast<uint32_t>(dimension) || dimension > kMaxDimension)
    return "of another dimension";
  // A newer file beside an older store (one that was put back) may name chunks that are others now.
  if (h.generation > key.generation) return "newer than the documents";
  if (h.generation < key.generation && !generation) return "older than the documents";
  uint64_t row_bytes = sizeof(int64_t) + sizeof(uint16_t) * static_cast<uint64_t>(dimension);
  uint64_t left = in.size() - sizeof h;
  if (h.lists < 1 || h.lists > kMaxLists) return "of the wrong size";
  uint64_t list_bytes =
      h.lists *
      (sizeof(int64_t) + (h.lists > 1 ? sizeof(float) * static_cast<uint64_t>(dimension) : 0));
  if (list_bytes > left) return "of the wrong size";
  left -= list_bytes;
  if (h.rows < 0 || left % row_bytes != 0 || static_cast<uint64_t>(h.rows) != left / row_bytes) {
    return "of the wrong size";
  }
  rows.list_sizes.resize(h.lists);
  if (h.lists > 1) rows.centroids.resize(size_t{h.lists} * static_cast<size_t>(dimension));
  if (!read_all(in, rows.list_sizes.data(), rows.list_sizes.size() * sizeof(int64_t)) ||
      !read_all(in, rows.centroids.data(), rows.centroids.size() * sizeof(float))) {
    return "too short";
  }
  if (h.lists_hash != lists_hash(rows)) return "damaged";
  int64_t listed = 0;
  for (int64_t size : rows.list_sizes) {
    if (size < 0 || size > h.rows - listed) return "damaged";
    listed += size;
  }
  if (listed != h.rows) return "damaged";
  rows.partitioned_at = h.partitioned_at;
  rows.ids.resize(h.rows);
  rows.codes.resize(static_cast<size_t>(h.rows) * dimension * sizeof(uint16_t));
  if (!read_all(in, rows.ids.data(), rows.ids.size() * sizeof(int64_t)) ||
      !read_all(in, rows.codes.data(), rows.codes.size())) {
    return "too short";
  }
  if (h.ids_hash != xxh3_64(rows.ids.data(), rows.ids.size() * sizeof(int64_t)) ||
      h.codes_hash != xxh3_64(rows.codes.data(), rows.codes.size())) {
    return "damaged";
  }
  if (generation) *generation = h.generation;
  return {};
}

}  // namespace

void VectorIndex::save(const Path& file, const Key& key) const {
  Rows rows = export_rows();
  Header header = make_header(key, dimension(), rows);
  make_private_dir(file.parent_path());
  AtomicFileWriter out(file);
  out.write({reinterpret_cast<const char*>(&header), sizeof header});
  out.write({reinterpret_cast<const char*>(rows.list_sizes.data()),
             rows.list_sizes.size() * sizeof(int64_t)});
  out.write({reinterpret_cast<const char*>(rows.centroids.data()),
             rows.centroids.size() * sizeof(float)});
  out.write({reinterpret_cast<const char*>(rows.ids.data()), rows.ids.size() * sizeof(int64_t)});
  out.write({reinterpret_cast<const char*>(rows.codes.data()), rows.codes.size()});
  out.commit();
}

std::optional<VectorIndex> VectorIndex::load(const Path& file, const Key& key, int dimension,
                                             std::string* why, int64_t* generation) {
  std::string reason;
  Rows rows;
  std::error_code error;
  if (!std::filesystem::exists(file, error)) {
    reason = "missing";
  } else {
    try {
      reason = read_rows(file, key, dimension, rows, generation);
    } catch (const Error& e) {
      reason = e.what();  // a cache that cannot be read is as good as none
    }
  }
  if (why) *why = reason;
  if (!reason.empty()) return std::nullopt;
  VectorIndex index(dimension);
  index.import_rows(std::move(rows));
  return index;
}

Path vector_index_path(const std::string& collection_uuid) {
  return cache_dir() / "index" / (collection_uuid + ".vec");
}

void refresh_vector_index(VectorIndex& index, Store& store, int64_t collection) {
  std::vector<int64_t> now = store.retrievable_chunks(collection);
  std::vector<int64_t> had = index.export_ids();
  std::vector<int64_t> gone, fresh;
  std::set_difference(had.begin(), had.end(), now.begin(), now.end(), std::back_inserter(gone));
  std::set_difference(now.begin(), now.end(), had.begin(), had.end(), std::back_inserter(fresh));
  for (int64_t chunk : gone) index.remove(chunk);
  std::vector<std::vector<uint16_t>> vectors = store.vectors(fresh);
  for (size_t i = 0; i < fresh.size(); ++i) {
    // A chunk that went away between the two reads is missing here as well.
    if (!vectors[i].empty()) index.add(fresh[i], vectors[i]);
  }
  if (index.wants_partition()) index.partition();
}

namespace {

/// Rows of an earlier generation hold what the store holds under those ids: a sample of them.
bool agrees(const VectorIndex& index, Store& store) {
  constexpr size_t kSample = 32;
  std::vector<int64_t> ids = index.export_ids(), sample;
  for (size_t i = 0; i < std::min(kSample, ids.size()); ++i)
    sample.push_back(ids[i * ids.size() / std::min(kSample, ids.size())]);
  std::vector<std::vector<uint16_t>> vectors = store.vectors(sample);
  for (size_t i = 0; i < sample.size(); ++i) {
    if (vectors[i].empty()) continue;  // removed since
    std::vector<float> wide;
    double norm = 0;
    for (uint16_t v : vectors[i]) {
      wide.push_back(half::to_float(v));
      norm += double{wide.back()} * wide.back();
    }
    if (static_cast<int>(wide.size()) != index.dimension()) return false;
    if (std::fabs(index.scores(wide, {&sample[i], 1})[0] - norm) > 1e-3) return false;
  }
  return true;
}

}  // namespace

VectorIndex open_vector_index(Store& store, const CollectionInfo& collection, std::string* note) {
  VectorIndex::Key key{collection.uuid, collection.embedder.fingerprint, collection.generation};
  Path file = vector_index_path(collection.uuid);
  std::string why;
  int64_t generation = 0;
  if (auto index = VectorIndex::load(file, key, collection.embedder.dimension, &why, &generation)) {
    if (generation == key.generation) return std::move(*index);
    if (agrees(*index, store)) {
      refresh_vector_index(*index, store, collection.id);
      return std::move(*index);
    }
    why = "of other documents";
  }
  VectorIndex index(collection.embedder.dimension);
  store.for_each_vector(collection.id,
                        [&](const VectorRow& row) { index.add(row.chunk, row.vector); });
  if (index.wants_partition()) index.partition();
  std::string message =
      fmt::format("index of collection {} was {}: rebuilt from the store", collection.name, why);
  try {
    // Only what the store held under this generation may be saved under it.
    if (store.generation(collection.id) == collection.generation) index.save(file, key);
  } catch (const Error& e) {
    message += fmt::format(" (not saved: {})", e.what());
  }
  if (note && (why != "missing" || collection.chunks > 0)) *note = message;
  return index;
}

void remake_vector_index(Store& store, const CollectionInfo& collection) {
  std::error_code error;
  if (!std::filesystem::exists(vector_index_path(collection.uuid), error))
    open_vector_index(store, collection, nullptr);
}

}  // namespace apud
