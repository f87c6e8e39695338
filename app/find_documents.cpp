#include "app/find_documents.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"

namespace apud {

std::vector<DocumentInfo> match_documents(Store& store, const CollectionInfo& collection,
                                          const std::string& wanted) {
  std::string absolute = std::filesystem::absolute(wanted).lexically_normal().string();
  // Paths are absolute, with one exception: those of saved chats.
  for (const std::string& path : {absolute, wanted}) {
    if (auto exact = store.find_document(collection.id, path)) return {*exact};
  }
  std::vector<DocumentInfo> ending;
  for (DocumentInfo& document : store.documents(collection.id)) {
    if (document.path.ends_with("/" + wanted) || document.path.starts_with(absolute + "/"))
      ending.push_back(document);
  }
  if (ending.empty()) {
    throw Error(ErrorKind::kNoInput,
                fmt::format("no document '{}' in collection {}", wanted, collection.name),
                "apud doc list shows them");
  }
  return ending;
}

}  // namespace apud
