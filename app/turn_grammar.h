// Clauses of a chat turn that ask something of the answer that is there, or speak about it.
#pragma once

#include <string>

namespace apud {

/// The turn (ASCII in lower case) less those clauses; what is left may name a subject.
std::string without_talk_about_the_answer(const std::string& turn);

}  // namespace apud
