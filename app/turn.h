// What a chat turn is about: the documents, or the conversation itself.
#pragma once

#include <string_view>

namespace apud {

/// Does a turn need documents? One that asks for another form of the answer ("put that in a table",
/// "再短一点"), speaks about it ("are you sure?", "你为什么这么说？"), or is a courtesy ("thanks")
/// does not. Told by its grammar, clause by clause (what is asked of "it", "that" or "your answer"
/// in a verb of saying), then by its words: a clause without any word of its own beside those in
/// which people speak about answers brings no subject to search for.
bool needs_retrieval(std::string_view turn, bool first_turn);

}  // namespace apud
