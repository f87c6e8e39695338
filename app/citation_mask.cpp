#include "app/citation_mask.h"

#include <algorithm>

namespace apud {
namespace {

constexpr size_t kMaxMark = 48;  // bytes of "[12, 3, 45]": as rag/citations reads them

bool in_mark(char c) {
  return (c >= '0' && c <= '9') || c == ',' || c == ';' || c == ' ' || c == '-';
}

/// The unfinished mark at the end of `text`, from its bracket on; empty: none.
std::string_view open_mark(std::string_view text) {
  size_t at = text.size();
  while (at > 0 && text.size() - at < kMaxMark && in_mark(text[at - 1])) --at;
  return at > 0 && text[at - 1] == '[' ? text.substr(at - 1) : std::string_view();
}

bool inside_code(std::string_view text) {
  return std::count(text.begin(), text.end(), '`') % 2 != 0;
}

/// A letter or digit, of any script: something that a mark can stand behind.
bool has_word(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) {
    return c >= 0x80 || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
  });
}

/// Does `text` hold a bracket behind which a mark may follow?
bool opens_mark(std::string_view text) {
  for (size_t at = text.find('['); at != std::string_view::npos; at = text.find('[', at + 1)) {
    if (at + 1 == text.size() || in_mark(text[at + 1])) return true;
  }
  return false;
}

}  // namespace

CitationMask::CitationMask(std::vector<std::string> vocabulary, std::vector<int> ids)
    : vocabulary_(std::move(vocabulary)), ids_(std::move(ids)) {
  std::sort(ids_.begin(), ids_.end());
  for (size_t t = 0; t < vocabulary_.size(); ++t) {
    const std::string& bytes = vocabulary_[t];
    if (bytes.empty()) continue;
    if (in_mark(bytes[0]) || bytes[0] == ']' || bytes.find('[') != std::string::npos)
      suspects_.push_back(static_cast<int32_t>(t));
  }
  first_.assign((vocabulary_.size() + 63) / 64, ~uint64_t{0});
  for (int32_t token : suspects_) {
    if (opens_mark(vocabulary_[static_cast<size_t>(token)]))
      first_[static_cast<size_t>(token) / 64] &= ~(uint64_t{1} << (token % 64));
  }
}

bool CitationMask::known(int64_t id) const {
  return std::binary_search(ids_.begin(), ids_.end(), id);
}

bool CitationMask::prefix_of_known(std::string_view digits) const {
  return std::any_of(ids_.begin(), ids_.end(),
                     [&](int id) { return std::to_string(id).starts_with(digits); });
}

bool CitationMask::possible(std::string_view text) const {
  for (size_t open = text.find('['); open != std::string_view::npos;
       open = text.find('[', open + 1)) {
    // Ids of this bracket, until it closes, ends or turns out to be no mark.
    bool good = true, any = false;
    size_t i = open + 1;
    while (i < text.size() && in_mark(text[i])) {
      size_t begin = i;
      while (i < text.size() && text[i] >= '0' && text[i] <= '9') ++i;
      if (i == begin) {
        ++i;
        continue;
      }
      std::string_view digits = text.substr(begin, i - begin);
      any = true;
      bool whole = i < text.size();
      bool fits = whole ? digits.size() < 9 && known(std::stoll(std::string(digits)))
                        : prefix_of_known(digits);
      good = good && fits;
    }
    bool ends_open = i == text.size();
    bool closed = i < text.size() && text[i] == ']';
    if (any && !good && (ends_open || closed)) return false;
  }
  return true;
}

std::span<const uint64_t> CitationMask::allowed(std::string_view answer) {
  if (inside_code(answer)) return {};
  if (!has_word(answer)) return first_;
  std::string_view open = open_mark(answer);
  auto at = masks_.find(open);
  if (at == masks_.end()) {
    std::vector<uint64_t> mask((vocabulary_.size() + 63) / 64, ~uint64_t{0});
    for (int32_t token : suspects_) {
      std::string text(open);
      text += vocabulary_[static_cast<size_t>(token)];
      if (!possible(text)) mask[static_cast<size_t>(token) / 64] &= ~(uint64_t{1} << (token % 64));
    }
    at = masks_.emplace(open, std::move(mask)).first;
  }
  return at->second;
}

}  // namespace apud
