#include "models/arch/json.h"

#include <fmt/format.h>

#include <cmath>
#include <set>

#include "base/error.h"

namespace apud {

namespace {
constexpr int kMaxDepth = 64;
constexpr uint64_t kMaxJsonBytes = 64 << 20;
}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& name) {
  auto fail = [&](const std::string& what) {
    throw Error(ErrorKind::kBadData, fmt::format("{}: {}", name, what));
  };
  // A DOM keeps the last of two equal keys in silence, and deep nesting ends in a stack overflow
  // elsewhere: both are refused while parsing.
  std::vector<std::set<std::string>> keys;
  auto watch = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > kMaxDepth) fail(fmt::format("nested deeper than {} levels", kMaxDepth));
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      fail(fmt::format("duplicate key {}", parsed.get<std::string>()));
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::exception& e) {
    std::string what = e.what();
    fail("not JSON: " + what.substr(0, std::min<size_t>(what.find("; last read"), 160)));
  }
  return {};
}

JsonObject::JsonObject(nlohmann::json value, std::string name)
    : value_(std::move(value)), name_(std::move(name)) {
  if (!value_.is_object()) throw Error(ErrorKind::kBadData, name_ + ": not a JSON object");
}

JsonObject JsonObject::read(const Path& path) {
  return JsonObject(parse_json(read_file(path, kMaxJsonBytes), path.string()), path.string());
}

std::optional<JsonObject> JsonObject::read_if_exists(const Path& path) {
  auto text = read_file_if_exists(path, kMaxJsonBytes);
  if (!text) return std::nullopt;
  return JsonObject(parse_json(*text, path.string()), path.string());
}

void JsonObject::fail(const std::string& key, const std::string& what) const {
  throw Error(ErrorKind::kBadData, fmt::format("{}: {}: {}", name_, key, what));
}

const nlohmann::json* JsonObject::find(const char* key) const {
  auto it = value_.find(key);
  return it == value_.end() || it->is_null() ? nullptr : &*it;
}

std::optional<JsonObject> JsonObject::object(const char* key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_object()) fail(key, "must be an object");
  return JsonObject(*value, name_ + ": " + key);
}

std::optional<std::string> JsonObject::get_string(const char* key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) fail(key, "must be a string");
  return value->get<std::string>();
}

std::optional<bool> JsonObject::get_bool(const char* key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) fail(key, "must be true or false");
  return value->get<bool>();
}

std::optional<int64_t> JsonObject::get_integer(const char* key, int64_t low, int64_t high) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  bool too_big =
      value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (!value->is_number_integer() || too_big || value->get<int64_t>() < low ||
      value->get<int64_t>() > high) {
    fail(key, fmt::format("{}, must be an integer from {} to {}", value->dump().substr(0, 40), low,
                          high));
  }
  return value->get<int64_t>();
}

std::optional<double> JsonObject::get_float(const char* key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->get<double>()))
    fail(key, "must be a finite number");
  return value->get<double>();
}

std::optional<std::vector<std::string>> JsonObject::get_strings(const char* key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  std::vector<std::string> strings;
  if (!value->is_array()) fail(key, "must be an array of strings");
  for (const auto& each : *value) {
    if (!each.is_string()) fail(key, "must be an array of strings");
    strings.push_back(each.get<std::string>());
  }
  return strings;
}

std::optional<std::vector<double>> JsonObject::get_floats(const char* key) const {
  const auto* value = find(key);
  if (!value) return std::nullopt;
  std::vector<double> numbers;
  if (!value->is_array()) fail(key, "must be an array of numbers");
  for (const auto& each : *value) {
    if (!each.is_number() || !std::isfinite(each.get<double>()))
      fail(key, "must be an array of numbers");
    numbers.push_back(each.get<double>());
  }
  return numbers;
}

std::string JsonObject::require_string(const char* key) const {
  auto value = get_string(key);
  if (!value) fail(key, "is missing");
  return *value;
}

int64_t JsonObject::require_integer(const char* key, int64_t low, int64_t high) const {
  auto value = get_integer(key, low, high);
  if (!value) fail(key, "is missing");
  return *value;
}

double JsonObject::require_float(const char* key) const {
  auto value = get_float(key);
  if (!value) fail(key, "is missing");
  return *value;
}

}  // namespace apud
