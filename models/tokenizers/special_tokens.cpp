#include "models/tokenizers/special_tokens.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/utf8.h"
#include "models/tokenizers/unicode.h"

namespace apud {

void OriginText::append(const OriginText& other) {
  text_.append(other.text_);
  scaffold_.insert(scaffold_.end(), other.scaffold_.begin(), other.scaffold_.end());
}

bool OriginText::scaffold(size_t begin, size_t end) const {
  return std::find(scaffold_.begin() + begin, scaffold_.begin() + end, 0) ==
         scaffold_.begin() + end;
}

OriginText OriginText::substr(size_t begin, size_t end) const {
  OriginText part;
  part.text_ = text_.substr(begin, end - begin);
  part.scaffold_.assign(scaffold_.begin() + begin, scaffold_.begin() + end);
  return part;
}

void finish_stop_tokens(TokenRoles& roles) {
  // End-of-turn tokens of the families in models/catalog.toml and their relatives.
  static constexpr std::array<std::string_view, 10> kEndOfTurn = {
      "<|im_end|>",      "<|eot_id|>",    "<|eom_id|>", "<|end|>",  "<end_of_turn>",
      "<|end_of_text|>", "<|endoftext|>", "<|return|>", "<|call|>", "<turn|>"};
  if (roles.eos) roles.stop.push_back(*roles.eos);
  for (const AddedToken& token : roles.added) {
    if (std::find(kEndOfTurn.begin(), kEndOfTurn.end(), token.text) != kEndOfTurn.end()) {
      roles.stop.push_back(token.id);
    }
  }
  std::sort(roles.stop.begin(), roles.stop.end());
  roles.stop.erase(std::unique(roles.stop.begin(), roles.stop.end()), roles.stop.end());
}

SpecialMatcher::SpecialMatcher(const std::vector<AddedToken>& added, const std::string& file)
    : lengths_(256) {
  for (const AddedToken& token : added) {
    if (token.text.empty()) continue;
    if (token.text.size() > kMaxText) {
      throw Error(ErrorKind::kBadData, file + ": special token " + std::to_string(token.id) +
                                           " has " + std::to_string(token.text.size()) +
                                           " bytes, expected at most " + std::to_string(kMaxText));
    }
    if (!tokens_.emplace(token.text, token).second) continue;
    auto& lengths = lengths_[static_cast<unsigned char>(token.text[0])];
    if (std::find(lengths.begin(), lengths.end(), token.text.size()) == lengths.end()) {
      lengths.push_back(token.text.size());
    }
  }
  for (auto& lengths : lengths_) std::sort(lengths.rbegin(), lengths.rend());
}

std::optional<int32_t> SpecialMatcher::find(std::string_view text) const {
  auto found = tokens_.find(text);
  if (found == tokens_.end()) return std::nullopt;
  return found->second.id;
}

std::optional<SpecialMatcher::Match> SpecialMatcher::next(const OriginText& text,
                                                          size_t pos) const {
  if (tokens_.empty()) return std::nullopt;
  std::string_view bytes = text.text();
  size_t run_end = pos;  // end of the scaffold run that holds `at`
  for (size_t at = pos; at < bytes.size(); ++at) {
    if (!text.scaffold_at(at)) continue;
    const auto& lengths = lengths_[static_cast<unsigned char>(bytes[at])];
    if (lengths.empty()) continue;
    if (run_end <= at) {
      run_end = at;
      while (run_end < bytes.size() && text.scaffold_at(run_end)) ++run_end;
    }
    for (size_t length : lengths) {
      if (length > run_end - at) continue;
      auto found = tokens_.find(bytes.substr(at, length));
      if (found == tokens_.end()) continue;
      Match match{at, at + length, at, at + length, found->second.id};
      auto is_space = [&](size_t i) {
        Utf8Char c = utf8_decode(bytes, i);
        return c.valid && unicode::has(c.code, unicode::kSpace) && text.scaffold(i, i + c.size);
      };
      if (found->second.strip_right) {
        while (match.to < bytes.size() && is_space(match.to)) {
          match.to += utf8_decode(bytes, match.to).size;
        }
      }
      if (found->second.strip_left) {
        while (match.from > pos) {
          size_t back = match.from - 1;
          while (back > pos && (bytes[back] & 0xC0) == 0x80) --back;
          if (!is_space(back) || back + utf8_decode(bytes, back).size != match.from) break;
          match.from = back;
        }
      }
      return match;
    }
  }
  return std::nullopt;
}

TokenizerBase::TokenizerBase(TokenRoles roles, const std::string& file)
    : roles_(std::move(roles)), matcher_(roles_.added, file) {}

std::vector<int32_t> TokenizerBase::encode(std::string_view content) const {
  std::vector<int32_t> ids;
  if (!content.empty()) encode_plain(content, ids);
  return ids;
}

std::vector<int32_t> TokenizerBase::encode(const OriginText& text) const {
  std::vector<int32_t> ids;
  std::string_view bytes = text.text();
  size_t pos = 0;
  while (auto match = matcher_.next(text, pos)) {
    if (match->from > pos) encode_plain(bytes.substr(pos, match->from - pos), ids);
    ids.push_back(match->id);
    pos = match->to;
  }
  if (pos < bytes.size()) encode_plain(bytes.substr(pos), ids);
  return ids;
}

std::string TokenizerBase::decode(std::span<const int32_t> ids, bool special) const {
  std::string out;
  for (int32_t id : ids) out += decode_token(id, special);
  return out;
}

bool TokenizerBase::is_control(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < roles_.control.size() && roles_.control[id] != 0;
}

std::optional<int32_t> TokenizerBase::find_special(std::string_view text) const {
  return matcher_.find(text);
}

}  // namespace apud
