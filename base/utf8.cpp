#include "base/utf8.h"

#include <cstdio>

namespace apud {

Utf8Char utf8_decode(std::string_view text, size_t pos) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  unsigned char lead = byte(pos);
  if (lead < 0x80) return {lead, 1, true};
  int need;
  unsigned char low = 0x80, high = 0xBF;  // range of the second byte
  char32_t code;
  if (lead >= 0xC2 && lead <= 0xDF) {
    need = 1;
    code = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    need = 2;
    code = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    need = 3;
    code = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {kReplacement, 1, false};
  }
  uint8_t size = 1;
  for (int i = 0; i < need; ++i) {
    if (pos + size >= text.size()) return {kReplacement, size, false};
    unsigned char next = byte(pos + size);
    if (next < low || next > high) return {kReplacement, size, false};
    low = 0x80;
    high = 0xBF;
    code = (code << 6) | (next & 0x3F);
    ++size;
  }
  return {code, size, true};
}

void utf8_append(std::string& out, char32_t code) {
  if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) code = kReplacement;
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

std::string utf8_repair(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    if (c.valid) {
      out.append(text.substr(pos, c.size));
    } else {
      utf8_append(out, kReplacement);
    }
    pos += c.size;
  }
  return out;
}

bool utf8_valid(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    if (!c.valid) return false;
    pos += c.size;
  }
  return true;
}

size_t utf8_incomplete_tail(std::string_view text) {
  // Look back over at most three bytes for a lead byte whose sequence runs past the end.
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    unsigned char b = static_cast<unsigned char>(text[text.size() - back]);
    if (b >= 0x80 && b < 0xC0) continue;  // continuation: look further back
    size_t need = b >= 0xF0 && b <= 0xF4  ? 4
                  : b >= 0xE0 && b < 0xF0 ? 3
                  : b >= 0xC2 && b < 0xE0 ? 2
                                          : 1;
    if (need <= back) return 0;
    // Only a well-formed prefix waits; anything else is ill-formed already.
    Utf8Char c = utf8_decode(text, text.size() - back);
    return !c.valid && c.size == back ? back : 0;
  }
  return 0;
}

std::string Utf8Stream::push(std::string_view bytes) {
  pending_.append(bytes);
  size_t tail = utf8_incomplete_tail(pending_);
  std::string out = utf8_repair(std::string_view(pending_).substr(0, pending_.size() - tail));
  pending_.erase(0, pending_.size() - tail);
  return out;
}

std::string Utf8Stream::finish() {
  std::string out = utf8_repair(pending_);
  pending_.clear();
  return out;
}

namespace {
bool is_unsafe(char32_t c) {
  if (c < 0x20 || c == 0x7F || (c >= 0x80 && c < 0xA0)) return true;
  if (c == 0x061C || c == 0x200E || c == 0x200F) return true;  // Arabic letter mark, LRM, RLM
  if (c >= 0x202A && c <= 0x202E) return true;                 // bidi embeddings and overrides
  if (c >= 0x2066 && c <= 0x2069) return true;                 // bidi isolates
  if (c >= 0xE0000 && c <= 0xE007F) return true;               // tag characters
  return c == 0x2028 || c == 0x2029;                           // line and paragraph separators
}
}  // namespace

std::string printable(std::string_view text, bool one_line) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    if (!c.valid) {
      utf8_append(out, kReplacement);
    } else if (!one_line && (c.code == '\n' || c.code == '\t')) {
      out += static_cast<char>(c.code);
    } else if (is_unsafe(c.code)) {
      char buffer[16];
      if (c.code == '\n') {
        std::snprintf(buffer, sizeof buffer, "\\n");
      } else if (c.code == '\t') {
        std::snprintf(buffer, sizeof buffer, "\\t");
      } else if (c.code < 0x100) {
        std::snprintf(buffer, sizeof buffer, "\\x%02x", static_cast<unsigned>(c.code));
      } else {
        std::snprintf(buffer, sizeof buffer, "<U+%04X>", static_cast<unsigned>(c.code));
      }
      out += buffer;
    } else {
      out.append(text.substr(pos, c.size));
    }
    pos += c.size;
  }
  return out;
}

bool is_cjk(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x3040 && c <= 0x30FF) || (c >= 0xAC00 && c <= 0xD7AF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x20000 && c <= 0x323AF) || c == 0x3005 ||
         c == 0x3007 || (c >= 0x31F0 && c <= 0x31FF) || (c >= 0x1100 && c <= 0x11FF);
}

int display_width(char32_t c) {
  if (c == 0 || (c >= 0x300 && c <= 0x36F) || (c >= 0x200B && c <= 0x200F) ||
      (c >= 0xFE00 && c <= 0xFE0F) || (c >= 0x20D0 && c <= 0x20FF)) {
    return 0;
  }
  if ((c >= 0x1100 && c <= 0x115F) || (c >= 0x2E80 && c <= 0x303E) ||
      (c >= 0x3041 && c <= 0xA4CF) || (c >= 0xAC00 && c <= 0xD7A3) ||
      (c >= 0xF900 && c <= 0xFAFF) || (c >= 0xFE30 && c <= 0xFE6F) ||
      (c >= 0xFF00 && c <= 0xFF60) || (c >= 0xFFE0 && c <= 0xFFE6) ||
      (c >= 0x1F300 && c <= 0x1FAFF) || (c >= 0x20000 && c <= 0x3FFFD)) {
    return 2;
  }
  return 1;
}

int display_width(std::string_view text) {
  int width = 0;
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    width += display_width(c.code);
    pos += c.size;
  }
  return width;
}

bool holds_cjk(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    if (is_cjk(c.code)) return true;
    pos += c.size;
  }
  return false;
}

}  // namespace apud
