// JSON in app's .cpp files: one alias, one way to dump (invalid UTF-8 replaced, never thrown), and
// the schema number of docs/json.md. Not for public headers of other folders.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace apud {

using ordered_json = nlohmann::ordered_json;

inline constexpr int kJsonSchema = 1;

std::string dump_json(const ordered_json& json, int indent = -1);
/// Our own output parsed back; null where it is not JSON.
ordered_json parse_json(const std::string& text);

}  // namespace apud
