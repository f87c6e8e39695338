#include "base/error.h"

#include <cerrno>
#include <cstring>

namespace apud {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kNotFound:
      return 1;
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kBadData:
      return 65;
    case ErrorKind::kNoInput:
      return 66;
    case ErrorKind::kUnavailable:
      return 69;
    case ErrorKind::kInternal:
      return 70;
    case ErrorKind::kIo:
      return 74;
    case ErrorKind::kBusy:
      return 75;
    case ErrorKind::kConfig:
      return 78;
  }
  return 70;
}

const char* error_code_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kNotFound:
      return "not_found";
    case ErrorKind::kUsage:
      return "usage";
    case ErrorKind::kBadData:
      return "bad_data";
    case ErrorKind::kNoInput:
      return "no_input";
    case ErrorKind::kUnavailable:
      return "unavailable";
    case ErrorKind::kInternal:
      return "internal";
    case ErrorKind::kIo:
      return "io";
    case ErrorKind::kBusy:
      return "busy";
    case ErrorKind::kConfig:
      return "config";
  }
  return "internal";
}

Error io_error(const std::string& what, const std::string& path, int errno_value) {
  std::string advice;
  ErrorKind kind = ErrorKind::kIo;
  switch (errno_value) {
    case ENOSPC:
    case EDQUOT:
      advice = "free some space or choose another folder (XDG_DATA_HOME, XDG_CACHE_HOME)";
      break;
    case EROFS:
    case EACCES:
    case EPERM:
      advice = "check the permissions of this path";
      break;
    case ENOENT:
      kind = ErrorKind::kNoInput;
      advice = "check the name";
      break;
    case EMFILE:
    case ENFILE:
      advice = "raise the limit of open files (ulimit -n)";
      break;
    default:
      break;
  }
  return Error(kind, what + " " + path + ": " + std::strerror(errno_value), advice);
}

}  // namespace apud
