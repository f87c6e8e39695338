// Pre-tokenisers: where byte-level BPE may not merge across. Each known regular expression is a
// hand-written matcher that reads the text once, left to right, so that no text is slower than
// another.
//
// Threads: values, all functions re-entrant.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace apud {

enum class PreTokenizerKind { kGpt2, kSmollm, kQwen2, kLlama3 };

/// Name as in GGUF's tokenizer.ggml.pre ("qwen2", "smollm", "llama-bpe", "gpt-2"), or nothing.
std::optional<PreTokenizerKind> pretokenizer_by_name(std::string_view name);
/// The matcher of a tokenizer.json's regular expression, recognised by its exact text.
std::optional<PreTokenizerKind> pretokenizer_by_regex(std::string_view regex);
const char* pretokenizer_name(PreTokenizerKind kind);

/// Ends of the pieces of `text`, ascending, the last one text.size(); empty for an empty text.
/// Ill-formed bytes count as one symbol each (neither letter, number nor space).
std::vector<size_t> pretokenize(PreTokenizerKind kind, std::string_view text);

}  // namespace apud
