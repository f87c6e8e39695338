// Field numbers are those of sentencepiece_model.proto; the trie's layout is darts-clone's.
#include "models/tokenizers/sentencepiece_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "models/tokenizers/text_table.h"

namespace apud {
namespace {

constexpr size_t kMaxPiece = 65536;
constexpr size_t kMaxPieces = 1u << 22;

/// Reads one message's fields; every length is checked against the bytes left.
class Wire {
 public:
  Wire(std::string_view bytes, size_t base, const std::string& file)
      : bytes_(bytes), base_(base), file_(file) {}

  /// Advances to the next field; false at the end.
  bool next() {
    if (at_ == bytes_.size()) return false;
    uint64_t tag = varint();
    field_ = tag >> 3;
    type_ = tag & 7;
    if (field_ == 0) fail("field number 0");
    switch (type_) {
      case 0:
        number_ = varint();
        break;
      case 1:
        data_ = take(8);
        break;
      case 2:
        data_ = take(varint());
        break;
      case 5:
        data_ = take(4);
        break;
      default:
        fail("unknown wire type " + std::to_string(type_));
    }
    return true;
  }
  uint64_t field() const { return field_; }
  uint64_t number() const {
    if (type_ != 0) fail("expected a number");
    return number_;
  }
  std::string_view data() const {
    if (type_ != 2) fail("expected bytes");
    return data_;
  }
  float real() const {
    if (type_ != 5) fail("expected a 32-bit float");
    float value;
    std::memcpy(&value, data_.data(), 4);
    return value;
  }
  size_t data_base() const { return base_ + static_cast<size_t>(data_.data() - bytes_.data()); }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::kBadData, file_ + ": byte " + std::to_string(base_ + at_) + ": " + what);
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      if (at_ == bytes_.size()) fail("number cut off");
      uint8_t byte = static_cast<uint8_t>(bytes_[at_++]);
      if (shift == 63 && byte > 1) fail("number of more than 64 bits");
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  }
  std::string_view take(uint64_t size) {
    if (size > bytes_.size() - at_) fail("length " + std::to_string(size) + " passes the end");
    std::string_view part = bytes_.substr(at_, size);
    at_ += size;
    return part;
  }

  std::string_view bytes_;
  size_t base_;
  const std::string& file_;
  size_t at_ = 0;
  uint64_t field_ = 0, number_ = 0;
  int type_ = 0;
  std::string_view data_;
};

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
void put_number(std::string& out, int field, uint64_t value) {
  put_varint(out, static_cast<uint64_t>(field) << 3);
  put_varint(out, value);
}
void put_bytes(std::string& out, int field, std::string_view value) {
  put_varint(out, static_cast<uint64_t>(field) << 3 | 2);
  put_varint(out, value.size());
  out += value;
}

/// darts-clone: a unit is a node (label in the low byte, offset to its children) or a value.
class CharsmapCheck {
 public:
  CharsmapCheck(std::string_view blob, const std::string& file) : file_(file) {
    uint32_t size;
    if (blob.size() < 5) fail("shorter than its header");
    std::memcpy(&size, blob.data(), 4);
    if (size % 4 != 0 || size == 0 || size > blob.size() - 4)
      fail("trie size " + std::to_string(size));
    units_.resize(size / 4);
    std::memcpy(units_.data(), blob.data() + 4, size);
    values_ = blob.substr(4 + size);
    if (values_.empty() || values_.back() != '\0') fail("replacements do not end with a zero byte");
  }

  void run() {
    if (units_[0] >> 31) fail("the root is a value");
    for (size_t i = 0; i < units_.size(); ++i) {
      if (units_[i] >> 31) continue;  // a value, or never reached: its label matches no byte
      size_t children = i ^ offset(i);
      if ((children | 0xFF) >= units_.size()) fail("unit " + std::to_string(i) + " points outside");
      if (has_leaf(i) && (units_[children] & 0x7FFFFFFF) >= values_.size()) {
        fail("unit " + std::to_string(i) + " names a replacement outside");
      }
    }
    check_depth();
  }

 private:
  size_t offset(size_t i) const {
    return static_cast<size_t>(units_[i] >> 10) << ((units_[i] & (1u << 9)) >> 6);
  }
  bool has_leaf(size_t i) const { return (units_[i] >> 8 & 1) != 0; }

  /// The library keeps at most 32 matches at one place. Nodes may be shared, so the longest chain
  /// of matches below each is computed once; a cycle is refused.
  void check_depth() {
    constexpr int kMaxMatches = 31;
    enum : int8_t { kFresh = -1, kOpen = -2 };
    std::vector<int8_t> chain(units_.size(), kFresh);
    struct Frame {
      size_t node;
      int label;
      int best;
    };
    std::vector<Frame> stack{{0, 1, 0}};
    chain[0] = kOpen;
    while (!stack.empty()) {
      Frame& frame = stack.back();
      size_t children = frame.node ^ offset(frame.node);
      bool descended = false;
      for (; frame.label < 256; ++frame.label) {
        size_t child = children ^ static_cast<size_t>(frame.label);
        if ((units_[child] & 0x800000FFu) != static_cast<uint32_t>(frame.label)) continue;
        if (chain[child] == kOpen) fail("the trie has a cycle");
        if (chain[child] == kFresh) {
          chain[child] = kOpen;
          stack.push_back({child, 1, 0});
          descended = true;
          break;
        }
        frame.best = std::max<int>(frame.best, chain[child]);
      }
      if (descended) continue;
      int total = frame.best + (has_leaf(frame.node) ? 1 : 0);
      if (total > kMaxMatches) fail("more than 31 rules begin alike");
      chain[frame.node] = static_cast<int8_t>(total);
      stack.pop_back();
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::kBadData, file_ + ": normalizer_spec.precompiled_charsmap: " + what);
  }

  const std::string& file_;
  std::vector<uint32_t> units_;
  std::string_view values_;
};

/// The library keeps at most 64 user-defined pieces that begin alike.
void check_nesting(const SentencePieceModel& model, const std::string& file) {
  std::vector<std::string_view> user;
  for (const auto& piece : model.pieces) {
    if (piece.kind == TokenKind::kUserDefined) user.push_back(piece.text);
  }
  std::sort(user.begin(), user.end());
  std::vector<std::string_view> open;
  for (std::string_view text : user) {
    while (!open.empty() && !text.starts_with(open.back())) open.pop_back();
    open.push_back(text);
    if (open.size() > 63) {
      throw Error(ErrorKind::kBadData, file + ": more than 63 user-defined pieces begin alike");
    }
  }
}

}  // namespace

int byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (char c : piece.substr(3, 2)) {
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                       : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& file) {
  SentencePieceModel model;
  Wire proto(bytes, 0, file);
  while (proto.next()) {
    if (proto.field() == 1) {
      if (model.pieces.size() >= kMaxPieces) proto.fail("more than 4194304 pieces");
      SentencePieceModel::Piece piece;
      Wire part(proto.data(), proto.data_base(), file);
      while (part.next()) {
        if (part.field() == 1) {
          if (part.data().size() > kMaxPiece) part.fail("piece of more than 64 KiB");
          piece.text = part.data();
        } else if (part.field() == 2) {
          piece.score = part.real();
        } else if (part.field() == 3) {
          if (part.number() < 1 || part.number() > 6)
            part.fail("piece of unknown type " + std::to_string(part.number()));
          piece.kind = static_cast<TokenKind>(part.number());
        }
      }
      model.pieces.push_back(std::move(piece));
    } else if (proto.field() == 2) {
      Wire part(proto.data(), proto.data_base(), file);
      while (part.next()) {
        if (part.field() == 3) {
          model.algorithm = static_cast<int>(std::min<uint64_t>(part.number(), 100));
          if (model.algorithm != SentencePieceModel::kUnigram &&
              model.algorithm != SentencePieceModel::kBpe) {
            part.fail("model type " + std::to_string(part.number()) +
                      ", expected 1 (unigram) or 2 (BPE)");
          }
        } else if (part.field() == 24 && part.number() != 0) {
          part.fail("white space as suffix is not supported");
        } else if (part.field() == 35) {
          model.byte_fallback = part.number() != 0;
        }
      }
    } else if (proto.field() == 3) {
      Wire part(proto.data(), proto.data_base(), file);
      while (part.next()) {
        if (part.field() == 2) {
          model.charsmap = part.data();
        } else if (part.field() == 3) {
          model.add_dummy_prefix = part.number() != 0;
        } else if (part.field() == 4) {
          model.remove_extra_whitespaces = part.number() != 0;
        } else if (part.field() == 5) {
          model.escape_whitespaces = part.number() != 0;
        }
      }
    }
  }
  return model;
}

void check_sentencepiece_model(SentencePieceModel& model, const std::string& file) {
  auto bad = [&](size_t i, const std::string& what) {
    return Error(ErrorKind::kBadData, file + ": piece " + std::to_string(i) + ": " + what);
  };
  if (model.pieces.empty()) throw Error(ErrorKind::kBadData, file + ": no pieces");
  TextTable seen(model.pieces.size());
  size_t unknown = 0, bytes = 0;
  std::array<bool, 256> has_byte{};
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    auto& piece = model.pieces[i];
    if (piece.text.size() > kMaxPiece) throw bad(i, "more than 64 KiB");
    if (!std::isfinite(piece.score)) throw bad(i, "score is not finite");
    if (piece.kind == TokenKind::kUnknown && ++unknown > 1) throw bad(i, "second unknown piece");
    if (piece.kind == TokenKind::kByte) {
      int byte = byte_of_piece(piece.text);
      if (byte < 0) {
        throw bad(i, "byte piece '" + piece.text.substr(0, 20) + "', expected <0x00> to <0xFF>");
      }
      // By value: <0xAB> and <0xab> are one byte.
      if (has_byte[byte]) throw bad(i, "repeated byte piece");
      has_byte[byte] = true;
      ++bytes;
    }
    // The library refuses these; as unused pieces under a name of their own they keep their place.
    bool zero = piece.text.find('\0') != std::string::npos;
    if (piece.text.empty() || zero || !seen.insert(piece.text, 0)) {
      piece.text = "\x01piece " + std::to_string(i);
      if (piece.kind != TokenKind::kUnknown) piece.kind = TokenKind::kUnused;
      seen.insert(piece.text, 0);
    }
  }
  if (unknown == 0) throw Error(ErrorKind::kBadData, file + ": no unknown piece");
  if (model.byte_fallback && bytes != 256) {
    throw Error(ErrorKind::kBadData,
                file + ": " + std::to_string(bytes) + " byte pieces, expected 256");
  }
  check_nesting(model, file);
  if (!model.charsmap.empty()) CharsmapCheck(model.charsmap, file).run();
}

std::string serialize_sentencepiece_model(const SentencePieceModel& model) {
  std::string out, part;
  size_t unknown = 0;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    part.clear();
    put_bytes(part, 1, piece.text);
    put_varint(part, 2 << 3 | 5);
    part.append(reinterpret_cast<const char*>(&piece.score), 4);
    put_number(part, 3, static_cast<uint64_t>(piece.kind));
    put_bytes(out, 1, part);
    if (piece.kind == TokenKind::kUnknown) unknown = i;
  }
  part.clear();
  put_number(part, 3, static_cast<uint64_t>(model.algorithm));
  put_number(part, 35, model.byte_fallback);
  put_number(part, 40, unknown);
  put_bytes(part, 45, model.pieces[unknown].text);
  put_bytes(out, 2, part);
  part.clear();
  put_bytes(part, 1, model.charsmap.empty() ? "identity" : "given");
  put_bytes(part, 2, model.charsmap);
  put_number(part, 3, model.add_dummy_prefix);
  put_number(part, 4, model.remove_extra_whitespaces);
  put_number(part, 5, model.escape_whitespaces);
  put_bytes(out, 3, part);
  return out;
}

}  // namespace apud
