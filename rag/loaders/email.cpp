// E-mail: one message (.eml) or a mailbox (.mbox). Subject as heading, the plain text (else the
// HTML) of each message, quoted tails and signatures cut, attachments named. Sources: RFC 5322,
// 2045, 2047, 2231 (file names only).
#include <algorithm>
#include <array>
#include <optional>

#include "base/ascii.h"
#include "base/utf8.h"
#include "rag/loaders/builder.h"
#include "rag/loaders/encoding.h"
#include "rag/loaders/formats.h"
#include "rag/loaders/html.h"

namespace apud {

namespace {

constexpr const char* kEmailLoader = loader_version("email");
constexpr int kMaxParts = 200;      // of one message
constexpr int kMaxMultiparts = 16;  // of multiparts

std::string decode_base64(std::string_view text) {
  std::string out;
  unsigned bits = 0, count = 0;
  for (char c : text) {
    int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                : c >= 'a' && c <= 'z' ? c - 'a' + 26
                : c >= '0' && c <= '9' ? c - '0' + 52
                : c == '+' || c == '-' ? 62
                : c == '/' || c == '_' ? 63
                                       : -1;
    if (c == '=') break;
    if (value < 0) continue;
    bits = (bits << 6 | static_cast<unsigned>(value)) & 0xFFFFFF;
    if (++count % 4 != 1)
      out += static_cast<char>(bits >> (count % 4 == 2 ? 4 : count % 4 == 3 ? 2 : 0));
  }
  return out;
}

std::string decode_quoted(std::string_view text, bool header) {
  auto hex = [](char c) {
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '=' && i + 2 < text.size() && hex(text[i + 1]) >= 0 && hex(text[i + 2]) >= 0) {
      out += static_cast<char>(hex(text[i + 1]) * 16 + hex(text[i + 2]));
      i += 2;
    } else if (text[i] == '=' && i + 1 < text.size() &&
               (text[i + 1] == '\n' || text[i + 1] == '\r')) {
      i += text[i + 1] == '\r' && i + 2 < text.size() && text[i + 2] == '\n' ? 2 : 1;
    } else {
      out += header && text[i] == '_' ? ' ' : text[i];
    }
  }
  return out;
}

std::string to_text(std::string_view bytes, std::string_view charset) {
  bool known = false;
  std::string out;
  std::string name = ascii_lower(charset);
  if (!name.empty() && name != "us-ascii" && name != "unknown-8bit")
    out = to_utf8(bytes, name, &known);
  if (known) return clean_utf8(out).text;
  return decode_text(bytes).clean.text;
}

// "=?utf-8?B?…?=" words; white space between two of them does not count.
std::string decode_words(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text.substr(i, 2) == "=?") {
      size_t charset = text.find('?', i + 2),
             kind = charset == std::string_view::npos ? charset : text.find('?', charset + 1);
      size_t end = kind == std::string_view::npos ? kind : text.find("?=", kind + 1);
      if (end != std::string_view::npos && kind == charset + 2 && end - i < 1024) {
        std::string_view body = text.substr(kind + 1, end - kind - 1);
        char how = ascii_lower(text[charset + 1]);
        out += to_text(how == 'b' ? decode_base64(body) : decode_quoted(body, true),
                       text.substr(i + 2, charset - i - 2));
        i = end + 2;
        size_t next = text.find_first_not_of(" \t\n", i);
        if (next != std::string_view::npos && text.substr(next, 2) == "=?") i = next;
        continue;
      }
    }
    out += text[i++];
  }
  return one_line(clean_utf8(out).text);
}

struct Header {
  std::string content_type = "text/plain", encoding, disposition, subject, from, to, date;
};

// Reads headers from `text`; returns where the body begins.
size_t read_header(std::string_view text, Header& header) {
  size_t at = 0;
  while (at < text.size()) {
    size_t end = std::min(text.find('\n', at), text.size());
    if (end == at || (end == at + 1 && text[at] == '\r')) return std::min(end + 1, text.size());
    while (end + 1 < text.size() && (text[end + 1] == ' ' || text[end + 1] == '\t')) {
      end = std::min(text.find('\n', end + 1), text.size());
    }
    std::string_view line = text.substr(at, end - at);
    at = std::min(end + 1, text.size());
    size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    std::string name = ascii_lower(line.substr(0, colon));
    std::string value = one_line(line.substr(colon + 1));
    if (name == "content-type") header.content_type = value;
    if (name == "content-transfer-encoding") header.encoding = ascii_lower(value);
    if (name == "content-disposition") header.disposition = value;
    if (name == "subject") header.subject = decode_words(value);
    if (name == "from") header.from = decode_words(value);
    if (name == "to") header.to = decode_words(value);
    if (name == "date") header.date = value;
  }
  return at;
}

// The parameter of a header value: boundary=…, charset="…".
std::string parameter(std::string_view value, std::string_view name) {
  std::string low = ascii_lower(value);
  for (size_t at = low.find(';'); at != std::string::npos; at = low.find(';', at + 1)) {
    size_t begin = low.find_first_not_of("; \t", at);
    if (begin == std::string::npos || low.compare(begin, name.size(), name) != 0) continue;
    begin += name.size();
    while (begin < low.size() && (low[begin] == ' ' || low[begin] == '*')) ++begin;
    if (begin >= low.size() || low[begin] != '=') continue;
    ++begin;
    if (begin < value.size() && value[begin] == '"') {
      return std::string(value.substr(begin + 1, value.find('"', begin + 1) - begin - 1));
    }
    return std::string(value.substr(begin, value.find_first_of("; \t", begin) - begin));
  }
  return {};
}

struct Body {
  std::string plain, html;
  std::vector<std::string> attachments;
  int parts = 0;
};

void read_part(const Header& header, std::string_view content, int depth, Body& out) {
  if (++out.parts > kMaxParts || depth > kMaxMultiparts) return;
  std::string type = ascii_lower(header.content_type.substr(0, header.content_type.find(';')));
  std::string file = parameter(header.disposition, "filename");
  if (file.empty()) file = parameter(header.content_type, "name");
  if (type.rfind("multipart/", 0) == 0) {
    std::string mark = "--" + parameter(header.content_type, "boundary");
    if (mark.size() < 3) return;
    size_t at = content.substr(0, mark.size()) == mark ? 0 : content.find("\n" + mark);
    while (at != std::string_view::npos && out.parts <= kMaxParts) {
      size_t begin = content.find('\n', at + 1);
      if (begin == std::string_view::npos ||
          content.substr(at + (at == 0 ? 0 : 1) + mark.size(), 2) == "--")
        break;
      ++begin;
      size_t end = content.find("\n" + mark, begin - 1);
      std::string_view part = content.substr(begin, end == std::string_view::npos ? end
                                                    : end > begin                 ? end - begin
                                                                                  : 0);
      Header inner;
      size_t body = read_header(part, inner);
      read_part(inner, part.substr(body), depth + 1, out);
      at = end;
    }
    return;
  }
  bool attached = ascii_lower(header.disposition).rfind("attachment", 0) == 0;
  if (!file.empty() && (attached || type.rfind("text/", 0) != 0)) {
    out.attachments.push_back(decode_words(file));
    return;
  }
  if (attached || (type != "text/plain" && type != "text/html")) return;
  std::string bytes = header.encoding == "base64"             ? decode_base64(content)
                      : header.encoding == "quoted-printable" ? decode_quoted(content, false)
                                                              : std::string(content);
  std::string text = to_text(bytes, parameter(header.content_type, "charset"));
  std::string& target = type == "text/html" ? out.html : out.plain;
  if (!target.empty()) target += "\n\n";
  target += text;
}

// Cuts what the message repeats: the quoted tail with its introduction, and the signature.
std::string own_words(const std::string& text) {
  std::vector<std::string_view> lines;
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(std::string_view(text).substr(at, end - at));
    at = end + 1;
  }
  size_t count = lines.size();
  for (size_t i = 0; i < count; ++i) {
    if (lines[i] == "-- " || lines[i] == "--" ||
        lines[i].rfind("-----Original Message-----", 0) == 0) {
      if (i > 0) count = i;
    }
  }
  auto blank = [&](size_t i) {
    return lines[i].find_first_not_of(" \t") == std::string_view::npos;
  };
  auto quoted = [&](size_t i) { return !lines[i].empty() && lines[i][0] == '>'; };
  size_t keep = count;
  while (keep > 0 && (blank(keep - 1) || quoted(keep - 1))) --keep;
  bool cut = false;
  for (size_t i = keep; i < count; ++i) cut |= quoted(i);
  if (cut && keep > 0) {
    std::string_view last = lines[keep - 1];
    if (!last.empty() &&
        (last.back() == ':' || (last.size() > 2 && last.substr(last.size() - 3) == "：")))
      --keep;
  } else {
    keep = count;
  }
  if (keep == 0) keep = count;  // nothing but quotation: then that is the message
  std::string out;
  for (size_t i = 0; i < keep; ++i) out.append(lines[i]).push_back('\n');
  return out;
}

void message(std::string_view raw, int line, int number, const LoadOptions& options,
             DocumentBuilder& builder) {
  Header header;
  size_t begin = read_header(raw, header);
  Body body;
  read_part(header, raw.substr(begin), 0, body);
  std::string member = number > 0 ? "message " + std::to_string(number) : "";
  builder.place(line, 0, member);
  builder.heading(1, header.subject.empty() ? "(no subject)" : header.subject);
  std::string about;
  for (const auto& [name, value] :
       {std::pair{"From", header.from}, {"To", header.to}, {"Date", header.date}}) {
    if (!value.empty()) about += std::string(about.empty() ? "" : "\n") + name + ": " + value;
  }
  for (const std::string& file : body.attachments)
    about += std::string(about.empty() ? "" : "\n") + "Attachment: " + file;
  builder.place(0, 0, member);
  builder.block(BlockKind::kParagraph, about);
  if (!body.plain.empty()) {
    std::string text = own_words(body.plain);
    for (size_t at = 0; at < text.size();) {
      size_t end = std::min(text.find("\n\n", at), text.size());
      builder.place(0, 0, member);
      builder.block(BlockKind::kParagraph, std::string_view(text).substr(at, end - at));
      at = end + 2;
    }
  } else if (!body.html.empty()) {
    HtmlPage page = std::move(parse_html({body.html}, options)[0]);
    for (HtmlBlock& block : page.blocks) {
      block.line = 0;
      if (block.kind == BlockKind::kHeading) block.level = std::min(block.level + 1, 6);
    }
    append_page(page, member, 0, builder);
  }
}

}  // namespace

Document load_email(std::string_view bytes, bool mailbox, const LoadOptions& options) {
  if (bytes.substr(0, 8192).find('\0') != std::string_view::npos) {
    return skipped_document(kEmailLoader, LoadStatus::kBinary, "binary content");
  }
  DocumentBuilder builder(kEmailLoader);
  if (!mailbox) {
    message(bytes, 1, 0, options, builder);
    return builder.finish();
  }
  int line = 1, number = 0;
  for (size_t at = 0; at < bytes.size();) {
    size_t first = bytes.find('\n', at);  // the "From " line
    if (first == std::string_view::npos) break;
    size_t next = bytes.find("\nFrom ", first);
    size_t end = next == std::string_view::npos ? bytes.size() : next + 1;
    if (options.cancel && options.cancel->raised())
      return skipped_document(kEmailLoader, LoadStatus::kLimit, "cancelled");
    message(bytes.substr(first + 1, end - first - 1), line, ++number, options, builder);
    line += static_cast<int>(std::count(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                                        bytes.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    at = end;
  }
  return builder.finish();
}

}  // namespace apud
