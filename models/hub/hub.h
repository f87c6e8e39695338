// The model hub over HTTPS: what a file is (size, SHA-256), and its bytes, with resume.
//
// Threads: functions are re-entrant; each uses its own connection.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/cancel.h"
#include "base/file.h"

namespace apud {

struct HubOptions {
  std::string base_url;     // "https://host", no slash at the end
  std::string token;        // sent to that host only; empty: none
  bool allow_http = false;  // tests against a local server; redirects to http are refused otherwise
  std::string authorities;  // file of certificates to trust; empty: the system's
};

struct RemoteFile {
  std::string url;
  uint64_t bytes = 0;
  std::string sha256;  // empty where the hub states none (small files kept in its git)
};

/// Asks for size and hash. kUnavailable when the hub cannot be reached or refuses.
RemoteFile hub_stat(const HubOptions& options, const std::string& repo, const std::string& revision,
                    const std::string& file);

/// Brings `part` to remote.bytes bytes, continuing what lies there, and verifies size and SHA-256.
/// kBadData (and `part` is gone) when the content is not what the hub stated; kIo when the
/// connection or the disk fails (`part` stays, a second call goes on).
void hub_download(const HubOptions& options, const RemoteFile& remote, const Path& part,
                  const std::function<void(uint64_t done)>& progress, const CancelFlag* cancel);

/// Whether anything answers there within `seconds`.
bool hub_answers(const HubOptions& options, double seconds);

}  // namespace apud
