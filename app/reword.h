// Texts that the chat model makes for a search. The one retry: a question that stays under the
// abstain line is said again by the chat model, in other words and in the documents' other
// language, and searched once more. The line holds for that search, too: a question on a foreign
// subject stays refused.
//
// Threads: one thread. What asks the model throws Interrupted on Ctrl-C and what the engine throws.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "app/answer.h"

namespace apud {

/// Asks the chat model; at most two texts, none where it said nothing new. `hits` tell which
/// languages the documents are in. Costs a short prompt and at most 96 tokens for each.
std::vector<std::string> reword_question(Runtime& runtime, std::string_view question,
                                         const std::vector<Hit>& hits);
/// A sentence or two as the documents might answer the question, for a search beside it (--expand).
/// Costs one short prompt and at most 64 tokens.
std::string imagine_answer(Runtime& runtime, std::string_view question);
/// The usable lines of the model's reply: numbers, quotes and repetitions of the question dropped.
/// What was a question stays one: small models answer instead, and an answer that they made up is
/// near something in any collection.
std::vector<std::string> parse_rewordings(std::string_view reply, std::string_view question);

/// For evidence that abstained: searches what reword_question() says. Where one of them reaches the
/// line, `evidence` is its search (the highest above its line); Evidence::retried names all of them
/// in either case.
void retry_search(Runtime& runtime, const EvidenceRequest& request, Evidence& evidence);

}  // namespace apud
