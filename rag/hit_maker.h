// Hits of chunks: text, place, document.
//
// Ownership: borrows the store. Threads: as the store's.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "rag/retriever.h"
#include "rag/store.h"

namespace apud {

class HitMaker {
 public:
  explicit HitMaker(Store& store) : store_(store) {}

  /// The hit of a chunk of that collection, without rank and scores; made once, its document read
  /// once. Null where the chunk is gone, or its document not retrievable any more.
  const Hit* operator()(int64_t chunk, const CollectionInfo& collection);

 private:
  std::optional<Hit> make(int64_t id, const CollectionInfo& collection);

  Store& store_;
  std::map<int64_t, std::pair<DocumentInfo, std::shared_ptr<const DocumentText>>> documents_;
  std::unordered_map<int64_t, std::optional<Hit>> made_;
};

}  // namespace apud
