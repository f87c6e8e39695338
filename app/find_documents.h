// Documents as people name them on the command line.
//
// Threads: one thread.
#pragma once

#include <string>
#include <vector>

#include "rag/store.h"

namespace apud {

/// Documents whose path is `wanted`, ends with it, or lies below it. Throws kNoInput when there are
/// none.
std::vector<DocumentInfo> match_documents(Store& store, const CollectionInfo& collection,
                                          const std::string& wanted);

}  // namespace apud
