#include "engine/impl/token_chain.h"

#include <algorithm>

#include "engine/disk_cache.h"
#include "engine/impl/kv_file.h"
#include "kernels/program.h"

namespace apud {

TokenChain::TokenChain(std::string key) : key_(std::move(key)), chain_{kKvRoot} {}

const std::string& TokenChain::before(std::span<const int32_t> tokens, int block) {
  auto need = static_cast<size_t>(block) * kKvPageTokens;
  auto same = static_cast<size_t>(
      std::mismatch(tokens_.begin(), tokens_.end(), tokens.begin(), tokens.end()).first -
      tokens_.begin());
  size_t blocks = std::min(same / kKvPageTokens, chain_.size() - 1);
  chain_.resize(blocks + 1);
  tokens_.resize(blocks * kKvPageTokens);
  while (tokens_.size() < need) {
    auto next = tokens.subspan(tokens_.size(), kKvPageTokens);
    chain_.push_back(kv_chain_hash(key_, chain_.back(), next));
    tokens_.insert(tokens_.end(), next.begin(), next.end());
  }
  return chain_[static_cast<size_t>(block)];
}

std::span<const int32_t> block_tokens(std::span<const int32_t> tokens, int block) {
  auto from = static_cast<size_t>(block) * kKvPageTokens;
  return tokens.subspan(from, std::min<size_t>(kKvPageTokens, tokens.size() - from));
}

}  // namespace apud
