#include "app/evidence_budget.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace apud {
namespace {

constexpr double kMostReadingSeconds = 10;
constexpr int kSteps[] = {256, 384, 512, 768, 1000, 1500, kMostEvidence};
constexpr double kContradiction = 1.5;
constexpr int kInARow = 3;

Path speeds_path() { return cache_dir() / "speeds.json"; }

nlohmann::json load_all() {
  try {
    auto text = read_file_if_exists(speeds_path(), 1 << 20);
    auto json = text ? nlohmann::json::parse(*text, nullptr, false) : nlohmann::json();
    return json.is_object() ? json : nlohmann::json::object();
  } catch (const Error&) {
    return nlohmann::json::object();  // a cache that cannot be read is measured again
  }
}

}  // namespace

int evidence_step(double rate) {
  int allowed = kSteps[0];
  for (int step : kSteps) {
    if (step <= kMostReadingSeconds * rate) allowed = step;
  }
  return allowed;
}

bool update(ReadingSpeed& speed, double rate) {
  if (rate <= 0) return false;
  bool slower = rate * kContradiction <= speed.rate && evidence_step(rate) < speed.evidence;
  bool faster = rate >= speed.rate * kContradiction && evidence_step(rate) > speed.evidence;
  if (!slower && !faster) {
    speed.contradicted = 0;
    return false;
  }
  speed.contradicted =
      slower ? std::min(speed.contradicted, 0) - 1 : std::max(speed.contradicted, 0) + 1;
  if (std::abs(speed.contradicted) < kInARow) return false;
  speed = {evidence_step(rate), rate, 0};
  return true;
}

std::optional<ReadingSpeed> load_reading_speed(const std::string& key) {
  nlohmann::json all = load_all();
  auto found = all.find(key);
  if (found == all.end() || !found->is_object()) return std::nullopt;
  ReadingSpeed speed;
  try {
    speed.evidence = found->at("evidence").get<int>();
    speed.rate = found->at("rate").get<double>();
    speed.contradicted = found->at("contradicted").get<int>();
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
  // Steps of another version, or somebody's edit.
  bool known = std::find(std::begin(kSteps), std::end(kSteps), speed.evidence) != std::end(kSteps);
  if (!known || speed.rate <= 0) return std::nullopt;
  return speed;
}

void save_reading_speed(const std::string& key, const ReadingSpeed& speed) {
  nlohmann::json all = load_all();
  all[key] = {
      {"evidence", speed.evidence}, {"rate", speed.rate}, {"contradicted", speed.contradicted}};
  try {
    make_private_dir(cache_dir());
    write_file_atomic(speeds_path(), all.dump());
  } catch (const Error&) {
    // The cache folder cannot be written: the next process measures again.
  }
}

}  // namespace apud
