// The best segmentation by a single pass over the text (Kudo, "Subword Regularization", 2018), in
// the library's form and with its rounding, since equal ids on ties depend on it.
#include "models/tokenizers/sentencepiece_unigram.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cstring>

#include "base/utf8.h"

namespace apud {
namespace {

constexpr float kUnknownPenalty = 10.0f;
constexpr size_t kFewChildren = 8;  // of a node: compared one by one

/// Bytes of a character by its first byte alone, as in the library.
size_t char_size(char first) {
  static constexpr uint8_t kSizes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4};
  return kSizes[static_cast<uint8_t>(first) >> 4];
}

}  // namespace

void PieceTrie::build(const std::vector<std::pair<std::string_view, int32_t>>& pieces) {
  // Sorting compares the first sixteen bytes as numbers, then the rest; the sorted bytes stand in a
  // row, so that the pass over them by levels below reads memory in order.
  struct Key {
    std::array<uint64_t, 2> head;
    uint32_t piece;
  };
  std::vector<Key> keys(pieces.size());
  size_t total = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::string_view text = pieces[i].first;
    std::array<uint64_t, 2> head{};
    for (size_t b = 0; b < std::min<size_t>(text.size(), 16); ++b)
      head[b / 8] |= uint64_t{static_cast<uint8_t>(text[b])} << (56 - 8 * (b % 8));
    keys[i] = {head, static_cast<uint32_t>(i)};
    total += text.size();
  }
  std::sort(keys.begin(), keys.end(), [&](const Key& a, const Key& b) {
    if (a.head != b.head) return a.head < b.head;
    return pieces[a.piece].first < pieces[b.piece].first;
  });
  std::string bytes;
  bytes.reserve(total);
  std::vector<uint32_t> starts;
  starts.reserve(pieces.size() + 1);
  for (const Key& key : keys) {
    starts.push_back(static_cast<uint32_t>(bytes.size()));
    bytes += pieces[key.piece].first;
  }
  starts.push_back(static_cast<uint32_t>(bytes.size()));
  struct Range {
    uint32_t begin, end, depth;
  };
  // At most as many nodes as bytes: growing would move more memory than it saves.
  std::vector<Range> ranges;
  ranges.reserve(total + 1);
  labels_.reserve(total + 1);
  nodes_.reserve(total + 2);
  ranges.push_back({0, static_cast<uint32_t>(pieces.size()), 0});
  labels_.push_back(0);
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    bool ends_here = begin < end && starts[begin + 1] - starts[begin] == depth;
    const auto first = static_cast<uint32_t>(ranges.size());
    nodes_.push_back({first, ends_here ? pieces[keys[begin++].piece].second : -1, -1});
    while (begin < end) {
      char byte = bytes[starts[begin] + depth];
      uint32_t stop = begin + 1;
      while (stop < end && bytes[starts[stop] + depth] == byte) ++stop;
      ranges.push_back({begin, stop, depth + 1});
      labels_.push_back(static_cast<uint8_t>(byte));
      begin = stop;
    }
    const size_t children = ranges.size() - first;
    if (children <= kFewChildren) continue;
    nodes_[node].jumps = static_cast<int32_t>(jumps_.size() / 256);
    jumps_.resize(jumps_.size() + 256, 0);
    for (size_t child = 0; child < children; ++child)
      jumps_[jumps_.size() - 256 + labels_[first + child]] = static_cast<uint8_t>(child);
  }
  nodes_.push_back({static_cast<uint32_t>(ranges.size()), -1, -1});
  labels_.shrink_to_fit();
  nodes_.shrink_to_fit();
}

bool SentencePieceUnigram::fits(const SentencePieceModel& model) {
  return model.algorithm == SentencePieceModel::kUnigram &&
         std::none_of(model.pieces.begin(), model.pieces.end(),
                      [](const auto& piece) { return piece.kind == TokenKind::kUserDefined; });
}

SentencePieceUnigram::SentencePieceUnigram(const SentencePieceModel& model)
    : byte_fallback_(model.byte_fallback),
      dummy_prefix_(model.add_dummy_prefix),
      remove_extra_whitespaces_(model.remove_extra_whitespaces),
      escape_whitespaces_(model.escape_whitespaces) {
  byte_ids_.fill(-1);
  std::vector<std::pair<std::string_view, int32_t>> found_in_text;
  float least = FLT_MAX;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    int32_t id = static_cast<int32_t>(i);
    scores_.push_back(piece.score);
    if (piece.kind == TokenKind::kUnknown) unknown_ = id;
    if (piece.kind == TokenKind::kByte) byte_ids_[byte_of_piece(piece.text)] = id;
    if (piece.kind == TokenKind::kNormal) least = std::min(least, piece.score);
    if (piece.kind == TokenKind::kNormal) found_in_text.emplace_back(piece.text, id);
  }
  unknown_score_ = least - kUnknownPenalty;
  trie_.build(found_in_text);
  if (!model.charsmap.empty()) {
    uint32_t size;
    std::memcpy(&size, model.charsmap.data(), 4);
    rules_.resize(size / 4);
    std::memcpy(rules_.data(), model.charsmap.data() + 4, size);
    replacements_ = model.charsmap.substr(4 + size);
  }
  // A rule for "é" written as two characters may begin with a plain "e": such an "e" is not plain.
  plain_.fill(false);
  for (unsigned byte = 0; byte < 0x80; ++byte) {
    size_t at = rules_.empty() ? 0 : rule_children(0) ^ byte;
    plain_[byte] = byte != ' ' && (rules_.empty() || (rules_[at] & 0x800000FFu) != byte);
  }
}

size_t SentencePieceUnigram::rule_children(size_t at) const {
  return at ^ (static_cast<size_t>(rules_[at] >> 10) << ((rules_[at] & (1u << 9)) >> 6));
}

std::pair<std::string_view, size_t> SentencePieceUnigram::normalize_prefix(
    std::string_view text) const {
  size_t longest = 0;
  const char* replacement = nullptr;
  if (!rules_.empty()) {
    size_t at = rule_children(0);
    for (size_t i = 0; i < text.size(); ++i) {
      uint8_t byte = static_cast<uint8_t>(text[i]);
      at ^= byte;
      if ((rules_[at] & 0x800000FFu) != byte) break;
      bool rule_ends = (rules_[at] >> 8 & 1) != 0;
      at = rule_children(at);
      if (rule_ends) {
        longest = i + 1;
        replacement = replacements_.c_str() + (rules_[at] & 0x7FFFFFFFu);
      }
    }
  }
  if (longest > 0) return {replacement, longest};
  Utf8Char c = utf8_decode(text, 0);
  if (!c.valid) return {"\xEF\xBF\xBD", 1};
  return {text.substr(0, c.size), c.size};
}

std::string SentencePieceUnigram::normalize(std::string_view text) const {
  std::string out;
  if (remove_extra_whitespaces_) {
    while (!text.empty()) {
      auto [becomes, size] = normalize_prefix(text);
      if (becomes != " ") break;
      text.remove_prefix(size);
    }
  }
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 4 + 3);
  std::string_view space = escape_whitespaces_ ? kPieceSpace : std::string_view(" ");
  if (dummy_prefix_) out += space;
  bool after_space = remove_extra_whitespaces_;
  while (!text.empty()) {
    size_t plain = 0;
    while (plain < text.size() && plain_[static_cast<uint8_t>(text[plain])]) ++plain;
    if (plain > 0) {
      out += text.substr(0, plain);
      text.remove_prefix(plain);
      after_space = false;
      continue;
    }
    auto [becomes, size] = normalize_prefix(text);
    text.remove_prefix(size);
    while (after_space && becomes.starts_with(' ')) becomes.remove_prefix(1);
    if (!becomes.empty()) {
      for (char c : becomes) {
        if (c == ' ') {
          out += space;
        } else {
          out += c;
        }
      }
      after_space = becomes.back() == ' ';
    }
    if (!remove_extra_whitespaces_) after_space = false;
  }
  if (remove_extra_whitespaces_) {
    while (out.ends_with(space)) out.resize(out.size() - space.size());
  }
  return out;
}

void SentencePieceUnigram::encode(std::string_view text, std::vector<int32_t>& ids) const {
  const std::string normal = normalize(text.substr(0, kLongestText));
  // The best way to each position: the last piece of it and where that begins.
  struct Best {
    float score = 0;
    int32_t begin = -1;
    int32_t id = -1;
  };
  std::vector<Best> best(normal.size() + 1);
  auto offer = [&](size_t end, auto score, size_t begin, int32_t id) {
    if (best[end].begin < 0 || score > best[end].score)
      best[end] = {static_cast<float>(score), static_cast<int32_t>(begin), id};
  };
  for (size_t begin = 0; begin < normal.size();) {
    float so_far = best[begin].score;
    size_t one = std::min(char_size(normal[begin]), normal.size() - begin);
    bool one_is_known = false;
    uint32_t node = PieceTrie::kRoot;
    for (size_t end = begin; end < normal.size();) {
      node = trie_.child(node, static_cast<uint8_t>(normal[end++]));
      if (node == PieceTrie::kNone) break;
      int32_t id = trie_.value(node);
      if (id < 0) continue;
      // In double, as the library compares it.
      offer(end, static_cast<double>(scores_[static_cast<size_t>(id)]) + so_far, begin, id);
      one_is_known |= end - begin == one;
    }
    if (!one_is_known) offer(begin + one, unknown_score_ + so_far, begin, unknown_);
    begin += one;
  }
  size_t first = ids.size();
  for (size_t end = normal.size(); end > 0;) {
    const Best& piece = best[end];
    size_t begin = static_cast<size_t>(piece.begin);
    if (piece.id != unknown_) {
      ids.push_back(piece.id);
    } else if (byte_fallback_) {
      for (size_t i = end; i > begin; --i)
        ids.push_back(byte_ids_[static_cast<uint8_t>(normal[i - 1])]);
    } else if (ids.size() == first || ids.back() != unknown_) {
      ids.push_back(unknown_);  // a run of unknown characters is one
    }
    end = begin;
  }
  std::reverse(ids.begin() + static_cast<ptrdiff_t>(first), ids.end());
}

}  // namespace apud
