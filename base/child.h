// Child processes for parsers that must not be trusted with our memory, files or network: a program
// found on PATH (pdftotext), or a function of this binary (HTML parsing) run in a fresh process.
// A child has limits of memory, CPU time, wall time and output; it starts with closed files, an
// empty environment, its own process group and, where the kernel has them, a seccomp filter (no
// network, no new processes, no tracing) and a Landlock domain (system libraries readable, nothing
// writable). Whatever happens, the whole group is dead and reaped when run_* returns.
//
// Threads: all functions may be called from any thread at any time; the calling thread blocks.
// Registration happens before main.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/file.h"

namespace apud {

struct ChildLimits {
  uint64_t memory_bytes =
      1ull << 30;  // address space; not applied to sanitized builds of ourselves
  int cpu_seconds = 20;
  double wall_seconds = 30;
  size_t output_bytes = 256u << 20;
};

enum class ChildEnd {
  kOk,      // exit status 0
  kExit,    // another exit status
  kSignal,  // died of a signal
  kTime,    // CPU or wall limit
  kMemory,  // memory limit (as far as it can be told)
  kOutput,  // wrote more than output_bytes
  kCancelled,
};

struct ChildResult {
  ChildEnd end = ChildEnd::kOk;
  int code = 0;             // exit status or signal number
  std::string output;       // standard output; partial unless kOk or kExit
  std::string diagnostics;  // the first 4 KiB of standard error: untrusted text
};

/// "stopped after 20 s", "died of signal 11": one line without the diagnostics.
std::string describe(const ChildResult& result, const ChildLimits& limits);

/// Full path of an executable on PATH.
std::optional<Path> find_program(std::string_view name);

/// Runs `program` with `arguments` (argv[1]…) and `input_fd` as its standard input.
/// Throws kIo when the process cannot be started.
ChildResult run_program(const Path& program, const std::vector<std::string>& arguments,
                        int input_fd, const ChildLimits& limits,
                        const CancelFlag* cancel = nullptr);

/// An anonymous file in memory that holds `content`, read from its start: input for run_program.
FileDescriptor memory_file(std::string_view content);

/// A function of this binary that runs in a child: all of its input in, all of its output out. It
/// may throw; it can open nothing.
using ChildFunction = std::string (*)(std::string_view input);

/// Registers `function` under `name` before main: `static const ChildEntry entry("html", &f);`
struct ChildEntry {
  ChildEntry(const char* name, ChildFunction function);
};

/// Runs the registered function `name` on `input` in a fresh process of this binary.
/// REQUIRES: main() began with child_main().
ChildResult run_in_child(const char* name, std::string_view input, const ChildLimits& limits,
                         const CancelFlag* cancel = nullptr);

/// While one lives, run_in_child() on its thread gives its child further inputs instead of starting
/// another, which takes as long as parsing some hundred KB. Every input keeps its own limits; one
/// that ends its child costs the others nothing, they get a fresh one. A child serves at most 64
/// inputs or 4 MiB: should one of them take it over, it can falsify what later ones among these
/// yield, but it stays sealed. Belongs to the thread that made it; within another one's life it
/// changes nothing.
class ChildReuse {
 public:
  ChildReuse();
  ~ChildReuse();
  ChildReuse(const ChildReuse&) = delete;
  ChildReuse& operator=(const ChildReuse&) = delete;

 private:
  friend ChildResult run_in_child(const char* name, std::string_view input,
                                  const ChildLimits& limits, const CancelFlag* cancel);
  struct Serving;
  ChildResult run(const char* name, std::string_view input, const ChildLimits& limits,
                  const CancelFlag* cancel);
  std::unique_ptr<Serving> serving_;
};

/// First line of every main() that may reach run_in_child. Serves `PROGRAM --child NAME [--serve]`
/// and does
/// not return from it; returns at once in any other process.
void child_main(int argc, char** argv);

}  // namespace apud
