// The measuring part of retrieval_eval, apart from where the embedder comes from.
#pragma once

#include <string>

#include "rag/embedder.h"

namespace apud::bench {

struct EvalArguments {
  std::string corpus;
  std::string questions;
  std::string store;
};

/// Ingests the corpus into its own store (only once), runs every question in each mode and returns
/// one line of JSON.
std::string evaluate_retrieval(TextEmbedder& embedder, const EvalArguments& arguments);

}  // namespace apud::bench
