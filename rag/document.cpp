#include "rag/document.h"

#include <algorithm>

namespace apud {

const char* load_status_name(LoadStatus status) {
  switch (status) {
    case LoadStatus::kOk:
      return "ok";
    case LoadStatus::kEmpty:
      return "empty";
    case LoadStatus::kNoText:
      return "no_text";
    case LoadStatus::kBadEncoding:
      return "bad_encoding";
    case LoadStatus::kBinary:
      return "binary";
    case LoadStatus::kTooLarge:
      return "too_large";
    case LoadStatus::kUnreadable:
      return "unreadable";
    case LoadStatus::kMalformed:
      return "malformed";
    case LoadStatus::kEncrypted:
      return "encrypted";
    case LoadStatus::kLimit:
      return "limit";
    case LoadStatus::kChanging:
      return "changing";
    case LoadStatus::kUnsupported:
      return "unsupported";
    case LoadStatus::kSecret:
      return "secret";
  }
  return "unknown";
}

Anchor anchor_at(std::string_view text, const std::vector<Anchor>& anchors, size_t offset) {
  auto next = std::upper_bound(anchors.begin(), anchors.end(), offset,
                               [](size_t value, const Anchor& a) { return value < a.offset; });
  Anchor out;
  if (next != anchors.begin()) out = *std::prev(next);
  if (out.line > 0) {
    size_t end = std::min(offset, text.size());
    out.line += static_cast<int>(std::count(text.begin() + static_cast<std::ptrdiff_t>(out.offset),
                                            text.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
  }
  out.offset = offset;
  return out;
}

}  // namespace apud
