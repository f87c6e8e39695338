// A flag that one thread (or a signal handler) raises and workers look at between units of work.
#pragma once

#include <atomic>

namespace apud {

/// Lock-free; raising it is safe in a signal handler.
class CancelFlag {
 public:
  void raise() { flag_.store(true, std::memory_order_relaxed); }
  void clear() { flag_.store(false, std::memory_order_relaxed); }
  bool raised() const { return flag_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> flag_{false};
};

}  // namespace apud
