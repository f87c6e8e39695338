// The one error type of the project. Libraries throw it for faults of the user or of the machine;
// bugs of ours go through CHECK (check.h); an expected absence is a std::optional.
//
// Threads: values, freely copied.
#pragma once

#include <stdexcept>
#include <string>

namespace apud {

/// What went wrong, by who can mend it. Each kind has one exit code (docs/design.md section 6).
enum class ErrorKind {
  kNotFound,     // 1   nothing found, no evidence
  kUsage,        // 2   wrong arguments
  kBadData,      // 65  a file or input line is malformed
  kNoInput,      // 66  a named file, model, collection or session does not exist
  kUnavailable,  // 69  GPU or model cannot be used
  kInternal,     // 70  our bug, found late
  kIo,           // 74  reading or writing failed
  kBusy,         // 75  locked by another process, or out of memory
  kConfig,       // 78  configuration file
};

/// Exit code of a kind.
int exit_code(ErrorKind kind);
/// Stable lower-case name of a kind, used as `error.code` in JSON.
const char* error_code_name(ErrorKind kind);

/// `message` names file, field and value and says what was expected (one line, no full stop
/// needed); `advice` says what to do about it, or is empty. Both may hold untrusted text: whoever
/// prints them filters them.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, std::string advice = {})
      : std::runtime_error(message), kind_(kind), advice_(std::move(advice)) {}
  ErrorKind kind() const { return kind_; }
  const std::string& advice() const { return advice_; }

 private:
  ErrorKind kind_;
  std::string advice_;
};

/// Error of kind kIo for a failed system call: "WHAT PATH: strerror(errno)". Full disks, missing
/// permissions and read-only file systems get their own advice.
[[nodiscard]] Error io_error(const std::string& what, const std::string& path, int errno_value);

}  // namespace apud
