#include "models/hub/hub.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <map>
#include <memory>
#include <mutex>

#include "base/error.h"
#include "base/hash.h"

namespace apud {

namespace {

constexpr int kMaxRedirects = 5;
constexpr long kConnectSeconds = 10;
constexpr long kStallSeconds = 60;  // no byte for so long: the connection counts as dead

using Handle = std::unique_ptr<CURL, decltype(&curl_easy_cleanup)>;

Handle new_handle(const HubOptions& options) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  Handle handle(curl_easy_init(), curl_easy_cleanup);
  if (!handle) throw Error(ErrorKind::kBusy, "cannot start a download: out of memory");
  const char* schemes = options.allow_http ? "http,https" : "https";
  curl_easy_setopt(handle.get(), CURLOPT_PROTOCOLS_STR, schemes);  // of redirects, too
  curl_easy_setopt(handle.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle.get(), CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  curl_easy_setopt(handle.get(), CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(handle.get(), CURLOPT_LOW_SPEED_TIME, kStallSeconds);
  curl_easy_setopt(handle.get(), CURLOPT_USERAGENT, "apud");
  if (!options.authorities.empty())
    curl_easy_setopt(handle.get(), CURLOPT_CAINFO, options.authorities.c_str());
  if (!options.token.empty()) {
    // libcurl drops it when a redirect leads to another host.
    curl_easy_setopt(handle.get(), CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
    curl_easy_setopt(handle.get(), CURLOPT_XOAUTH2_BEARER, options.token.c_str());
  }
  return handle;
}

/// Headers of the last response, names in lower case.
struct Headers {
  std::map<std::string, std::string> values;
  static size_t receive(char* data, size_t size, size_t count, void* self) {
    std::string_view line(data, size * count);
    auto& headers = *static_cast<Headers*>(self);
    if (line.starts_with("HTTP/")) headers.values.clear();
    size_t colon = line.find(':');
    if (colon == std::string_view::npos) return size * count;
    std::string name(line.substr(0, colon));
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && (value.front() == ' ' || value.front() == '"')) value.remove_prefix(1);
    while (!value.empty() && (value.back() <= ' ' || value.back() == '"')) value.remove_suffix(1);
    headers.values[name] = std::string(value);
    return size * count;
  }
  std::string get(const char* name) const {
    auto it = values.find(name);
    return it == values.end() ? std::string() : it->second;
  }
};

bool parse_size(const std::string& text, uint64_t* size) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *size);
  return error == std::errc() && end == text.data() + text.size();
}

bool is_sha256(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

[[noreturn]] void refuse_status(long status, const std::string& url) {
  std::string advice = status == 401 || status == 403
                           ? "the hub wants an account: accept the licence there and set HF_TOKEN"
                           : "";
  throw Error(ErrorKind::kUnavailable, fmt::format("{}: the hub answers {}", url, status), advice);
}

struct Download {
  const RemoteFile& remote;
  const Path& part;
  const std::function<void(uint64_t)>& progress;
  const CancelFlag* cancel;
  CURL* handle;
  Headers headers{};
  FileDescriptor fd{};
  uint64_t start = 0;
  uint64_t done = 0;
  bool checked = false;
  std::string problem{};  // content that is not what was asked for
  int write_errno = 0;

  /// Before the first byte: where the server starts from.
  bool begin() {
    checked = true;
    long status = 0;
    curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &status);
    if (status == 206) {
      std::string range = headers.get("content-range");
      if (range.starts_with(fmt::format("bytes {}-", start))) return true;
      problem = "answers another range: " + range;
      return false;
    }
    if (start > 0) {  // the whole file instead of the rest
      if (::ftruncate(fd.get(), 0) != 0 || ::lseek(fd.get(), 0, SEEK_SET) < 0) {
        write_errno = errno;
        return false;
      }
      start = done = 0;
    }
    return true;
  }

  static size_t receive(char* data, size_t size, size_t count, void* self) {
    auto& d = *static_cast<Download*>(self);
    size_t left = size * count;
    if (!d.checked && !d.begin()) return CURL_WRITEFUNC_ERROR;
    if (left > d.remote.bytes - d.done) {
      d.problem = fmt::format("sends more than {} bytes", d.remote.bytes);
      return CURL_WRITEFUNC_ERROR;
    }
    while (left > 0) {
      ssize_t n = ::write(d.fd.get(), data, left);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        d.write_errno = errno;
        return CURL_WRITEFUNC_ERROR;
      }
      data += n;
      left -= static_cast<size_t>(n);
      d.done += static_cast<uint64_t>(n);
    }
    if (d.progress) d.progress(d.done);
    return size * count;
  }

  static int tick(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto& d = *static_cast<Download*>(self);
    return d.cancel && d.cancel->raised() ? 1 : 0;
  }
};

uint64_t size_of(int fd, const Path& path) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) throw io_error("cannot stat", path.string(), errno);
  return static_cast<uint64_t>(st.st_size);
}

void check_content(const RemoteFile& remote, const Path& part) {
  if (remote.sha256.empty()) return;
  std::string got = sha256_file_hex(part);
  if (got == remote.sha256) return;
  ::unlink(part.c_str());
  throw Error(ErrorKind::kBadData,
              fmt::format("{}: SHA-256 {} where {} was stated", remote.url, got, remote.sha256),
              "nothing was kept; try again");
}

/// One request for what is missing. Returns when the connection ended well.
void fetch_rest(const HubOptions& options, const RemoteFile& remote, const Path& part,
                const std::function<void(uint64_t)>& progress, const CancelFlag* cancel) {
  Handle handle = new_handle(options);
  Download d{remote, part, progress, cancel, handle.get()};
  d.fd = FileDescriptor(::open(part.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!d.fd.valid()) throw io_error("cannot open", part.string(), errno);
  uint64_t have = size_of(d.fd.get(), part);
  if (have > remote.bytes) {
    if (::ftruncate(d.fd.get(), 0) != 0) throw io_error("cannot cut", part.string(), errno);
    have = 0;
  }
  d.start = d.done = have;
  if (have == remote.bytes) return;
  if (::lseek(d.fd.get(), static_cast<off_t>(have), SEEK_SET) < 0) {
    throw io_error("cannot seek in", part.string(), errno);
  }
  curl_easy_setopt(handle.get(), CURLOPT_URL, remote.url.c_str());
  curl_easy_setopt(handle.get(), CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(handle.get(), CURLOPT_MAXREDIRS, static_cast<long>(kMaxRedirects));
  curl_easy_setopt(handle.get(), CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(handle.get(), CURLOPT_HEADERFUNCTION, &Headers::receive);
  curl_easy_setopt(handle.get(), CURLOPT_HEADERDATA, &d.headers);
  curl_easy_setopt(handle.get(), CURLOPT_WRITEFUNCTION, &Download::receive);
  curl_easy_setopt(handle.get(), CURLOPT_WRITEDATA, &d);
  curl_easy_setopt(handle.get(), CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(handle.get(), CURLOPT_XFERINFOFUNCTION, &Download::tick);
  curl_easy_setopt(handle.get(), CURLOPT_XFERINFODATA, &d);
  std::string range = fmt::format("{}-", have);
  if (have > 0) curl_easy_setopt(handle.get(), CURLOPT_RANGE, range.c_str());

  CURLcode code = curl_easy_perform(handle.get());
  long status = 0;
  curl_easy_getinfo(handle.get(), CURLINFO_RESPONSE_CODE, &status);
  if (d.write_errno) throw io_error("cannot write", part.string(), d.write_errno);
  if (!d.problem.empty()) {
    ::unlink(part.c_str());
    throw Error(ErrorKind::kBadData, fmt::format("{}: the server {}", remote.url, d.problem),
                "nothing was kept; try again");
  }
  if (cancel && cancel->raised()) {
    throw Error(ErrorKind::kIo, "the download was interrupted", "run it again to go on");
  }
  if (code == CURLE_HTTP_RETURNED_ERROR) {
    if (status == 416) ::unlink(part.c_str());  // what lies there is not part of this file
    refuse_status(status, remote.url);
  }
  if (code == CURLE_UNSUPPORTED_PROTOCOL) {
    throw Error(ErrorKind::kBadData, remote.url + ": the server redirects away from HTTPS");
  }
  if (code != CURLE_OK) {
    throw Error(ErrorKind::kIo,
                fmt::format("{}: the download broke after {} of {} bytes: {}", remote.url, d.done,
                            remote.bytes, curl_easy_strerror(code)),
                "run it again to go on");
  }
  if (::fsync(d.fd.get()) != 0) throw io_error("cannot sync", part.string(), errno);
  if (d.done != remote.bytes) {
    ::unlink(part.c_str());
    throw Error(ErrorKind::kBadData,
                fmt::format("{}: {} bytes where {} were stated", remote.url, d.done, remote.bytes),
                "nothing was kept; try again");
  }
}

}  // namespace

RemoteFile hub_stat(const HubOptions& options, const std::string& repo, const std::string& revision,
                    const std::string& file) {
  RemoteFile remote;
  remote.url = fmt::format("{}/{}/resolve/{}/{}", options.base_url, repo, revision, file);
  std::string url = remote.url;
  // Hash and size stand in the hub's own answer, before it redirects to where the bytes are.
  for (int i = 0; i <= kMaxRedirects; ++i) {
    Handle handle = new_handle(options);
    Headers headers;
    curl_easy_setopt(handle.get(), CURLOPT_URL, url.c_str());
    curl_easy_setopt(handle.get(), CURLOPT_NOBODY, 1L);
    curl_easy_setopt(handle.get(), CURLOPT_TIMEOUT, 30L);
    curl_easy_setopt(handle.get(), CURLOPT_HEADERFUNCTION, &Headers::receive);
    curl_easy_setopt(handle.get(), CURLOPT_HEADERDATA, &headers);
    CURLcode code = curl_easy_perform(handle.get());
    if (code != CURLE_OK) {
      bool certificate = code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE;
      throw Error(ErrorKind::kUnavailable,
                  fmt::format("{}: the hub is not reached: {}", url, curl_easy_strerror(code)),
                  certificate ? "behind a proxy with certificates of its own, name their file in "
                                "SSL_CERT_FILE"
                              : "");
    }
    long status = 0;
    curl_easy_getinfo(handle.get(), CURLINFO_RESPONSE_CODE, &status);
    if (status >= 400) refuse_status(status, url);
    std::string size = headers.get("x-linked-size");
    if (!size.empty() || status == 200) {
      if (size.empty()) size = headers.get("content-length");
      if (!parse_size(size, &remote.bytes) || remote.bytes == 0) {
        throw Error(ErrorKind::kUnavailable, fmt::format("{}: the hub states no size", url));
      }
      std::string hash = headers.get("x-linked-etag");
      if (is_sha256(hash)) remote.sha256 = hash;
      return remote;
    }
    std::string location = headers.get("location");
    bool within = location.starts_with("/") && !location.starts_with("//");
    if (status < 300 || !within) {
      throw Error(ErrorKind::kUnavailable,
                  fmt::format("{}: the hub answers {} without a size", url, status));
    }
    url = options.base_url + location;
  }
  throw Error(ErrorKind::kUnavailable, remote.url + ": too many redirects");
}

void hub_download(const HubOptions& options, const RemoteFile& remote, const Path& part,
                  const std::function<void(uint64_t)>& progress, const CancelFlag* cancel) {
  fetch_rest(options, remote, part, progress, cancel);
  check_content(remote, part);
}

bool hub_answers(const HubOptions& options, double seconds) {
  Handle handle = new_handle(options);
  auto milliseconds = static_cast<long>(seconds * 1000);
  curl_easy_setopt(handle.get(), CURLOPT_URL, options.base_url.c_str());
  curl_easy_setopt(handle.get(), CURLOPT_NOBODY, 1L);
  curl_easy_setopt(handle.get(), CURLOPT_CONNECTTIMEOUT_MS, milliseconds);
  curl_easy_setopt(handle.get(), CURLOPT_TIMEOUT_MS, milliseconds);
  return curl_easy_perform(handle.get()) == CURLE_OK;
}

}  // namespace apud
