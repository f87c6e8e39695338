// Blocks of a prompt as hash chains: the name of everything before a block, kept for the last
// prompt so that look-ups of the same tokens hash each block once.
//
// Threads: one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace apud {

class TokenChain {
 public:
  /// key: what the tokens' KV depends on beside them.
  explicit TokenChain(std::string key);
  /// Chain hash of the tokens before `block`.
  const std::string& before(std::span<const int32_t> tokens, int block);
  const std::string& key() const { return key_; }

 private:
  std::string key_;
  std::vector<int32_t> tokens_;     // of whole blocks
  std::vector<std::string> chain_;  // hash before each of them, and after the last
};

/// Tokens of a block: 64, or what is left.
std::span<const int32_t> block_tokens(std::span<const int32_t> tokens, int block);

}  // namespace apud
