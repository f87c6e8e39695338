#include "rag/hit_maker.h"

namespace apud {

const Hit* HitMaker::operator()(int64_t chunk, const CollectionInfo& collection) {
  auto [at, fresh] = made_.try_emplace(chunk);
  if (fresh) at->second = make(chunk, collection);
  return at->second ? &*at->second : nullptr;
}

std::optional<Hit> HitMaker::make(int64_t id, const CollectionInfo& collection) {
  std::vector<StoredChunk> found = store_.chunks({&id, 1});
  if (found.empty()) return {};  // removed by another process since the search
  const StoredChunk& chunk = found[0];
  auto at = documents_.find(chunk.document);
  if (at == documents_.end()) {
    auto info = store_.document(chunk.document);
    auto text = store_.text_if_there(chunk.document);
    if (!info || info->vanished || !text) return {};
    at = documents_
             .emplace(chunk.document,
                      std::pair(std::move(*info),
                                std::make_shared<const DocumentText>(std::move(*text))))
             .first;
  }
  const auto& [info, source] = at->second;
  const DocumentText& text = *source;
  if (chunk.end > text.text.size() || chunk.begin >= chunk.end) return {};
  Hit hit;
  hit.chunk = id;
  hit.document = chunk.document;
  hit.collection = collection.id;
  hit.collection_name = collection.name;
  hit.path = info.path;
  hit.title = info.title;
  hit.heading = chunk.heading;
  hit.heading_path = chunk.heading_path;
  hit.text = text.text.substr(chunk.begin, chunk.end - chunk.begin);
  hit.source = source;
  hit.begin = chunk.begin;
  hit.end = chunk.end;
  hit.from = text.anchor_at(chunk.begin);
  hit.to = text.anchor_at(chunk.end - 1);
  hit.tokens = chunk.tokens;
  return hit;
}

}  // namespace apud
