// After Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
// Understanding" (2018); pieces as in Schuster and Nakajima, "Japanese and Korean Voice Search"
// (2012).
#include "models/tokenizers/wordpiece.h"

#include <algorithm>

#include "base/error.h"
#include "base/hash.h"
#include "base/utf8.h"
#include "models/tokenizers/unicode.h"

namespace apud {
namespace {

/// The ideographs that BERT sets apart; narrower than is_cjk.
bool is_ideograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

/// BERT's clean-up: controls and ill-formed bytes (U+FFFD) dropped, white space made spaces.
std::string clean(std::string_view text, bool lowercase) {
  std::string out;
  out.reserve(text.size() + 16);
  for (size_t pos = 0; pos < text.size();) {
    Utf8Char c = utf8_decode(text, pos);
    pos += c.size;
    if (!c.valid || unicode::has(c.code, unicode::kControl)) continue;
    if (unicode::has(c.code, unicode::kSpace)) {
      out += ' ';
    } else if (is_ideograph(c.code)) {
      out += ' ';
      utf8_append(out, c.code);
      out += ' ';
    } else {
      utf8_append(out, c.code);
    }
  }
  if (!lowercase) return out;
  std::string plain;
  plain.reserve(out.size());
  std::string apart = unicode::nfd(out);
  for (size_t pos = 0; pos < apart.size();) {
    Utf8Char c = utf8_decode(apart, pos);
    pos += c.size;
    if (!unicode::has(c.code, unicode::kMark)) unicode::append_lower(plain, c.code);
  }
  return plain;
}

}  // namespace

WordPieceTokenizer::WordPieceTokenizer(WordPieceSource source)
    : TokenizerBase(std::move(source.roles), source.file),
      tokens_(std::move(source.tokens)),
      lowercase_(source.lowercase),
      max_word_(source.max_word) {
  Sha256 hash;
  hash.update("wordpiece\n");
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (!tokens_[i].empty()) ids_.try_emplace(tokens_[i], static_cast<int32_t>(i));
    longest_ = std::max(longest_, tokens_[i].size());
    hash.update(tokens_[i]);
    hash.update("\n");
  }
  auto unknown = ids_.find("[UNK]");
  if (unknown == ids_.end() || !ids_.count("[CLS]") || !ids_.count("[SEP]")) {
    throw Error(
        ErrorKind::kBadData,
        source.file + ": the vocabulary lacks one of [UNK], [CLS], [SEP], which BERT needs");
  }
  unknown_ = unknown->second;
  hash.update(lowercase_ ? "lower" : "cased");
  fingerprint_ = hash.finish_hex();
}

void WordPieceTokenizer::encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
  std::string words = clean(text, lowercase_);
  for (size_t pos = 0; pos < words.size();) {
    size_t begin = pos;
    while (pos < words.size()) {
      Utf8Char c = utf8_decode(words, pos);
      bool space = unicode::has(c.code, unicode::kSpace);
      bool punctuation = !space && unicode::has(c.code, unicode::kPunctuation);
      if (!space && !punctuation) {
        pos += c.size;
        continue;
      }
      if (pos > begin) break;
      pos += c.size;
      if (space) {
        begin = pos;
      } else {
        break;
      }
    }
    if (pos > begin) encode_word(std::string_view(words).substr(begin, pos - begin), ids);
  }
}

void WordPieceTokenizer::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  size_t codes = 0;
  for (size_t pos = 0; pos < word.size() && codes <= max_word_; pos += utf8_decode(word, pos).size)
    ++codes;
  if (codes > max_word_) {
    ids.push_back(unknown_);
    return;
  }
  size_t first = ids.size();
  std::string piece;
  for (size_t begin = 0; begin < word.size();) {
    size_t end = std::min(word.size(), begin + longest_);
    while (end > begin) {
      if (end < word.size() && (word[end] & 0xC0) == 0x80) {  // inside a code point
        --end;
        continue;
      }
      piece.assign(begin > 0 ? "##" : "");
      piece.append(word.substr(begin, end - begin));
      auto found = ids_.find(piece);
      // Content cannot spell a control token: their brackets are punctuation, split off before.
      if (found != ids_.end() && !is_control(found->second)) {
        ids.push_back(found->second);
        break;
      }
      --end;
    }
    if (end == begin) {  // no piece fits: the whole word is unknown
      ids.resize(first);
      ids.push_back(unknown_);
      return;
    }
    begin = end;
  }
}

std::string WordPieceTokenizer::decode_token(int32_t id, bool special) const {
  if (id < 0 || static_cast<size_t>(id) >= tokens_.size()) return {};
  if (!special && is_control(id)) return {};
  const std::string& token = tokens_[id];
  return token.starts_with("##") ? token.substr(2) : " " + token;
}

std::string WordPieceTokenizer::decode(std::span<const int32_t> ids, bool special) const {
  std::string text = TokenizerBase::decode(ids, special);
  if (text.starts_with(' ')) text.erase(0, 1);
  return text;
}

}  // namespace apud
