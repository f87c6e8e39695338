// The words that apud itself puts into a prompt. Kept in one place: every byte here is part of the
// cached prefix, so it changes only when it must.
#pragma once

#include <string>
#include <string_view>

namespace apud {

/// System prompt of a conversation with documents, and of one without.
std::string_view system_with_documents();
std::string_view system_without_documents();
/// What stands around the packed passages in a user turn: evidence_frame(packed, question) + the
/// question. Empty evidence gives an empty frame.
std::string evidence_frame(std::string_view packed, std::string_view question);
/// What stands around pinned documents, before the system prompt.
std::string pinned_frame(std::string_view rendered);
/// The sentence that the model is told to answer with when the passages do not hold the answer.
bool says_not_in_documents(std::string_view answer);

}  // namespace apud
