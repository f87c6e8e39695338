// BPE after Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016),
// in the form of Kudo and Richardson, "SentencePiece" (2018): of all neighbours that together are a
// piece, those with the highest score merge first, the leftmost among equals.
#include "models/tokenizers/sentencepiece_bpe.h"

#include <algorithm>
#include <bit>
#include <random>
#include <unordered_map>

#include "base/error.h"
#include "base/hash.h"
#include "base/utf8.h"
#include "models/tokenizers/merge_queue.h"

namespace apud {
namespace {

constexpr size_t kLongestUserDefined = 512;

}  // namespace

bool SentencePieceBpe::fits(const SentencePieceModel& model) {
  return model.algorithm == SentencePieceModel::kBpe && model.charsmap.empty() &&
         !model.remove_extra_whitespaces && model.escape_whitespaces;
}

SentencePieceBpe::SentencePieceBpe(const SentencePieceModel& model, const std::string& file)
    : byte_fallback_(model.byte_fallback), dummy_prefix_(model.add_dummy_prefix) {
  size_t count = model.pieces.size();
  std::random_device random;
  seed_ = static_cast<uint64_t>(random()) << 32 | random();
  slots_.assign(std::bit_ceil(count * 2), -1);
  unused_.resize(count);
  begin_.reserve(count + 1);
  byte_ids_.fill(-1);
  std::vector<float> scores;
  scores.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const auto& piece = model.pieces[i];
    int32_t id = static_cast<int32_t>(i);
    begin_.push_back(text_.size());
    text_ += piece.text;
    scores.push_back(piece.score);
    switch (piece.kind) {
      case TokenKind::kControl:
        continue;
      case TokenKind::kUnknown:
        unknown_ = id;
        continue;
      case TokenKind::kByte:
        byte_ids_[byte_of_piece(piece.text)] = id;
        continue;
      case TokenKind::kUserDefined:
        if (piece.text.size() > kLongestUserDefined) {
          throw Error(ErrorKind::kBadData, file + ": piece " + std::to_string(i) +
                                               ": user-defined and of more than 512 bytes");
        }
        user_.push_back(id);
        break;
      default:
        unused_[i] = piece.kind == TokenKind::kUnused;
    }
    longest_ = std::max(longest_, piece.text.size());
    size_t slot = xxh3_64(piece.text, seed_) & (slots_.size() - 1);
    while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = id;
  }
  begin_.push_back(text_.size());

  std::vector<float> order = scores;
  std::sort(order.begin(), order.end(), std::greater<>());
  order.erase(std::unique(order.begin(), order.end()), order.end());
  for (float score : scores) {
    auto at = std::lower_bound(order.begin(), order.end(), score, std::greater<>());
    ranks_.push_back(static_cast<uint32_t>(at - order.begin()));
  }
  std::sort(user_.begin(), user_.end(), [&](int32_t a, int32_t b) { return piece(a) < piece(b); });
  for (int32_t id : user_) ++user_begin_[static_cast<unsigned char>(piece(id)[0]) + 1];
  for (size_t i = 1; i < user_begin_.size(); ++i) user_begin_[i] += user_begin_[i - 1];
}

int32_t SentencePieceBpe::find(std::string_view wanted) const {
  if (wanted.size() > longest_) return -1;
  for (size_t slot = xxh3_64(wanted, seed_);; ++slot) {
    int32_t id = slots_[slot & (slots_.size() - 1)];
    if (id < 0 || piece(id) == wanted) return id;
  }
}

size_t SentencePieceBpe::user_defined(std::string_view text) const {
  unsigned char first = static_cast<unsigned char>(text[0]);
  // The pieces that agree with the text so far; a piece stands before those that go on from it.
  auto from = user_.begin() + user_begin_[first], to = user_.begin() + user_begin_[first + 1];
  size_t found = 0;
  for (size_t size = 1; from != to; ++size) {
    if (piece(*from).size() == size) {
      found = size;
      ++from;
    }
    if (size == text.size()) break;
    unsigned char next = static_cast<unsigned char>(text[size]);
    auto at = [&](int32_t id) { return static_cast<unsigned char>(piece(id)[size]); };
    from =
        std::lower_bound(from, to, next, [&](int32_t id, unsigned char b) { return at(id) < b; });
    to = std::upper_bound(from, to, next, [&](unsigned char b, int32_t id) { return b < at(id); });
  }
  return found;
}

std::string SentencePieceBpe::normalize(std::string_view text) const {
  std::string out;
  out.reserve(text.size() + text.size() / 2 + 3);
  if (dummy_prefix_) out += kPieceSpace;
  for (size_t pos = 0; pos < text.size();) {
    unsigned char byte = static_cast<unsigned char>(text[pos]);
    if (byte == ' ') {
      out += kPieceSpace;
      ++pos;
    } else if (byte < 0x80) {
      out += text[pos++];
    } else {
      Utf8Char c = utf8_decode(text, pos);
      if (c.valid) {
        out += text.substr(pos, c.size);
      } else {
        utf8_append(out, kReplacement);
      }
      pos += c.valid ? c.size : 1;
    }
  }
  return out;
}

void SentencePieceBpe::encode(std::string_view text, std::vector<int32_t>& ids) const {
  if (text.empty()) return;
  std::string normal = normalize(text);
  std::string_view rest = normal;
  while (rest.size() > kLongestText) {
    size_t cut = kLongestText;
    while ((rest[cut] & 0xC0) == 0x80) --cut;
    encode_normal(rest.substr(0, cut), ids);
    rest.remove_prefix(cut);
  }
  encode_normal(rest, ids);
}

namespace {

constexpr uint32_t kEnd = UINT32_MAX;

struct Symbol {
  uint32_t begin, end;      // bytes; equal: merged into its left neighbour
  uint32_t previous, next;  // symbols
  int32_t joined;           // piece that it is together with the next symbol, or -1
  bool frozen;              // a user-defined piece found in the text: never merged
};

}  // namespace

void SentencePieceBpe::encode_normal(std::string_view text, std::vector<int32_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(text.size() / 2);
  for (uint32_t begin = 0; begin < text.size();) {
    size_t user = user_defined(text.substr(begin));
    size_t size = user > 0 ? user : utf8_decode(text, begin).size;
    uint32_t end = begin + static_cast<uint32_t>(size), i = static_cast<uint32_t>(symbols.size());
    symbols.push_back({begin, end, i == 0 ? kEnd : i - 1, i + 1, -1, user > 0});
    begin = end;
  }
  symbols.back().next = kEnd;

  MergeQueue queue;
  // Where an unused piece was joined, to be taken apart again at the end.
  std::unordered_map<int32_t, uint32_t> seams;
  auto offer = [&](uint32_t at) {
    Symbol& left = symbols[at];
    left.joined = -1;
    if (left.next == kEnd || left.frozen || symbols[left.next].frozen) return;
    left.joined = find(text.substr(left.begin, symbols[left.next].end - left.begin));
    if (left.joined < 0) return;
    queue.push(ranks_[left.joined], at);
    if (unused_[left.joined]) seams[left.joined] = left.end - left.begin;
  };
  for (uint32_t i = 0; i < symbols.size(); ++i) offer(i);
  uint32_t rank, at;
  while (queue.pop(rank, at)) {
    Symbol& left = symbols[at];
    // One of the two may have been merged otherwise since.
    if (left.begin == left.end || left.joined < 0 || ranks_[left.joined] != rank) continue;
    Symbol& right = symbols[left.next];
    left.end = right.end;
    left.next = right.next;
    right.begin = right.end;
    if (left.next != kEnd) symbols[left.next].previous = at;
    if (left.previous != kEnd) offer(left.previous);
    offer(at);
  }

  bool after_unknown = false;
  auto emit = [&](std::string_view part, int32_t id) {
    if (id >= 0) {
      ids.push_back(id);
    } else if (byte_fallback_) {
      for (char c : part) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    } else if (!after_unknown) {
      ids.push_back(unknown_);  // one for a run
    }
    after_unknown = id < 0;
  };
  std::vector<std::string_view> parts;
  for (uint32_t i = 0; i != kEnd; i = symbols[i].next) {
    parts.push_back(text.substr(symbols[i].begin, symbols[i].end - symbols[i].begin));
    while (!parts.empty()) {
      std::string_view part = parts.back();
      parts.pop_back();
      int32_t id = find(part);
      auto seam = id >= 0 && unused_[id] ? seams.find(id) : seams.end();
      if (seam == seams.end()) {
        emit(part, id);
      } else {
        parts.push_back(part.substr(seam->second));
        parts.push_back(part.substr(0, seam->second));
      }
    }
  }
}

}  // namespace apud
