// Character references and tag stripping of HTML, for places that need no parser. Private to rag.
//
// Threads: re-entrant.
#pragma once

#include <string>
#include <string_view>

namespace apud {

/// "&amp;" → "&". Numeric references and the common names; anything else stays as written.
std::string decode_entity(std::string_view entity);

/// Text of HTML without its tags, comments, scripts and styles; block tags become line breaks.
/// Linear, whatever the input.
std::string strip_tags(std::string_view html);

}  // namespace apud
