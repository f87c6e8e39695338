// JSON in app's .cpp files: one alias, one way to dump (invalid UTF-8 replaced, never thrown), and
// the schema number of docs/json.md. Not for public headers of other folders.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace apud {

using ordered_json = nlohmann::ordered_json;

inline constexpr int kJsonSchema = 1;

inline std::string dump_json(const ordered_json& json, int indent = -1) {
  return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}
/// Our own output parsed back; null where it is not JSON.
inline ordered_json parse_json(const std::string& text) {
  ordered_json json = ordered_json::parse(text, nullptr, false);
  return json.is_discarded() ? ordered_json() : json;
}

}  // namespace apud
