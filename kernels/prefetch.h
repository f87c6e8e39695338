// How far ahead large runs of memory are asked for on this machine. Threads: constant after start.
#pragma once

namespace apud {

/// How many bytes before its use a line is asked for, for the first cache and for the second.
struct PrefetchDistance {
  int first, second;
};
extern const PrefetchDistance prefetch_distance;

}  // namespace apud
