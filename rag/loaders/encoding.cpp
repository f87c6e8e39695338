#include "rag/loaders/encoding.h"

#include <uchardet.h>
#include <unicode/ucnv.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "base/ascii.h"
#include "base/utf8.h"

namespace apud {

namespace {

constexpr size_t kSniff = 8192;

constexpr size_t kDataRun = 512, kDataShown = 64;
constexpr std::string_view kEllipsis = "\xE2\x80\xA6";
constexpr std::array<bool, 256> kDataLetter = [] {
  std::array<bool, 256> letters{};
  for (char c :
       std::string_view("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-"))
    letters[static_cast<unsigned char>(c)] = true;
  return letters;
}();

// Bytes that clean text copies as they are: printable ASCII, tab and newline.
constexpr std::array<bool, 256> kPlain = [] {
  std::array<bool, 256> plain{};
  for (int c = 0x20; c < 0x7F; ++c) plain[static_cast<size_t>(c)] = true;
  plain['\n'] = plain['\t'] = true;
  return plain;
}();

// Length of the terminal escape sequence at text[pos] (ECMA-48): CSI, OSC and other strings,
// two-byte escapes. A string without an end within 4 KiB is not one: only its first byte goes.
size_t escape_length(std::string_view text, size_t pos) {
  size_t end = std::min(text.size(), pos + 4096), i = pos + 1;
  if (i >= end) return 1;
  char kind = text[i++];
  if (kind == '[') {
    while (i < end && text[i] >= 0x20 && text[i] <= 0x3F) ++i;
    return (i < end && text[i] >= 0x40 && text[i] <= 0x7E ? i + 1 : i) - pos;
  }
  if (kind == ']' || kind == 'P' || kind == '_' || kind == '^' || kind == 'X') {
    for (; i < end; ++i) {
      if (text[i] == '\a') return i + 1 - pos;
      if (text[i] == '\x1b') return (i + 1 < end && text[i + 1] == '\\' ? i + 2 : i) - pos;
      if (text[i] == '\n') break;
    }
    return 1;
  }
  if (kind >= 0x20 && kind <= 0x2F) return i < end ? 3 : 2;  // charset selection: ESC ( B
  return kind >= 0x30 && kind <= 0x7E ? 2 : 1;
}

bool is_hidden(char32_t c) {
  if (c < 0x200B) return c == 0x061C || c == 0x180E;
  return c == 0x200B || c == 0x200E || c == 0x200F || (c >= 0x202A && c <= 0x202E) ||
         (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFB) ||
         (c >= 0xE0000 && c <= 0xE01EF);
}

void drop_last(std::string& out) {
  if (out.empty() || out.back() == '\n') return;
  while (out.size() > 1 && (static_cast<unsigned char>(out.back()) & 0xC0) == 0x80) out.pop_back();
  out.pop_back();
}

// Share of the units of UTF-16 that are characters of ordinary text; counts the ASCII ones.
double utf16_plausible(std::string_view bytes, bool big, size_t& ascii) {
  size_t good = 0, units = std::min(bytes.size(), kSniff) / 2;
  for (size_t i = 0; i < units; ++i) {
    unsigned a = static_cast<unsigned char>(bytes[2 * i]),
             b = static_cast<unsigned char>(bytes[2 * i + 1]);
    unsigned u = big ? a << 8 | b : b << 8 | a;
    ascii += u < 0x80;
    good += u == '\n' || u == '\r' || u == '\t' || (u >= 0x20 && u < 0x7F) ||
            (u >= 0xA0 && u < 0x530) || (u >= 0x590 && u < 0x700) || (u >= 0x900 && u < 0xE80) ||
            (u >= 0x2010 && u < 0x2030) || (u >= 0x3000 && u < 0x3100) ||
            (u >= 0x4E00 && u < 0x9FB0) || (u >= 0xAC00 && u < 0xD7A4) ||
            (u >= 0xD800 && u < 0xE000) || (u >= 0xFF00 && u < 0xFFEF) || (i == 0 && u == 0xFEFF);
  }
  return units == 0 ? 0 : static_cast<double>(good) / static_cast<double>(units);
}

// The stretches with high bytes, each with one neighbour, joined by spaces: what a statistical
// detector should see of a mostly ASCII file.
std::string high_stretches(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size() && out.size() < 65536; ++i) {
    if (static_cast<unsigned char>(bytes[i]) < 0x80) continue;
    size_t end = i;
    // Two-byte encodings may have ASCII trail bytes, so runs end after two ASCII bytes.
    while (end < bytes.size() && end - i < 4096 &&
           (static_cast<unsigned char>(bytes[end]) >= 0x80 ||
            (end > i && static_cast<unsigned char>(bytes[end - 1]) >= 0x80))) {
      ++end;
    }
    out.append(bytes.substr(i, end - i));
    out += ' ';
    i = end - 1;
  }
  return out;
}

// Every run of high bytes is pairs of GB2312 (rows 1-9 symbols, 16-87 Han), and there is Han.
bool looks_gb2312(std::string_view bytes) {
  size_t han = 0;
  for (size_t i = 0; i < bytes.size();) {
    unsigned lead = static_cast<unsigned char>(bytes[i]);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    unsigned trail = i + 1 < bytes.size() ? static_cast<unsigned char>(bytes[i + 1]) : 0;
    if (trail < 0xA1 || trail > 0xFE) return false;
    if (lead >= 0xB0 && lead <= 0xF7) {
      ++han;
    } else if (lead < 0xA1 || lead > 0xA9) {
      return false;
    }
    i += 2;
  }
  return han >= 2;
}

std::string statistical_encoding(std::string_view bytes) {
  std::string stretches = high_stretches(bytes);
  std::unique_ptr<uchardet, void (*)(uchardet_t)> detector(uchardet_new(), uchardet_delete);
  std::string name;
  if (uchardet_handle_data(detector.get(), stretches.data(), stretches.size()) == 0) {
    uchardet_data_end(detector.get());
    name = uchardet_get_charset(detector.get());
  }
  if (name.rfind("GB", 0) == 0 || name == "HZ-GB-2312") return "GB18030";
  bool weak = name.empty() || name == "ASCII" || name.rfind("ISO-8859", 0) == 0 ||
              name.rfind("WINDOWS-", 0) == 0 || name.rfind("MAC-", 0) == 0 ||
              name.rfind("IBM", 0) == 0;
  // Less than some 16 bytes prove nothing about single-byte alphabets either, whatever the detector
  // says: a text in one of them has more.
  weak = weak || stretches.size() <= 16;
  if (weak && looks_gb2312(stretches)) return "GB18030";
  if (name.empty() || name == "ASCII") return "windows-1252";
  UErrorCode status = U_ZERO_ERROR;
  UConverter* probe = ucnv_open(name.c_str(), &status);
  if (U_FAILURE(status)) return "windows-1252";
  ucnv_close(probe);
  return name;
}

}  // namespace

void clean_append(std::string_view in, CleanText& out) {
  std::string& text = out.text;
  text.reserve(text.size() + in.size());
  for (size_t i = 0; i < in.size();) {
    size_t run = i;
    while (run < in.size() && kPlain[static_cast<unsigned char>(in[run])]) ++run;
    if (run > i) {
      text.append(in, i, run - i);
      i = run;
      continue;
    }
    unsigned char c = static_cast<unsigned char>(in[i]);
    if (c < 0x80) {
      if (c == '\r') {
        if (i + 1 < in.size() && in[i + 1] == '\n') ++i;
        text += '\n';
      } else if (c == '\f' || c == '\v') {
        text += '\n';
      } else if (c == '\b') {
        drop_last(text);
      } else if (c == 0x1B) {
        i += escape_length(in, i);
        continue;
      }
      ++i;
      continue;
    }
    Utf8Char u = utf8_decode(in, i);
    if (!u.valid) {
      utf8_append(text, kReplacement);
      ++out.replaced;
    } else if (is_hidden(u.code)) {
      // A mark at the very start is a signature, not hidden text.
      if (!(u.code == 0xFEFF && i == 0)) ++out.hidden;
    } else if (u.code == 0x2028 || u.code == 0x2029) {
      text += ' ';
    } else if (u.code != 0xAD && u.code >= 0xA0) {  // soft hyphens and C1 controls go
      text.append(in, i, u.size);
    }
    i += u.size;
  }
}

CleanText clean_utf8(std::string_view utf8) {
  CleanText out;
  clean_append(utf8, out);
  return out;
}

std::string detect_encoding(std::string_view bytes) {
  auto starts = [&](std::string_view mark) { return bytes.substr(0, mark.size()) == mark; };
  using namespace std::string_view_literals;
  if (starts("\xEF\xBB\xBF")) return "UTF-8";
  if (starts("\xFF\xFE\0\0"sv)) return "UTF-32LE";
  if (starts("\0\0\xFE\xFF"sv)) return "UTF-32BE";
  if (starts("\xFF\xFE")) return "UTF-16LE";
  if (starts("\xFE\xFF")) return "UTF-16BE";
  std::string_view head = bytes.substr(0, kSniff);
  if (head.find('\0') != std::string_view::npos) {
    // Text has a space, a line end or a digit somewhere; a few binary bytes may pass for Han alone.
    size_t little_ascii = 0, big_ascii = 0;
    double little = utf16_plausible(bytes, false, little_ascii);
    double big = utf16_plausible(bytes, true, big_ascii);
    if (little > 0.95 && little > big && little_ascii > 0) return "UTF-16LE";
    if (big > 0.95 && big > little && big_ascii > 0) return "UTF-16BE";
    return "";
  }
  size_t multibyte = 0, broken = 0;
  for (size_t i = 0; i < bytes.size();) {
    if (static_cast<unsigned char>(bytes[i]) < 0x80) {
      ++i;
      continue;
    }
    Utf8Char c = utf8_decode(bytes, i);
    ++(c.valid ? multibyte : broken);
    i += c.size;
  }
  if (broken == 0 || multibyte >= 8 * broken) return "UTF-8";
  return statistical_encoding(bytes);
}

std::string to_utf8(std::string_view bytes, const std::string& encoding, bool* known) {
  if (known) *known = true;
  std::string name = ascii_lower(encoding);
  if (name == "utf-8" || name == "utf8" || name == "us-ascii" || name == "ascii") {
    if (bytes.substr(0, 3) == "\xEF\xBB\xBF") bytes.remove_prefix(3);
    return std::string(bytes);  // repaired and counted by the cleaning
  }
  if (name == "gb2312" || name == "gbk" || name == "gb_2312-80") name = "gb18030";
  if (name == "iso-8859-1" || name == "latin1") name = "windows-1252";  // as browsers do
  UErrorCode status = U_ZERO_ERROR;
  std::unique_ptr<UConverter, void (*)(UConverter*)> from(ucnv_open(name.c_str(), &status),
                                                          ucnv_close);
  if (U_FAILURE(status)) {
    if (known) *known = false;
    return {};
  }
  std::unique_ptr<UConverter, void (*)(UConverter*)> to(ucnv_open("UTF-8", &status), ucnv_close);
  std::string out;
  std::array<UChar, 4096> middle;
  UChar* middle_read = middle.data();
  UChar* middle_write = middle.data();
  std::array<char, 16384> piece;
  const char* source = bytes.data();
  const char* source_end = source + bytes.size();
  for (bool first = true;; first = false) {
    char* target = piece.data();
    status = U_ZERO_ERROR;
    ucnv_convertEx(to.get(), from.get(), &target, piece.data() + piece.size(), &source, source_end,
                   middle.data(), &middle_read, &middle_write, middle.data() + middle.size(), first,
                   true, &status);
    out.append(piece.data(), static_cast<size_t>(target - piece.data()));
    if (status != U_BUFFER_OVERFLOW_ERROR) break;
  }
  if (out.compare(0, 3, "\xEF\xBB\xBF") == 0) out.erase(0, 3);
  return out;
}

int shorten_data(std::string& text) {
  int runs = 0;
  size_t kept = 0;  // bytes of the result so far
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && kDataLetter[static_cast<unsigned char>(text[end])]) ++end;
    const bool data = end - i >= kDataRun;
    const size_t count = data ? kDataShown : std::max<size_t>(end - i, 1);
    if (kept != i)
      std::copy_n(text.begin() + static_cast<ptrdiff_t>(i), count,
                  text.begin() + static_cast<ptrdiff_t>(kept));
    kept += count;
    i += std::max(end - i, count);
    if (data) {
      kEllipsis.copy(text.data() + kept, kEllipsis.size());
      kept += kEllipsis.size();
      ++runs;
    }
  }
  text.resize(kept);
  return runs;
}

DecodedText decode_text(std::string_view bytes) {
  DecodedText out;
  out.encoding = detect_encoding(bytes);
  if (out.encoding.empty()) {
    out.binary = true;
    return out;
  }
  if (out.encoding == "UTF-8") {
    if (bytes.substr(0, 3) == "\xEF\xBB\xBF") bytes.remove_prefix(3);
    clean_append(bytes, out.clean);
    return out;
  }
  clean_append(to_utf8(bytes, out.encoding), out.clean);
  // The converter has already put U+FFFD where it could not convert.
  for (size_t at = 0; (at = out.clean.text.find("\xEF\xBF\xBD", at)) != std::string::npos;
       at += 3) {
    ++out.clean.replaced;
  }
  return out;
}

}  // namespace apud
