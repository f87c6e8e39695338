#include "app/find_documents.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"

namespace apud {

std::vector<DocumentInfo> match_documents(Store& store, const CollectionInfo& collection,
                                          const std::string& wanted) {
  std::vector<DocumentInfo> exact, ending;
  std::string absolute = std::filesystem::absolute(wanted).lexically_normal().string();
  for (DocumentInfo& document : store.documents(collection.id)) {
    if (document.path == wanted || document.path == absolute) {
      exact.push_back(document);
    } else if (document.path.ends_with("/" + wanted) || document.path.starts_with(absolute + "/")) {
      ending.push_back(document);
    }
  }
  if (!exact.empty()) return exact;
  if (ending.empty()) {
    throw Error(ErrorKind::kNoInput,
                fmt::format("no document '{}' in collection {}", wanted, collection.name),
                "apud doc list shows them");
  }
  return ending;
}

}  // namespace apud
