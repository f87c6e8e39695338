// Byte-level BPE after Radford et al., "Language Models are Unsupervised Multitask Learners" (2019)
// and Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016).
#include "models/tokenizers/bpe.h"

#include <algorithm>
#include <bit>
#include <random>

#include "base/error.h"
#include "base/hash.h"
#include "base/utf8.h"
#include "models/tokenizers/merge_queue.h"
#include "models/tokenizers/text_table.h"
#include "models/tokenizers/unicode.h"

namespace apud {
namespace {

/// Pieces up to this many symbols are merged by scanning: fewer steps than any queue.
constexpr size_t kShortPiece = 32;
constexpr size_t kLongestPiece = UINT32_MAX - 1;

char32_t visible_code(uint8_t byte) {
  // Printable Latin-1 stands for itself, the rest follows from U+0100 on in order.
  auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  if (printable(byte)) return byte;
  char32_t next = 0x100;
  for (int b = 0; b < byte; ++b) next += printable(b) ? 0 : 1;
  return next;
}

struct VisibleAlphabet {
  std::array<int16_t, 0x144> byte_of;  // by code point, -1 outside
  VisibleAlphabet() {
    byte_of.fill(-1);
    for (int b = 0; b < 256; ++b)
      byte_of[visible_code(static_cast<uint8_t>(b))] = static_cast<int16_t>(b);
  }
};

/// Bytes that a vocabulary trained on clean text may never have seen (SmolLM lacks 21 of them):
/// most controls, and rare or impossible lead bytes of UTF-8.
bool may_lack(int byte) {
  bool control = byte < 0x20 && byte != '\n' && byte != '\t';
  return control || byte == 0x7F || byte == 0xC0 || byte == 0xC1 || byte >= 0xF1;
}

}  // namespace

std::string visible_of_byte(uint8_t byte) {
  std::string out;
  utf8_append(out, visible_code(byte));
  return out;
}

std::string bytes_of_visible(std::string_view token) {
  static const VisibleAlphabet alphabet;
  std::string out;
  out.reserve(token.size());
  for (size_t pos = 0; pos < token.size();) {
    Utf8Char c = utf8_decode(token, pos);
    int byte = c.valid && c.code < alphabet.byte_of.size() ? alphabet.byte_of[c.code] : -1;
    if (byte < 0) return std::string(token);
    out += static_cast<char>(byte);
    pos += c.size;
  }
  return out;
}

MergeTable::MergeTable(size_t count) {
  std::random_device random;
  seed_ = static_cast<uint64_t>(random()) << 32 | random();
  size_t size = std::bit_ceil(std::max<size_t>(16, count * 2));
  mask_ = size - 1;
  slots_.resize(size);
}

uint64_t MergeTable::hash(uint64_t key) const {
  uint64_t x = (key ^ seed_) * 0x9E3779B97F4A7C15ull;
  x ^= x >> 32;
  return x * 0xD6E8FEB86659FD93ull >> 20;
}

void MergeTable::add(int32_t left, int32_t right, Merge merge) {
  uint64_t key =
      static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  size_t i = hash(key) & mask_;
  while (slots_[i].merge.rank != kNone && slots_[i].key != key) i = (i + 1) & mask_;
  slots_[i] = {key, merge};
}

BpeTokenizer::BpeTokenizer(BpeSource source)
    : TokenizerBase(std::move(source.roles), source.file),
      pretokenizer_(source.pretokenizer),
      nfc_(source.nfc),
      merges_(source.merges.size()) {
  auto bad = [&](const std::string& what) {
    return Error(ErrorKind::kBadData, source.file + ": " + what);
  };
  // Of equal tokens the first one is meant; added tokens are not spelled in the visible alphabet.
  TextTable ids(source.tokens.size());
  bytes_.reserve(source.tokens.size());
  Sha256 hash;
  hash.update("bpe\n");
  for (size_t i = 0; i < source.tokens.size(); ++i) {
    const std::string& token = source.tokens[i];
    bool plain = source.kinds[i] == TokenKind::kNormal;
    if (plain) ids.insert(token, static_cast<int32_t>(i));
    bytes_.push_back(plain ? bytes_of_visible(token) : token);
    hash.update(token);
    hash.update(std::string(1, static_cast<char>(source.kinds[i])) + '\n');
  }
  for (int b = 0; b < 256; ++b) {
    int32_t found = ids.find(visible_of_byte(static_cast<uint8_t>(b)));
    if (found < 0 && !may_lack(b)) {
      throw bad("the vocabulary has no token for byte " + std::to_string(b) +
                ", expected all that text is made of");
    }
    byte_ids_[b] = found;
    all_bytes_ = all_bytes_ && found >= 0;
  }
  std::string joined;
  for (size_t rank = 0; rank < source.merges.size(); ++rank) {
    const auto& [left, right] = source.merges[rank];
    joined = left;
    joined += right;
    int32_t l = ids.find(left), r = ids.find(right), whole = ids.find(joined);
    if (l < 0 || r < 0 || whole < 0) {
      const std::string& missing = l < 0 ? left : r < 0 ? right : joined;
      throw bad("merge " + std::to_string(rank) + " needs '" + missing +
                "', which the vocabulary lacks");
    }
    merges_.add(l, r, {static_cast<uint32_t>(rank), whole});
    hash.update(joined);
    hash.update(" " + std::to_string(left.size()) + "\n");
  }
  if (source.ignore_merges) {
    for (size_t i = 0; i < bytes_.size(); ++i) {
      if (source.kinds[i] == TokenKind::kNormal) whole_.push_back(static_cast<int32_t>(i));
    }
    std::stable_sort(whole_.begin(), whole_.end(),
                     [&](int32_t a, int32_t b) { return bytes_[a] < bytes_[b]; });
  }
  hash.update(kind() + (nfc_ ? " nfc" : "") + (source.ignore_merges ? " whole" : ""));
  fingerprint_ = hash.finish_hex();
}

std::string BpeTokenizer::kind() const {
  return std::string("bpe:") + pretokenizer_name(pretokenizer_);
}

std::string BpeTokenizer::decode_token(int32_t id, bool special) const {
  if (id < 0 || static_cast<size_t>(id) >= bytes_.size()) return {};
  if (!special && is_control(id)) return {};
  return bytes_[id];
}

void BpeTokenizer::encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
  std::string normal;
  if (nfc_ && !unicode::is_nfc_quick(text)) {
    normal = unicode::nfc(text);
    text = normal;
  }
  size_t begin = 0;
  for (size_t end : pretokenize(pretokenizer_, text)) {
    encode_piece(text.substr(begin, end - begin), ids);
    begin = end;
  }
}

void BpeTokenizer::encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  std::string known;
  if (!all_bytes_) {
    auto unknown = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)] < 0; };
    if (std::any_of(piece.begin(), piece.end(), unknown)) {
      known.assign(piece);
      known.erase(std::remove_if(known.begin(), known.end(), unknown), known.end());
      if (known.empty()) return;
      piece = known;
    }
  }
  if (!whole_.empty()) {
    auto found = std::lower_bound(whole_.begin(), whole_.end(), piece,
                                  [&](int32_t id, std::string_view p) { return bytes_[id] < p; });
    if (found != whole_.end() && bytes_[*found] == piece) {
      ids.push_back(*found);
      return;
    }
  }
  // Positions in merge_long are 32 bits wide: a piece of 4 GiB is cut.
  while (piece.size() > kLongestPiece) {
    merge_long(piece.substr(0, kLongestPiece), ids);
    piece.remove_prefix(kLongestPiece);
  }
  if (piece.size() <= kShortPiece) {
    merge_short(piece, ids);
  } else {
    merge_long(piece, ids);
  }
}

void BpeTokenizer::merge_short(std::string_view piece, std::vector<int32_t>& ids) const {
  int32_t symbol[kShortPiece];
  MergeTable::Merge next[kShortPiece];  // merge of symbol[i] with symbol[i + 1]
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) symbol[i] = byte_ids_[static_cast<unsigned char>(piece[i])];
  for (size_t i = 0; i + 1 < count; ++i) next[i] = merges_.find(symbol[i], symbol[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (next[i].rank < next[best].rank) best = i;
    }
    if (next[best].rank == MergeTable::kNone) break;
    symbol[best] = next[best].id;
    std::copy(symbol + best + 2, symbol + count, symbol + best + 1);
    if (best + 2 < count) std::copy(next + best + 2, next + count - 1, next + best + 1);
    --count;
    if (best > 0) next[best - 1] = merges_.find(symbol[best - 1], symbol[best]);
    if (best + 1 < count) next[best] = merges_.find(symbol[best], symbol[best + 1]);
  }
  ids.insert(ids.end(), symbol, symbol + count);
}

void BpeTokenizer::merge_long(std::string_view piece, std::vector<int32_t>& ids) const {
  constexpr uint32_t kEnd = UINT32_MAX;
  struct Symbol {
    int32_t id;  // -1: merged into its left neighbour
    uint32_t previous, next;
  };
  uint32_t count = static_cast<uint32_t>(piece.size());
  std::vector<Symbol> symbols(count);
  MergeQueue queue;
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {byte_ids_[static_cast<unsigned char>(piece[i])], i == 0 ? kEnd : i - 1,
                  i + 1 == count ? kEnd : i + 1};
  }
  auto offer = [&](uint32_t left, uint32_t right) {
    auto merge = merges_.find(symbols[left].id, symbols[right].id);
    if (merge.rank != MergeTable::kNone) queue.push(merge.rank, left);
  };
  for (uint32_t i = 0; i + 1 < count; ++i) offer(i, i + 1);
  uint32_t rank, at;
  while (queue.pop(rank, at)) {
    Symbol& left = symbols[at];
    if (left.id < 0 || left.next == kEnd) continue;
    Symbol& right = symbols[left.next];
    auto merge = merges_.find(left.id, right.id);
    if (merge.rank != rank) continue;  // one of the two has been merged otherwise
    left.id = merge.id;
    right.id = -1;
    left.next = right.next;
    if (left.next != kEnd) symbols[left.next].previous = at;
    if (left.previous != kEnd) offer(left.previous, at);
    if (left.next != kEnd) offer(at, left.next);
  }
  for (uint32_t i = 0; i != kEnd; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace apud
