#include "rag/walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/ascii.h"
#include "base/error.h"
#include "rag/ignore_rules.h"

namespace apud {

namespace {

constexpr size_t kMaxDepth = 128;  // one open folder each
constexpr uint64_t kMaxIgnoreFile = 1u << 20;

// An ignore file, or nothing where it is absent, special, a link or too large.
IgnoreRules read_rules(int folder, const char* name) {
  FileDescriptor fd(
      ::openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat st {};
  if (!fd.valid() || ::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) ||
      static_cast<uint64_t>(st.st_size) > kMaxIgnoreFile) {
    return {};
  }
  std::string content(static_cast<size_t>(st.st_size), '\0');
  size_t done = 0;
  while (done < content.size()) {
    ssize_t n = ::read(fd.get(), content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  content.resize(done);
  return IgnoreRules(content);
}

// One folder on the way down; `prefix` is its path relative to the outermost frame, with a slash.
struct Frame {
  std::string prefix;
  IgnoreRules ignore;
  IgnoreRules gitignore;
};

class Walker {
 public:
  Walker(const WalkOptions& options, const WalkCallbacks& callbacks)
      : options_(options), callbacks_(callbacks) {
    for (const std::string& glob : options.include) include_.add(glob);
    for (const std::string& glob : options.exclude) exclude_.add(glob);
  }

  bool walk_root(const Path& root) {
    struct stat st {};
    if (::stat(root.c_str(), &st) != 0) throw io_error("cannot open", root.string(), errno);
    if (S_ISDIR(st.st_mode)) {
      FileDescriptor fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!fd.valid()) throw io_error("cannot open", root.string(), errno);
      if (!options_.no_ignore) read_parents(root);
      root_prefix_ = prefix_.size();
      return folder(std::move(fd), root, 0);
    }
    std::string name = root.filename().string();
    if (is_secret_name(name)) {
      skip(root, WalkSkip::kSecret);
    } else if (!S_ISREG(st.st_mode)) {
      skip(root, WalkSkip::kSpecial);
    } else {
      emit(root, st);
    }
    return true;
  }

 private:
  void skip(const Path& path, WalkSkip reason) {
    if (callbacks_.skipped) callbacks_.skipped(path, reason);
  }

  void emit(const Path& path, const struct stat& st) {
    callbacks_.file({path, static_cast<uint64_t>(st.st_size),
                     st.st_mtim.tv_sec * 1'000'000'000ll + st.st_mtim.tv_nsec,
                     static_cast<uint64_t>(st.st_dev), static_cast<uint64_t>(st.st_ino)});
  }

  // Inside a repository its ignore files above the root count as well.
  void read_parents(const Path& root) {
    std::error_code error;
    Path here = std::filesystem::canonical(root, error);
    if (error) return;
    std::vector<Path> chain;
    for (Path at = here; chain.size() < kMaxDepth; at = at.parent_path()) {
      chain.push_back(at);
      if (std::filesystem::exists(at / ".git", error)) {
        for (size_t i = chain.size() - 1; i > 0; --i) {
          FileDescriptor fd(::open(chain[i].c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
          if (fd.valid()) push_frame(fd.get());
          prefix_ += chain[i - 1].filename().string() + "/";
        }
        return;
      }
      if (at == at.parent_path()) return;
    }
  }

  void push_frame(int fd) {
    frames_.push_back({prefix_, read_rules(fd, ".ignore"), read_rules(fd, ".gitignore")});
  }

  // .ignore of any level is stronger than .gitignore; among equals the innermost decides.
  bool ignored(std::string_view path, bool is_folder) const {
    for (auto list : {&Frame::ignore, &Frame::gitignore}) {
      for (auto frame = frames_.rbegin(); frame != frames_.rend(); ++frame) {
        if (((*frame).*list).empty()) continue;
        if (auto verdict = ((*frame).*list).decide(path.substr(frame->prefix.size()), is_folder)) {
          return *verdict;
        }
      }
    }
    return false;
  }

  // False when cancelled. `fd` is closed by the end.
  bool folder(FileDescriptor fd, const Path& path, size_t depth) {
    std::vector<std::string> names;
    {
      DIR* dir = ::fdopendir(::dup(fd.get()));
      if (!dir) {
        skip(path, WalkSkip::kUnreadable);
        return true;
      }
      while (dirent* entry = ::readdir(dir)) {
        std::string_view name = entry->d_name;
        if (name != "." && name != "..") names.emplace_back(name);
      }
      ::closedir(dir);
    }
    std::sort(names.begin(), names.end());
    if (!options_.no_ignore) push_frame(fd.get());
    bool go_on = true;
    for (const std::string& name : names) {
      if (options_.cancel && options_.cancel->raised()) go_on = false;
      if (!go_on || !(go_on = entry(fd.get(), path, name, depth))) break;
    }
    if (!options_.no_ignore) frames_.pop_back();
    return go_on;
  }

  bool entry(int parent, const Path& parent_path, const std::string& name, size_t depth) {
    Path path = parent_path / name;
    struct stat st {};
    if (::fstatat(parent, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno != ENOENT) skip(path, WalkSkip::kUnreadable);  // vanished meanwhile: not there
      return true;
    }
    bool is_folder = S_ISDIR(st.st_mode);
    std::string relative = prefix_ + name;
    std::string_view inside = std::string_view(relative).substr(root_prefix_);
    if (name == ".git" || (name[0] == '.' && !options_.hidden)) {
      // A secret is counted as one even where hidden files are left out anyway.
      skip(path, !is_folder && is_secret_name(name) ? WalkSkip::kSecret : WalkSkip::kHidden);
      return true;
    }
    if (S_ISLNK(st.st_mode)) {
      skip(path, WalkSkip::kLink);
      return true;
    }
    if (!options_.no_ignore && ignored(relative, is_folder)) {
      skip(path, WalkSkip::kIgnored);
      return true;
    }
    if (exclude_.decide(inside, is_folder).value_or(false)) {
      skip(path, WalkSkip::kExcluded);
      return true;
    }
    if (is_folder) {
      if (depth + 1 >= kMaxDepth) {
        skip(path, WalkSkip::kTooDeep);
        return true;
      }
      FileDescriptor fd(
          ::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!fd.valid()) {
        skip(path, WalkSkip::kUnreadable);
        return true;
      }
      size_t length = prefix_.size();
      prefix_ += name + "/";
      bool go_on = folder(std::move(fd), path, depth + 1);
      prefix_.resize(length);
      return go_on;
    }
    if (!S_ISREG(st.st_mode)) {
      skip(path, WalkSkip::kSpecial);
    } else if (is_secret_name(name)) {
      skip(path, WalkSkip::kSecret);
    } else if (!include_.empty() && !include_.decide(inside, false).value_or(false)) {
      skip(path, WalkSkip::kExcluded);
    } else {
      emit(path, st);
    }
    return true;
  }

  const WalkOptions& options_;
  const WalkCallbacks& callbacks_;
  IgnoreRules include_, exclude_;
  std::vector<Frame> frames_;
  std::string prefix_;      // of the current folder, relative to the outermost frame
  size_t root_prefix_ = 0;  // length of the prefix that leads to the root
};

}  // namespace

const char* walk_skip_name(WalkSkip reason) {
  switch (reason) {
    case WalkSkip::kHidden:
      return "hidden";
    case WalkSkip::kIgnored:
      return "ignored";
    case WalkSkip::kExcluded:
      return "excluded";
    case WalkSkip::kSecret:
      return "secret";
    case WalkSkip::kLink:
      return "link";
    case WalkSkip::kSpecial:
      return "special";
    case WalkSkip::kUnreadable:
      return "unreadable";
    case WalkSkip::kTooDeep:
      return "too_deep";
  }
  return "unknown";
}

bool is_secret_name(std::string_view original) {
  std::string name = ascii_lower(original);
  static constexpr std::array kNames = {".env",
                                        ".netrc",
                                        "_netrc",
                                        ".pgpass",
                                        ".htpasswd",
                                        ".npmrc",
                                        ".pypirc",
                                        ".git-credentials",
                                        "credentials",
                                        "credentials.json",
                                        "credentials.db",
                                        ".dockercfg",
                                        "shadow",
                                        "gshadow",
                                        ".s3cfg",
                                        ".vault-token",
                                        "secring.gpg",
                                        "key3.db",
                                        "key4.db",
                                        "logins.json",
                                        "login data",
                                        "wallet.dat",
                                        ".my.cnf",
                                        "client_secret.json",
                                        "secrets.json",
                                        "secrets.yaml",
                                        "secrets.yml",
                                        "secrets.toml",
                                        "service-account.json"};
  for (const char* secret : kNames) {
    if (name == secret) return true;
  }
  static constexpr std::array kPatterns = {
      ".env.*",        "*.env",       "*.pem",    "*.key",         "*.kdb",      "*.kdbx",
      "*.p12",         "*.pfx",       "*.jks",    "*.ppk",         "*.keystore", "*.keychain",
      "*.keychain-db", "*.keytab",    "*.ovpn",   "*.agekey",      "id_rsa*",    "id_dsa*",
      "id_ecdsa*",     "id_ed25519*", "id_xmss*", "ssh_host_*_key"};
  for (const char* pattern : kPatterns) {
    if (glob_match(pattern, name)) return true;
  }
  // id_*: private keys of any kind carry no extension.
  return glob_match("id_*", name) && name.find('.') == std::string::npos;
}

bool walk(const Path& root, const WalkOptions& options, const WalkCallbacks& callbacks) {
  return Walker(options, callbacks).walk_root(root);
}

}  // namespace apud
