// A short prompt of apud's own beside the conversation: rewording, imagining, reading part by part.
//
// Threads: one thread.
#pragma once

#include <span>
#include <string>

#include "app/runtime.h"
#include "rag/document.h"

namespace apud {

/// The chat model's reply to one prompt, at most `tokens` tokens: greedy, so that the same question
/// is searched the same way, and kept in no cache file. Citations are restricted to `citable`. ""
/// where the window is too small for the prompt. Throws Interrupted on Ctrl-C and what the engine
/// throws.
std::string side_reply(Runtime& runtime, const std::string& system, const std::string& ask,
                       int tokens, std::span<const Passage> citable = {});

}  // namespace apud
