// Normal forms follow Unicode Standard Annex 15 and, for Hangul, section 3.12 of the Standard.
#include "models/tokenizers/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <span>

#include "base/utf8.h"

namespace apud::unicode {
namespace {

struct Mapping {
  uint32_t code, first, count;
};
struct Composition {
  uint32_t first, second, composed;
};
#include "models/tokenizers/unicode_data.inc"

constexpr uint32_t kCodes = 0x110000;
constexpr uint32_t kBlock = 256;

/// Two-stage table: equal blocks are stored once (about 60 KB in all).
struct PropertyTable {
  std::array<uint16_t, kCodes / kBlock> block_of{};
  std::vector<std::array<uint8_t, kBlock>> blocks;

  PropertyTable() {
    size_t range = 0;
    std::array<uint8_t, kBlock> block;
    for (uint32_t b = 0; b < kCodes / kBlock; ++b) {
      for (uint32_t i = 0; i < kBlock; ++i) {
        uint32_t code = b * kBlock + i;
        while (range + 1 < std::size(kRanges) && (kRanges[range + 1] >> 8) <= code) ++range;
        block[i] = kRanges[range] & 0xFF;
      }
      // Runs of equal blocks are the common case; other repeats are found by a search of the few.
      auto found = std::find(blocks.rbegin(), blocks.rend(), block);
      if (found == blocks.rend()) {
        blocks.push_back(block);
        block_of[b] = static_cast<uint16_t>(blocks.size() - 1);
      } else {
        block_of[b] = static_cast<uint16_t>(blocks.rend() - found - 1);
      }
    }
  }
};

const PropertyTable& table() {
  static const PropertyTable instance;
  return instance;
}

template <size_t N>
std::span<const uint32_t> find_mapping(const Mapping (&list)[N], char32_t code) {
  auto at = std::lower_bound(std::begin(list), std::end(list), code,
                             [](const Mapping& m, char32_t c) { return m.code < c; });
  if (at == std::end(list) || at->code != code) return {};
  return {kPool + at->first, at->count};
}

uint8_t combining_class(char32_t code) {
  if (code < 0x300) return 0;
  auto at = std::lower_bound(std::begin(kCombining), std::end(kCombining), code << 8);
  return at != std::end(kCombining) && *at >> 8 == code ? *at & 0xFF : 0;
}

constexpr char32_t kHangulS = 0xAC00, kHangulL = 0x1100, kHangulV = 0x1161, kHangulT = 0x11A7;
constexpr uint32_t kHangulLCount = 19, kHangulVCount = 21, kHangulTCount = 28;
constexpr uint32_t kHangulSCount = kHangulLCount * kHangulVCount * kHangulTCount;

char32_t compose(char32_t first, char32_t second) {
  if (first >= kHangulL && first < kHangulL + kHangulLCount && second >= kHangulV &&
      second < kHangulV + kHangulVCount) {
    return kHangulS + ((first - kHangulL) * kHangulVCount + (second - kHangulV)) * kHangulTCount;
  }
  if (first >= kHangulS && first < kHangulS + kHangulSCount &&
      (first - kHangulS) % kHangulTCount == 0 && second > kHangulT &&
      second < kHangulT + kHangulTCount) {
    return first + (second - kHangulT);
  }
  auto at = std::lower_bound(std::begin(kCompositions), std::end(kCompositions),
                             std::pair<uint32_t, uint32_t>(first, second),
                             [](const Composition& c, const std::pair<uint32_t, uint32_t>& key) {
                               return std::pair(c.first, c.second) < key;
                             });
  if (at == std::end(kCompositions) || at->first != first || at->second != second) return 0;
  return at->composed;
}

/// A code point, or an ill-formed byte sequence carried through as it is.
struct Item {
  char32_t code;
  uint8_t combining;
  uint8_t raw_size;  // > 0: ill-formed bytes
  uint32_t raw_at;   // their place in the source
};

std::vector<Item> decompose(std::string_view text) {
  std::vector<Item> items;
  items.reserve(text.size());
  auto put = [&](char32_t code) { items.push_back({code, combining_class(code), 0, 0}); };
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    if (!c.valid) {
      items.push_back({kReplacement, 0, c.size, static_cast<uint32_t>(pos)});
    } else if (c.code < 0xC0) {
      items.push_back({c.code, 0, 0, 0});
    } else if (c.code >= kHangulS && c.code < kHangulS + kHangulSCount) {
      uint32_t s = c.code - kHangulS;
      put(kHangulL + s / (kHangulVCount * kHangulTCount));
      put(kHangulV + s % (kHangulVCount * kHangulTCount) / kHangulTCount);
      if (s % kHangulTCount) put(kHangulT + s % kHangulTCount);
    } else if (auto parts = find_mapping(kDecompositions, c.code); !parts.empty()) {
      for (uint32_t part : parts) put(part);
    } else {
      put(c.code);
    }
    pos += c.size;
  }
  // Canonical order: marks sorted by class within each run of non-starters.
  for (size_t i = 0; i < items.size();) {
    if (items[i].combining == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < items.size() && items[end].combining != 0) ++end;
    std::stable_sort(items.begin() + i, items.begin() + end,
                     [](const Item& a, const Item& b) { return a.combining < b.combining; });
    i = end;
  }
  return items;
}

std::string encode(const std::vector<Item>& items, std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const Item& item : items) {
    if (item.raw_size > 0) {
      out.append(text.substr(item.raw_at, item.raw_size));
    } else {
      utf8_append(out, item.code);
    }
  }
  return out;
}

}  // namespace

uint8_t properties(char32_t code) {
  static const PropertyTable& t = table();
  if (code >= kCodes) return 0;
  return t.blocks[t.block_of[code / kBlock]][code % kBlock];
}

void append_lower(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code);
    return;
  }
  auto mapped = find_mapping(kLower, code);
  if (mapped.empty()) utf8_append(out, code);
  for (uint32_t c : mapped) utf8_append(out, c);
}

void append_upper(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code >= 'a' && code <= 'z' ? code - 32 : code);
    return;
  }
  auto mapped = find_mapping(kUpper, code);
  if (mapped.empty()) utf8_append(out, code);
  for (uint32_t c : mapped) utf8_append(out, c);
}

bool is_nfc_quick(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    // Below U+0300 (lead byte 0xCC) nothing composes or decomposes under form C.
    if (static_cast<unsigned char>(text[pos]) < 0xCC) {
      ++pos;
      continue;
    }
    Utf8Char c = utf8_decode(text, pos);
    if (c.valid && has(c.code, kNfcCheck)) return false;
    pos += c.size;
  }
  return true;
}

std::string nfd(std::string_view text) { return encode(decompose(text), text); }

std::string nfc(std::string_view text) {
  std::vector<Item> items = decompose(text);
  size_t out = 0;  // items[0, out) is composed
  constexpr size_t kNone = SIZE_MAX;
  size_t starter = kNone;  // index of the last starter in the output
  for (size_t i = 0; i < items.size(); ++i) {
    Item item = items[i];
    // A mark is blocked by one of its own or a higher class between it and the starter.
    bool adjacent = starter != kNone && starter + 1 == out;
    bool blocked = starter == kNone || item.raw_size > 0 || items[starter].raw_size > 0 ||
                   (!adjacent && items[out - 1].combining >= item.combining);
    if (!blocked) {
      if (char32_t composed = compose(items[starter].code, item.code)) {
        items[starter].code = composed;
        continue;
      }
    }
    if (item.combining == 0) starter = out;
    items[out++] = item;
  }
  items.resize(out);
  return encode(items, text);
}

}  // namespace apud::unicode
