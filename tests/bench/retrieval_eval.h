// The measuring part of retrieval_eval, apart from where the embedder comes from.
#pragma once

#include <string>

#include "rag/embedder.h"

namespace apud::bench {

struct EvalArguments {
  std::string corpus;
  std::string questions;
  std::string store;
  std::string collection = "default";
  size_t excerpts = 0;       // evaluate_excerpts(): every how many-th question; 0: not asked for
  int vector_tokens = 2500;  // PackOptions::sentence_vector_tokens of it
};

/// Ingests the corpus into its own store (only once), runs every question in each mode and returns
/// one line of JSON.
std::string evaluate_retrieval(TextEmbedder& embedder, const EvalArguments& arguments);

/// How much of the true excerpt (the gold text; without one, the gold document's beginning)
/// refining to 1,000 and 2,000 tokens of the embedder keeps. One line of JSON.
std::string evaluate_excerpts(TextEmbedder& embedder, const EvalArguments& arguments);

}  // namespace apud::bench
