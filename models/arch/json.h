// JSON files of a Hugging Face folder: bounded depth, typed fields that are refused by name.
//
// Private to models/ (it exposes the JSON library). Threads: values.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace apud {

/// Parses text; more than 64 levels, duplicate keys and malformed text are kBadData naming `name`.
nlohmann::json parse_json(std::string_view text, const std::string& name);

/// A JSON object with the file's name for messages. null counts as absent.
class JsonObject {
 public:
  JsonObject(nlohmann::json value, std::string name);
  /// At most 64 MiB. Absent file: kNoInput.
  static JsonObject read(const Path& path);
  static std::optional<JsonObject> read_if_exists(const Path& path);

  const std::string& name() const { return name_; }
  const nlohmann::json& value() const { return value_; }
  bool has(const char* key) const { return find(key) != nullptr; }
  std::optional<JsonObject> object(const char* key) const;
  std::optional<std::string> get_string(const char* key) const;
  std::optional<bool> get_bool(const char* key) const;
  std::optional<int64_t> get_integer(const char* key, int64_t low, int64_t high) const;
  std::optional<double> get_float(const char* key) const;
  std::optional<std::vector<std::string>> get_strings(const char* key) const;
  std::optional<std::vector<double>> get_floats(const char* key) const;
  /// Absent is kBadData naming the key.
  std::string require_string(const char* key) const;
  int64_t require_integer(const char* key, int64_t low, int64_t high) const;
  double require_float(const char* key) const;
  [[noreturn]] void fail(const std::string& key, const std::string& what) const;

 private:
  const nlohmann::json* find(const char* key) const;
  nlohmann::json value_;
  std::string name_;
};

}  // namespace apud
