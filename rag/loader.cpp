#include "rag/loader.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/ascii.h"
#include "base/error.h"
#include "base/hash.h"
#include "rag/loaders/formats.h"

namespace apud {

namespace {

std::string lower_extension(std::string_view name) {
  size_t slash = name.rfind('/');
  if (slash != std::string_view::npos) name.remove_prefix(slash + 1);
  size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || dot == 0) return {};
  return ascii_lower(name.substr(dot + 1));
}

bool is(std::string_view extension, std::initializer_list<std::string_view> list) {
  return std::find(list.begin(), list.end(), extension) != list.end();
}

bool starts(std::string_view bytes, std::string_view mark) {
  return bytes.substr(0, mark.size()) == mark;
}

enum class Format {
  kText,
  kMarkdown,
  kHtml,
  kSvg,
  kPdf,
  kDocx,
  kPptx,
  kXlsx,
  kOdf,
  kEpub,
  kCsv,
  kJson,
  kSession,
  kCode,
  kEmail,
  kMailbox,
  kNotebook,
  kLegacyOffice,
  kZip
};

// A zip container by its first entry's name or the extension: OOXML parts lie in word/, xl/, ppt/;
// EPUB and OpenDocument begin with an uncompressed "mimetype".
Format zip_format(std::string_view extension, std::string_view bytes) {
  std::string_view head = bytes.substr(0, 4096);
  auto holds = [&](std::string_view part) { return head.find(part) != std::string_view::npos; };
  if (extension == "docx" || extension == "docm") return Format::kDocx;
  if (extension == "epub" || holds("mimetypeapplication/epub+zip")) return Format::kEpub;
  if (extension == "pptx" || extension == "pptm") return Format::kPptx;
  if (extension == "xlsx" || extension == "xlsm") return Format::kXlsx;
  if (is(extension, {"odt", "ods", "odp", "ott"}) ||
      holds("mimetypeapplication/vnd.oasis.opendocument")) {
    return Format::kOdf;
  }
  if (holds("word/")) return Format::kDocx;
  if (holds("ppt/")) return Format::kPptx;
  if (holds("xl/")) return Format::kXlsx;
  return Format::kZip;
}

// By extension; where that says nothing or the content plainly disagrees, by content.
Format choose(std::string_view extension, std::string_view bytes) {
  if (bytes.substr(0, 1024).find("%PDF-") != std::string_view::npos &&
      (extension == "pdf" || starts(bytes, "%PDF-"))) {
    return Format::kPdf;
  }
  if (extension == "pdf" && bytes.empty()) return Format::kPdf;
  if (starts(bytes, std::string_view("\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1")))
    return Format::kLegacyOffice;
  if (starts(bytes, "PK\x03\x04") || starts(bytes, "PK\x05\x06"))
    return zip_format(extension, bytes);
  if (extension == "docx") return Format::kDocx;  // damaged: its loader says how
  if (extension == "pptx") return Format::kPptx;
  if (extension == "xlsx") return Format::kXlsx;
  if (is(extension, {"odt", "ods", "odp"})) return Format::kOdf;
  if (extension == "epub") return Format::kEpub;
  if (extension == "ipynb") return Format::kNotebook;
  if (extension == "eml") return Format::kEmail;
  if (extension == "mbox" && starts(bytes, "From ")) return Format::kMailbox;
  if (is(extension, {"csv", "tsv", "tab"})) return Format::kCsv;
  if (extension == "json" && bytes.substr(0, 64).find("\"apud_session\"") != std::string_view::npos)
    return Format::kSession;
  if (is(extension, {"json", "jsonl", "ndjson", "jsonlines", "geojson"})) return Format::kJson;
  if (is(extension,
         {"c",   "h",      "cc",   "cpp",  "cxx",   "hpp",   "hh",  "hxx",    "cu",  "cuh", "py",
          "pyi", "js",     "mjs",  "cjs",  "ts",    "tsx",   "jsx", "java",   "kt",  "kts", "go",
          "rs",  "rb",     "php",  "cs",   "swift", "scala", "lua", "pl",     "pm",  "r",   "jl",
          "sh",  "bash",   "zsh",  "fish", "ps1",   "sql",   "hs",  "ml",     "mli", "ex",  "exs",
          "erl", "clj",    "lisp", "el",   "scm",   "dart",  "m",   "mm",     "vb",  "f90", "f",
          "asm", "s",      "v",    "vhd",  "proto", "cmake", "mk",  "gradle", "zig", "nim", "d",
          "pas", "groovy", "tcl",  "vue",  "svelte"})) {
    return Format::kCode;
  }
  if (is(extension, {"md", "markdown", "mdown", "mkd", "mdx", "rmd", "qmd"}))
    return Format::kMarkdown;
  if (is(extension, {"html", "htm", "xhtml", "shtml"})) return Format::kHtml;
  if (extension == "svg") return Format::kSvg;
  if (extension.empty() || is(extension, {"php", "asp", "aspx", "jsp"})) {
    std::string head = ascii_lower(bytes.substr(0, 256));
    size_t first = std::min(head.find_first_not_of(" \t\r\n"), head.size());
    if (starts(std::string_view(head).substr(first), "<!doctype html") ||
        starts(std::string_view(head).substr(first), "<html")) {
      return Format::kHtml;
    }
  }
  return Format::kText;
}

bool private_key(std::string_view bytes) {
  std::string_view head = bytes.substr(0, 4096);
  size_t begin = head.find("-----BEGIN ");
  return begin != std::string_view::npos && begin < 256 &&
         head.substr(begin, 80).find("PRIVATE KEY") != std::string_view::npos;
}

// OLE containers: Office files before 2007, and newer ones with a password.
Document legacy_office(std::string_view bytes) {
  using namespace std::string_view_literals;
  if (bytes.find("E\0n\0c\0r\0y\0p\0t\0e\0d\0P\0a\0c\0k\0a\0g\0e\0"sv) != std::string_view::npos) {
    return skipped_document("", LoadStatus::kEncrypted, "encrypted Office file");
  }
  return skipped_document("", LoadStatus::kUnsupported,
                          "binary Office format from before 2007; save it as DOCX");
}

struct Stamp {
  uint64_t size;
  int64_t mtime_ns, ctime_ns;
  bool operator==(const Stamp&) const = default;
};

Stamp stamp(int fd, const Path& path) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) throw io_error("cannot stat", path.string(), errno);
  return {static_cast<uint64_t>(st.st_size),
          st.st_mtim.tv_sec * 1'000'000'000ll + st.st_mtim.tv_nsec,
          st.st_ctim.tv_sec * 1'000'000'000ll + st.st_ctim.tv_nsec};
}

// Bytes of the file as `before` describes it; absent when it changed meanwhile.
std::optional<std::string> read_stable(int fd, const Path& path, const Stamp& before) {
  std::string bytes(before.size, '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = ::pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw io_error("cannot read", path.string(), errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  if (done != bytes.size() || !(stamp(fd, path) == before)) return std::nullopt;
  return bytes;
}

// Binary content needs no more than its first 8 KiB: NUL bytes in what is neither a format of ours
// nor UTF-16 or UTF-32.
bool binary_head(std::string_view head) {
  if (head.find('\0') == std::string_view::npos) return false;
  if (head.find("%PDF-") != std::string_view::npos || starts(head, "PK\x03\x04") ||
      starts(head, "\xD0\xCF\x11\xE0")) {
    return false;
  }
  return load_text(head.substr(0, head.size() & ~size_t{3}), "").status == LoadStatus::kBinary;
}

}  // namespace

bool outdated_loader(std::string_view loader) {
  std::string_view name = loader.substr(0, loader.find('/'));
  return std::any_of(kLoaders.begin(), kLoaders.end(), [&](std::string_view now) {
    return now.substr(0, now.find('/')) == name && now != loader;
  });
}

Document skipped_document(std::string loader, LoadStatus status, std::string reason) {
  Document document;
  document.loader = std::move(loader);
  document.status = status;
  document.reason = std::move(reason);
  return document;
}

Document load_bytes(std::string_view name, std::string_view bytes, const LoadOptions& options) {
  if (bytes.size() > options.max_bytes) {
    return skipped_document(
        "", LoadStatus::kTooLarge,
        std::to_string(bytes.size()) + " bytes, the limit is " + std::to_string(options.max_bytes));
  }
  if (private_key(bytes)) return skipped_document("", LoadStatus::kSecret, "holds a private key");
  std::string extension = lower_extension(name);
  switch (choose(extension, bytes)) {
    case Format::kPdf:
      return load_pdf(bytes, options);
    case Format::kMarkdown:
      return load_markdown(bytes);
    case Format::kHtml:
      return load_html(bytes, options);
    case Format::kSvg:
      return load_svg(bytes);
    case Format::kDocx:
      return load_docx(bytes, options);
    case Format::kPptx:
      return load_pptx(bytes, options);
    case Format::kXlsx:
      return load_xlsx(bytes, options);
    case Format::kOdf:
      return load_odf(bytes, options);
    case Format::kEpub:
      return load_epub(bytes, options);
    case Format::kCsv:
      return load_csv(bytes, extension);
    case Format::kJson:
      return load_json(bytes, extension);
    case Format::kSession:
      return load_session(bytes);
    case Format::kCode:
      return load_code(bytes);
    case Format::kEmail:
      return load_email(bytes, false, options);
    case Format::kMailbox:
      return load_email(bytes, true, options);
    case Format::kNotebook:
      return load_notebook(bytes);
    case Format::kLegacyOffice:
      return legacy_office(bytes);
    case Format::kZip:
      return skipped_document("", LoadStatus::kUnsupported, "a zip archive; unpack it first");
    case Format::kText:
      return load_text(bytes, extension);
  }
  return {};
}

LoadedFile load_file(const Path& path, const LoadOptions& options) {
  LoadedFile out;
  try {
    for (int attempt = 0; attempt < 3; ++attempt) {
      FileDescriptor fd = open_regular(path);
      Stamp before = stamp(fd.get(), path);
      out.size = before.size;
      out.mtime_ns = before.mtime_ns;
      if (before.size > options.max_bytes) {
        out.document = skipped_document("", LoadStatus::kTooLarge,
                                        std::to_string(before.size) + " bytes, the limit is " +
                                            std::to_string(options.max_bytes));
        return out;
      }
      char head[8192];
      ssize_t n = ::pread(fd.get(), head, sizeof head, 0);
      if (n < 0) throw io_error("cannot read", path.string(), errno);
      if (binary_head({head, static_cast<size_t>(n)})) {
        out.document = skipped_document("", LoadStatus::kBinary, "binary content");
        return out;
      }
      std::optional<std::string> bytes = read_stable(fd.get(), path, before);
      if (!bytes) continue;
      out.sha256 = sha256_hex(*bytes);
      out.document = load_bytes(path.filename().string(), *bytes, options);
      return out;
    }
    out.document =
        skipped_document("", LoadStatus::kChanging, "changed while being read, three times");
  } catch (const Error& error) {
    out.document = skipped_document("", LoadStatus::kUnreadable, error.what());
  }
  return out;
}

}  // namespace apud
