// Constrained decoding of citations: a mark [n] can only name a passage of the prompt.
//
// For what the answer says so far it gives the tokens that may follow. Only tokens that would
// finish or continue a mark with an id that no passage has are ruled out, and marks before the
// first word (a small model may answer "[1]" and no more: a citation of nothing); inside code
// (between backticks) brackets are indexes and nothing is ruled out.
//
// Threads: one object per answer, one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace apud {

class CitationMask {
 public:
  /// `vocabulary`: the bytes of every token, "" for control tokens. `ids`: of the prompt's
  /// passages.
  CitationMask(std::vector<std::string> vocabulary, std::vector<int> ids);

  /// Bits as SamplingRow::allowed takes them, valid as long as the object; empty: every token may
  /// follow. `answer` is the text so far.
  std::span<const uint64_t> allowed(std::string_view answer);

  /// Could `text`, from an opening bracket on, still become marks of known ids only?
  bool possible(std::string_view text) const;

 private:
  bool known(int64_t id) const;
  bool prefix_of_known(std::string_view digits) const;

  std::vector<std::string> vocabulary_;
  std::vector<int> ids_;           // ascending
  std::vector<int32_t> suspects_;  // tokens that hold a bracket or begin with what a mark may hold
  std::vector<uint64_t> first_;    // mask before the first word
  std::map<std::string, std::vector<uint64_t>, std::less<>> masks_;  // by open mark
};

}  // namespace apud
