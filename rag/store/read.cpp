// Reading documents, chunks, vectors and keywords.
#include <algorithm>

#include "base/check.h"
#include "rag/store/half.h"
#include "rag/store/impl.h"

namespace apud {

using sqlite::Statement;

namespace sqlite {

const char* const kDocumentColumns =
    "id, collection, path, title, loader, status, reason, content_hash, size, mtime_ns, indexed, "
    "vanished, "
    "duplicate_of, chunks, tokens, text_bytes";

DocumentInfo read_document(Statement& row) {
  DocumentInfo d;
  d.id = row.integer(0);
  d.collection = row.integer(1);
  d.path = row.text(2);
  d.title = row.text(3);
  d.loader = row.text(4);
  d.status = static_cast<LoadStatus>(row.integer(5));
  d.reason = row.text(6);
  d.content_hash = row.text(7);
  d.size = row.integer(8);
  d.mtime_ns = row.integer(9);
  d.indexed = row.integer(10);
  d.vanished = row.integer(11) != 0;
  d.duplicate_of = row.integer(12);
  d.chunks = row.integer(13);
  d.tokens = row.integer(14);
  d.text_bytes = row.integer(15);
  return d;
}

namespace {

StoredChunk read_chunk(Statement& row) {
  return {row.integer(0),
          row.integer(1),
          static_cast<int>(row.integer(2)),
          static_cast<size_t>(row.integer(3)),
          static_cast<size_t>(row.integer(4)),
          row.text(5),
          row.text(6),
          static_cast<int>(row.integer(7))};
}

constexpr const char* kChunkColumns =
    "SELECT id, document, ordinal, begin, end, heading, heading_path, tokens FROM chunks ";

}  // namespace

std::vector<StoredChunk> read_chunks_of(Database& db, int64_t document) {
  Statement select(db, std::string(kChunkColumns) + "WHERE document = ? ORDER BY ordinal");
  select.add(document);
  std::vector<StoredChunk> all;
  while (select.row()) all.push_back(read_chunk(select));
  return all;
}

}  // namespace sqlite

std::vector<DocumentInfo> Store::documents(int64_t collection) {
  Statement select(impl_->database(),
                   std::string("SELECT ") + sqlite::kDocumentColumns +
                       " FROM documents WHERE collection = ? ORDER BY vanished, path");
  select.add(collection);
  std::vector<DocumentInfo> all;
  while (select.row()) all.push_back(sqlite::read_document(select));
  return all;
}

std::vector<int64_t> Store::pinned(int64_t collection) {
  Statement select(
      impl_->database(),
      "SELECT p.document FROM pins p JOIN documents d ON d.id = p.document "
      "WHERE d.collection = ? AND d.vanished = 0 AND d.chunks > 0 ORDER BY p.document");
  select.add(collection);
  std::vector<int64_t> ids;
  while (select.row()) ids.push_back(select.integer(0));
  return ids;
}

std::optional<DocumentInfo> Store::find_document(int64_t collection, std::string_view path) {
  Statement select(impl_->database(), std::string("SELECT ") + sqlite::kDocumentColumns +
                                          " FROM documents WHERE collection = ? AND path = ?");
  select.add(collection).add(path);
  if (!select.row()) return std::nullopt;
  return sqlite::read_document(select);
}

std::optional<DocumentInfo> Store::document(int64_t id) {
  Statement select(impl_->database(), std::string("SELECT ") + sqlite::kDocumentColumns +
                                          " FROM documents WHERE id = ?");
  select.add(id);
  if (!select.row()) return std::nullopt;
  return sqlite::read_document(select);
}

std::vector<StoredChunk> Store::chunks_of(int64_t document) {
  return sqlite::read_chunks_of(impl_->database(), document);
}

std::vector<StoredChunk> Store::chunks(std::span<const int64_t> ids) {
  Statement select(impl_->database(), std::string(sqlite::kChunkColumns) + "WHERE id = ?");
  std::vector<StoredChunk> all;
  for (int64_t id : ids) {
    select.add(id);
    if (select.row()) all.push_back(sqlite::read_chunk(select));
    select.reset();
  }
  return all;
}

std::optional<DocumentText> Store::text_if_there(int64_t document) {
  Statement select(impl_->database(), "SELECT text, anchors FROM texts WHERE document = ?");
  select.add(document);
  if (!select.row()) return std::nullopt;
  std::string what = "text of document " + std::to_string(document);
  DocumentText out;
  out.text = sqlite::decompress(select.blob(0), what);
  out.anchors = sqlite::unpack_anchors(select.text(1), what);
  return out;
}

DocumentText Store::text(int64_t document) {
  auto text = text_if_there(document);
  if (!text) {
    throw Error(ErrorKind::kNoInput,
                "document " + std::to_string(document) + " is no longer in the store",
                "it was removed meanwhile; ask again");
  }
  return std::move(*text);
}

Anchor DocumentText::anchor_at(size_t offset) const {
  return apud::anchor_at(text, anchors, offset);
}

std::vector<std::string> Store::vector_keys(std::string_view embedder, bool with_codes) {
  Statement select(
      impl_->database(),
      std::string("SELECT v.key FROM vectors v JOIN embedders e ON e.id = v.embedder ") +
          (with_codes ? "JOIN token_codes t ON t.vector = v.id " : "") + "WHERE e.fingerprint = ?");
  select.add(embedder);
  std::vector<std::string> keys;
  while (select.row()) keys.push_back(select.text(0));
  return keys;
}

std::vector<std::string> Store::token_codes(std::span<const int64_t> chunks) {
  Statement select(
      impl_->database(),
      "SELECT t.data FROM chunks c JOIN token_codes t ON t.vector = c.vector WHERE c.id = ?");
  std::vector<std::string> all;
  all.reserve(chunks.size());
  for (int64_t id : chunks) {
    select.add(id);
    all.push_back(select.row() ? select.text(0) : std::string());
    select.reset();
  }
  return all;
}

std::vector<float> Store::token_centers(std::string_view embedder) {
  Statement select(impl_->database(), "SELECT centers FROM embedders WHERE fingerprint = ?");
  select.add(embedder);
  if (!select.row()) return {};
  auto bytes = select.blob(0);
  std::vector<float> centers(bytes.size() / sizeof(float));
  std::copy_n(bytes.data(), centers.size() * sizeof(float),
              reinterpret_cast<std::byte*>(centers.data()));
  return centers;
}

void Store::for_each_vector(int64_t collection, const std::function<void(const VectorRow&)>& row) {
  // Documents first: a chunk id order scan with a join by document would read vanished ones, too.
  Statement select(
      impl_->database(),
      "SELECT c.id, v.data, e.dimension FROM chunks c JOIN vectors v ON v.id = c.vector "
      "JOIN embedders e ON e.id = v.embedder WHERE c.document IN "
      "(SELECT id FROM documents WHERE collection = ? AND vanished = 0) ORDER BY c.id");
  select.add(collection);
  std::vector<uint16_t> vector;
  while (select.row()) {
    auto bytes = select.blob(1);
    size_t dimension = static_cast<size_t>(select.integer(2));
    if (bytes.size() != dimension * sizeof(uint16_t)) {
      throw Error(ErrorKind::kBadData,
                  "a vector in the store has " + std::to_string(bytes.size()) + " bytes",
                  "run apud doctor; ingest the collection anew");
    }
    vector.resize(dimension);
    std::copy_n(bytes.data(), bytes.size(), reinterpret_cast<std::byte*>(vector.data()));
    row({select.integer(0), vector});
  }
}

int64_t Store::chunk_count(int64_t collection) {
  Statement select(
      impl_->database(),
      "SELECT coalesce(sum(chunks), 0) FROM documents WHERE collection = ? AND vanished = 0");
  select.add(collection);
  return select.row() ? select.integer(0) : 0;
}

std::vector<int64_t> Store::retrievable_chunks(int64_t collection) {
  Statement select(impl_->database(),
                   "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document "
                   "WHERE d.collection = ? AND d.vanished = 0 ORDER BY c.id");
  select.add(collection);
  std::vector<int64_t> ids;
  while (select.row()) ids.push_back(select.integer(0));
  return ids;
}

std::vector<std::vector<uint16_t>> Store::vectors(std::span<const int64_t> chunks) {
  Statement select(impl_->database(),
                   "SELECT v.data FROM chunks c JOIN vectors v ON v.id = c.vector WHERE c.id = ?");
  std::vector<std::vector<uint16_t>> all;
  for (int64_t id : chunks) {
    select.add(id);
    std::vector<uint16_t> vector;
    if (select.row()) {
      auto bytes = select.blob(0);
      vector.resize(bytes.size() / 2);
      std::copy_n(bytes.data(), vector.size() * 2, reinterpret_cast<std::byte*>(vector.data()));
    }
    all.push_back(std::move(vector));
    select.reset();
  }
  return all;
}

std::vector<KeywordHit> Store::keyword_search(int64_t collection, std::string_view match,
                                              int limit) {
  return sqlite::search_keywords(impl_->database(), collection, match, limit);
}

std::vector<int64_t> Store::document_frequencies(int64_t collection,
                                                 std::span<const std::string> terms) {
  sqlite::Snapshot snapshot(impl_->database());
  Impl::Frequencies& known = impl_->frequencies;
  int64_t now = generation(collection);
  constexpr size_t kMostKnown = 4096;
  if (known.collection != collection || known.generation != now ||
      known.by_term.size() > kMostKnown)
    known = {collection, now, {}};
  std::vector<std::string> asked;
  for (const std::string& term : terms) {
    if (!known.by_term.count(term)) asked.push_back(term);
  }
  if (!asked.empty()) {
    std::vector<int64_t> counts = sqlite::term_frequencies(impl_->database(), collection, asked);
    for (size_t i = 0; i < asked.size(); ++i) known.by_term[asked[i]] = counts[i];
  }
  std::vector<int64_t> all;
  for (const std::string& term : terms) all.push_back(known.by_term.at(term));
  return all;
}

}  // namespace apud
