// JSON of untrusted files: depth is limited before the library sees the text (its own recursion has
// no limit), faults become apud::Error. Private to models: it names the JSON library.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"

namespace apud {

inline constexpr int kJsonDepth = 64;

/// Throws kBadData when brackets nest deeper than kJsonDepth.
inline void check_json_depth(std::string_view json, const std::string& what) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    char c = json[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kJsonDepth) {
        throw Error(ErrorKind::kBadData, what + ": byte " + std::to_string(i) +
                                             ": nested deeper than " + std::to_string(kJsonDepth));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

/// Parses a whole text; throws kBadData naming `what` and the byte.
template <class Json>
Json parse_json(std::string_view json, const std::string& what) {
  check_json_depth(json, what);
  try {
    return Json::parse(json);
  } catch (const nlohmann::json::parse_error& error) {
    throw Error(ErrorKind::kBadData,
                what + ": byte " + std::to_string(error.byte) + ": not valid JSON");
  } catch (const nlohmann::json::exception& error) {  // a number beyond double, as 1e999
    throw Error(ErrorKind::kBadData, what + ": " + error.what());
  }
}

}  // namespace apud
