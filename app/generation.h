// What the options say about generating: from the command line and settings to a Request.
//
// Threads: values.
#pragma once

#include <span>

#include "app/options.h"
#include "engine/conversation.h"
#include "engine/engine.h"
#include "rag/packer.h"

namespace apud {

/// Sampling for an answer: the command line's values, else greedy for ask and batch, 0.7 for chat,
/// 0.2 for chat with documents.
SamplingOptions sampling_options(const Options& options, double default_temperature);
/// Throws kUsage where options of ask and batch contradict each other: samples without a
/// temperature, beams beside whatever a beam search excludes.
void check_sampling(const Options& options, int samples);

/// A request with everything but the callbacks filled in.
Request make_request(const Options& options, const Prompt& prompt, int answer_tokens,
                     double default_temperature);

/// Lets the request cite `passages` only (constrained decoding of ids).
void restrict_citations(Request& request, const Model& model, std::span<const Passage> passages);

}  // namespace apud
