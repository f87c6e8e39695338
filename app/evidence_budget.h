// How many tokens of passages a prompt carries when the user says nothing: 2,000, or as many as
// this machine reads with this model in ten seconds.
//
// The speed is measured once for a model and a way of running it and kept in
// cache_dir()/speeds.json, so that the same question gives the same prompt from run to run. It
// moves in coarse steps and only when several answers in a row contradict it, which is said.
//
// Threads: values; the file is replaced whole, the last writer wins.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace apud {

/// Of the default; `--evidence` and the setting go beyond.
inline constexpr int kMostEvidence = 2000;
/// Tokens that reading at `rate` tokens/s for ten seconds allows, rounded down to a step; at least
/// the lowest step, at most kMostEvidence.
int evidence_step(double rate);

/// What is kept about one model on this machine.
struct ReadingSpeed {
  int evidence = 0;  // the step in force
  double rate = 0;   // tokens/s when it was decided
  int contradicted =
      0;  // answers in a row whose speed calls for another step: < 0 slower, > 0 faster
};
/// Takes in the speed of one more answer. True when the step in force changed: after three answers
/// in a row that were at least 1.5 times as slow or as fast as the speed that it rests on.
bool update(ReadingSpeed& speed, double rate);

/// The kept speed under `key`, or absent.
std::optional<ReadingSpeed> load_reading_speed(const std::string& key);
/// Keeps it; silently does nothing where the cache folder cannot be written.
void save_reading_speed(const std::string& key, const ReadingSpeed& speed);

}  // namespace apud
