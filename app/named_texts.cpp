#include "app/named_texts.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "app/signals.h"
#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"
#include "rag/loader.h"

namespace apud {

namespace {

std::string read_stream(int fd, const std::string& name) {
  constexpr size_t kMost = 64u << 20;
  std::string out;
  char buffer[1 << 16];
  for (;;) {
    if (!wait_readable(fd)) throw Interrupted();
    ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw io_error("cannot read", name, errno);
    if (n == 0) break;
    out.append(buffer, static_cast<size_t>(n));
    if (out.size() > kMost)
      throw Error(ErrorKind::kBadData, name + ": more than 64 MiB", "ingest large texts first");
  }
  return out;
}

/// A pipe may bring anything that a file may hold: a PDF, a page, text in GB18030. It may have a
/// name, too: `-f <(git diff)`, /dev/stdin.
Document read_text(const std::string& file) {
  if (file == "-") return load_bytes("stdin", read_stdin());
  std::error_code ignored;
  if (!std::filesystem::is_fifo(file, ignored)) return load_file(file).document;
  FileDescriptor pipe(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!pipe.valid() && errno == EINTR) throw Interrupted();
  if (!pipe.valid()) throw io_error("cannot open", file, errno);
  return load_bytes(Path(file).filename().string(), read_stream(pipe.get(), file));
}

}  // namespace

std::string read_stdin() { return read_stream(STDIN_FILENO, "standard input"); }

std::vector<NamedText> read_named_texts(const std::vector<std::string>& files) {
  std::vector<NamedText> out;
  for (const std::string& file : files) {
    Document document = read_text(file);
    if (document.skipped() || document.text.empty()) {
      bool unreadable = document.status == LoadStatus::kUnreadable;
      std::string why =
          document.reason.empty() ? load_status_name(document.status) : document.reason;
      std::error_code ignored;
      throw Error(unreadable ? ErrorKind::kNoInput : ErrorKind::kBadData,
                  unreadable ? why : (file == "-" ? "standard input" : file) + ": " + why,
                  std::filesystem::is_directory(file, ignored)
                      ? "apud ingest takes folders in, -f takes files"
                      : "");
    }
    auto text = std::make_shared<const DocumentText>(
        DocumentText{std::move(document.text), std::move(document.anchors)});
    out.push_back({file == "-" ? "stdin" : file, std::move(text)});
  }
  return out;
}

}  // namespace apud
